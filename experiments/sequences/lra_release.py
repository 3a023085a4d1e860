"""The published files of Long Range Arena (arXiv 2011.04006), for who has them: nothing is fetched.

They go into the folder ``lra_release`` of the cache folder, under the names that the release and its sources
give them. Labels, splits and the lengths that texts are cut to are those of the release, apart from two
splits that it leaves open: validation of the reviews is a tenth of their training, by a fixed shuffle, and so
are the tenths of the images of Pathfinder.
"""

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.errors import ExperimentError
from experiments.sequences.base import Rows, SequenceData, Sizes, cut_all, gather, same_length
from experiments.sequences.listops import TOKENS
from experiments.sequences.passages import SEPARATOR
from experiments.sequences.topics import from_texts

FOLDER = "lra_release"
TEXT_BYTES = 4_096
PAPER_BYTES = 4_000
"""Of each of the two papers."""
GREY = np.array([0.2989, 0.587, 0.114])
"""Weights of red, green and blue."""


def _found(cache: Path, name: str, contents: str) -> Path:
    path = cache / FOLDER / name
    if not path.exists():
        raise ExperimentError(f"{path} is not there: put {contents} of the release into {path.parent}")
    return path


def lra_listops(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """ListOps from ``listops-1000/basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``."""
    splits = []
    number = {token: index for index, token in enumerate(TOKENS)}
    for part in ("train", "val", "test"):
        path = _found(cache, f"listops-1000/basic_{part}.tsv", "the ListOps tables")
        lines = path.read_text(encoding="ascii").splitlines()[1:]
        pairs = [line.split("\t") for line in lines]
        try:
            rows = [
                np.array([number[word] for word in source.split() if word not in "()"], np.uint8)
                for source, _ in pairs
            ]
            splits.append(gather(rows, [int(target) for _, target in pairs], np.uint8))
        except (KeyError, ValueError) as error:
            raise ExperimentError(f"{path} is no table of expressions and values: {error}") from error
    return SequenceData(*cut_all(splits, sizes), len(TOKENS), tuple("0123456789"))


def lra_text(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """Reviews of films as bytes from the folder ``aclImdb``: good or bad?"""
    parts = {}
    for part in ("train", "test"):
        pairs = []
        for name in ("neg", "pos"):
            folder = _found(cache, f"aclImdb/{part}/{name}", "the reviews of IMDB (aclImdb)")
            pairs += [(name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]
        parts[part] = pairs
    return from_texts(parts["train"], parts["test"], TEXT_BYTES, sizes)


def lra_retrieval(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """Pairs of papers as bytes, a separator between them, from ``tsv_data/new_aan_pairs.*.tsv``."""
    splits = []
    for part in ("train", "eval", "test"):
        path = _found(cache, f"tsv_data/new_aan_pairs.{part}.tsv", "the pairs of papers (AAN)")
        rows = []
        labels = []
        for line in path.read_bytes().splitlines():
            fields = line.split(b"\t")
            if len(fields) != 5:
                raise ExperimentError(f"{path} has a line without its five columns")
            first, second = (
                np.frombuffer(text[:PAPER_BYTES], np.uint8).astype(np.int32) for text in fields[3:]
            )
            rows.append(np.concatenate([first, [SEPARATOR], second]))
            labels.append(int(float(fields[0])))
        splits.append(gather(rows, labels, np.int32))
    return SequenceData(*cut_all(splits, sizes), SEPARATOR + 1, ("no citation", "citation"))


class _Arrays(pickle.Unpickler):
    """Reads arrays and plain values, and nothing else that a pickle could hold."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The few names that arrays are rebuilt with."""
        if (module_name, global_name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, global_name)
        if (module_name, global_name) == ("_codecs", "encode"):
            return codecs.encode
        if module_name.endswith("core.multiarray") and global_name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in a batch of images")


def _images(path: Path) -> Rows:
    try:
        batch = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        colours = np.asarray(batch[b"data"]).reshape(-1, 3, 1024)
        labels = np.asarray(batch[b"labels"])
    except (OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ExperimentError(f"{path} is no batch of CIFAR-10: {error}") from error
    grey = np.einsum("ncp,c->np", colours, GREY)
    return same_length(np.rint(grey).astype(np.uint8), labels)


def lra_image(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """CIFAR-10 as grey images from ``cifar-10-batches-py``; the last tenth of training is validation."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    *training, test = (
        _images(_found(cache, f"cifar-10-batches-py/{name}", "CIFAR-10 for Python (cifar-10-batches-py)"))
        for name in names
    )
    pixels = np.concatenate([rows.ids.reshape(-1, 1024) for rows in training])
    labels = np.concatenate([rows.labels for rows in training])
    kept = len(pixels) * 9 // 10
    splits = (same_length(pixels[:kept], labels[:kept]), same_length(pixels[kept:], labels[kept:]), test)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return SequenceData(*cut_all(splits, sizes), 256, classes, (32, 32))


def lra_pathfinder32(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """Pathfinder from ``pathfinder32/curv_contour_length_14``: eight tenths, one and one."""
    name = "pathfinder32/curv_contour_length_14"
    folder = _found(cache, f"{name}/metadata", "the images of Pathfinder").parent
    images = []
    labels = []
    # Lines of text in spite of the suffix: folder, file, number and label come first.
    for path in sorted((folder / "metadata").glob("*.npy")):
        for line in path.read_text(encoding="ascii").splitlines():
            place, file, _, label, *_ = line.split(" ")
            with Image.open(folder / place / file) as image:
                images.append(np.asarray(image.convert("L")).reshape(-1))
            labels.append(int(label))
    pixels = np.array(images)
    order = np.random.default_rng(0).permutation(len(pixels))
    tenth = len(pixels) // 10
    parts = np.split(order, [len(pixels) - 2 * tenth, len(pixels) - tenth])
    splits = [same_length(pixels[part], np.array(labels)[part]) for part in parts]
    names = ("ends of two paths", "ends of one path")
    return SequenceData(*cut_all(splits, sizes), 256, names, (32, 32))
