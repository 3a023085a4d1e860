"""Labelled sequences for classification, generated or from packages, after the tasks of Long Range Arena.

A data set is a file here and an entry of the table. The file's docstring says how it differs from a published
set of the same kind.
"""

from functools import partial

from experiments.sequences.base import Builder
from experiments.sequences.fashion import fashion_mnist
from experiments.sequences.listops import listops
from experiments.sequences.passages import retrieval
from experiments.sequences.topics import topics

SEQUENCES: dict[str, Builder] = {
    "listops": listops,
    "listops40": partial(listops, shortest=5, longest=40),
    "listops120": partial(listops, shortest=40, longest=120),
    "listops500": partial(listops, shortest=120, longest=500),
    "fashion_mnist": fashion_mnist,
    "reuters8": partial(topics, name="reuters-r8", longest=2_048),
    "reuters8_256": partial(topics, name="reuters-r8", longest=256),
    "newsgroups": partial(topics, name="20newsgroups", longest=4_096),
    "newsgroups1024": partial(topics, name="20newsgroups", longest=1_024),
    "shakespeare_pairs": retrieval,
    "shakespeare_pairs_256": partial(retrieval, length=256),
}
"""Name to a function of the cache folder and the sizes."""
