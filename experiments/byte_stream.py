"""Documents as one stream of bytes: batches, windows, and the loss of a model on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.corpora import Document
from experiments.training import IGNORED, Batch, to_device_of
from fftnet.model.fftnet_model import FFTNet

EOT = 256
"""Id of the end-of-text token, behind every document and before the first."""
VOCABULARY = 257


@dataclass(frozen=True)
class ByteStream:
    """Documents joined by EOT."""

    ids: np.ndarray
    """EOT, then each document and EOT, uint16."""
    raw_bytes: int
    """Number of bytes of the documents alone."""


def join(texts: Sequence[Document]) -> ByteStream:
    """Join documents to a stream."""
    # The first end-of-text token lets the first byte be predicted, too.
    parts = [np.array([EOT], dtype=np.uint16)]
    for text in texts:
        parts += [np.frombuffer(text.text, dtype=np.uint8).astype(np.uint16), parts[0]]
    return ByteStream(np.concatenate(parts), sum(len(text.text) for text in texts))


def draw(stream: ByteStream, generator: np.random.Generator, rows: int, window: int) -> Batch:
    """Draw windows that start anywhere.

    Args:
        stream: more than ``window`` ids.
        generator: source of the starts.
        rows: B.
        window: T.

    Returns:
        Ids int64 (B, T), and the ids that follow each of them.
    """
    # Windows cross the ends of documents, which the model sees as end-of-text tokens.
    start_B1 = generator.integers(0, len(stream.ids) - window, (rows, 1))
    ids = stream.ids[start_B1 + np.arange(window + 1)].astype(np.int64)
    return torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1:])


def windows(stream: ByteStream, window: int) -> Batch:
    """Cut the whole stream into consecutive windows; every id but the first is a target once.

    Returns:
        Ids int64 (N, T), and targets, ``IGNORED`` behind the end.
    """
    count = math.ceil((len(stream.ids) - 1) / window)
    # The last window is padded; its targets behind the end are ignored.
    ids = np.full(count * window + 1, EOT, dtype=np.int64)
    targets = np.full(count * window, IGNORED, dtype=np.int64)
    ids[: len(stream.ids)] = stream.ids
    targets[: len(stream.ids) - 1] = stream.ids[1:]
    return torch.from_numpy(ids[:-1].reshape(count, window)), torch.from_numpy(targets.reshape(count, window))


@torch.no_grad()
def total_nats(model: nn.Module, batch: Batch, tokens: int) -> float:
    """Return the summed loss of all targets in nats, each window read from an empty state.

    Args:
        model: maps ids (B, T) to logits (B, T, V).
        batch: windows of ``windows``.
        tokens: tokens of a forward pass, in whole windows.
    """
    total = 0.0
    # At least one window, even if it is longer than the limit.
    rows = max(tokens // batch[0].shape[1], 1)
    for inputs_BT, targets_BT in zip(*(part.split(rows) for part in batch), strict=True):
        inputs_BT, targets_BT = to_device_of(model, (inputs_BT, targets_BT))
        logits_BTV = model(inputs_BT)
        total += F.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
    return total


@torch.no_grad()
def nats(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the loss of every target (B, T) in nats, read from an empty state."""
    inputs_BT, targets_BT = to_device_of(model, (inputs_BT, targets_BT))
    return _nats(model(inputs_BT), targets_BT)


@torch.no_grad()
def nats_with_state(model: FFTNet, inputs_BT: Tensor, targets_BT: Tensor, chunk: int) -> Tensor:
    """Return the loss of every target (B, T) in nats, with the state carried over the whole row.

    Args:
        model: causal language model.
        inputs_BT: ids of any length.
        targets_BT: the same shape.
        chunk: tokens of a forward pass.
    """
    inputs_BT, targets_BT = to_device_of(model, (inputs_BT, targets_BT))
    state = None
    found = []
    for inputs, targets in zip(inputs_BT.split(chunk, dim=1), targets_BT.split(chunk, dim=1), strict=True):
        logits, state = model.prefill(inputs, state)
        found.append(_nats(logits, targets))
    return torch.cat(found, dim=1)


def _nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
