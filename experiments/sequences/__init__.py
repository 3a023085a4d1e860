"""Labelled sequences for classification, generated or from packages, after the tasks of Long Range Arena.

A data set is a file here and an entry of the table. The file's docstring says how it differs from a published
set of the same kind.
"""

from functools import partial

from experiments.sequences.base import Builder
from experiments.sequences.fashion import fashion_mnist
from experiments.sequences.listops import listops, shorter_listops
from experiments.sequences.passages import retrieval
from experiments.sequences.topics import newsgroups, reuters8

SEQUENCES: dict[str, Builder] = {
    "listops": listops,
    "listops40": partial(shorter_listops, shortest=5, longest=40),
    "listops120": partial(shorter_listops, shortest=40, longest=120),
    "listops500": partial(shorter_listops, shortest=120, longest=500),
    "fashion_mnist": fashion_mnist,
    "reuters8": reuters8,
    "reuters8_256": partial(reuters8, longest=256),
    "newsgroups": newsgroups,
    "newsgroups1024": partial(newsgroups, longest=1024),
    "shakespeare_pairs": retrieval,
    "shakespeare_pairs_256": partial(retrieval, length=256),
}
"""Name to a function of the cache folder and the sizes."""
