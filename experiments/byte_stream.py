"""Documents as one stream of bytes, windows of it, and the loss of a model that reads it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.corpora import Document
from experiments.training import IGNORED, Batch, beside

EOT = 256
"""The id behind every document, and before the first."""
VOCABULARY = 257


@dataclass(frozen=True)
class ByteStream:
    """Documents joined by EOT."""

    ids: np.ndarray
    """uint16, EOT, then each document and EOT."""
    raw_bytes: int
    """Bytes of the documents alone."""


def join(texts: Sequence[Document]) -> ByteStream:
    """The stream of these documents."""
    parts = [np.array([EOT], dtype=np.uint16)]
    for text in texts:
        parts += [np.frombuffer(text.text, dtype=np.uint8).astype(np.uint16), parts[0]]
    return ByteStream(np.concatenate(parts), sum(len(text.text) for text in texts))


def draw(stream: ByteStream, generator: np.random.Generator, rows: int, window: int) -> Batch:
    """Windows from anywhere.

    Args:
        stream: of more than ``window`` ids.
        generator: draws where they begin.
        rows: B.
        window: T.

    Returns:
        Ids int64 (B, T), and the ids that follow each of them.
    """
    start_B1 = generator.integers(0, len(stream.ids) - window, (rows, 1))
    ids = stream.ids[start_B1 + np.arange(window + 1)].astype(np.int64)
    return torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])


def windows(stream: ByteStream, window: int) -> Batch:
    """All of the stream, cut into windows one behind the other; every id but the first is a target once.

    Returns:
        Ids int64 (N, T), and targets, ``IGNORED`` behind the end.
    """
    count = math.ceil((len(stream.ids) - 1) / window)
    ids = np.full(count * window + 1, EOT, dtype=np.int64)
    targets = np.full(count * window, IGNORED, dtype=np.int64)
    ids[: len(stream.ids)] = stream.ids
    targets[: len(stream.ids) - 1] = stream.ids[1:]
    return torch.from_numpy(ids[:-1].reshape(count, window)), torch.from_numpy(targets.reshape(count, window))


@torch.no_grad()
def total_nats(model: nn.Module, batch: Batch, tokens: int) -> float:
    """Summed loss of all targets in nats, each window read from an empty state.

    Args:
        model: ids (B, T) to logits (B, T, V).
        batch: from ``windows``.
        tokens: how many are read at once, in whole windows.
    """
    total = 0.0
    rows = max(tokens // batch[0].shape[1], 1)
    for inputs_BT, targets_BT in zip(*(part.split(rows) for part in batch), strict=True):
        inputs_BT, targets_BT = beside(model, (inputs_BT, targets_BT))
        logits_BTV = model(inputs_BT)
        total += F.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
    return total


@torch.no_grad()
def nats(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Loss of every target (B, T) in nats, read from an empty state."""
    inputs_BT, targets_BT = beside(model, (inputs_BT, targets_BT))
    return _nats(model(inputs_BT), targets_BT)


@torch.no_grad()
def nats_with_state(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, chunk: int) -> Tensor:
    """Loss of every target (B, T) in nats, the whole rows read with the state carried.

    Args:
        model: with ``init_state``.
        inputs_BT: ids of any length.
        targets_BT: the same shape.
        chunk: tokens that are read at once.
    """
    inputs_BT, targets_BT = beside(model, (inputs_BT, targets_BT))
    state = model.init_state(len(inputs_BT))  # pyright: ignore[reportCallIssue]
    found = []
    for inputs, targets in zip(inputs_BT.split(chunk, dim=1), targets_BT.split(chunk, dim=1), strict=True):
        logits, state = model(inputs, state)
        found.append(_nats(logits, targets))
    return torch.cat(found, dim=1)


def _nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
