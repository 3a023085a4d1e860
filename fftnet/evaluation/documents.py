"""A language model on whole documents of any length: the state is carried, losses are told by position."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fftnet.metrics.averages import MAX_EXPONENT, average, evaluation_mode
from fftnet.model.fftnet_model import FFTNet
from fftnet.tasks.text import token_losses

MAX_LOGITS = 2**26
"""Logits that are held at once."""
MAX_CHUNK = 4096
BUCKETS = 64


@dataclass(frozen=True)
class PositionLoss:
    """The average over positions ``first`` to ``last``, which are a power of two apart."""

    first: int
    last: int
    tokens: int
    loss: float
    """Nats per token."""


@dataclass(frozen=True)
class DocumentMetrics:
    """Averages over the tokens of whole documents."""

    loss: float
    """Nats per token."""
    perplexity: float
    accuracy: float
    bits_per_byte: float | None
    """Comparable across tokenizers; None where the bytes of a token are not known."""
    first_position_loss: float | None
    """Nats at position 0; far below the others, the model sees its target."""
    documents: int
    tokens: int
    longest: int
    """Tokens of the longest document."""
    by_position: list[PositionLoss]
    """Position 0 is the first token of a document; where no document reaches, there is no entry."""


@torch.no_grad()
def evaluate_documents(
    model: FFTNet,
    tokens: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    *,
    batch_size: int = 16,
    chunk_size: int | None = None,
    token_bytes: Sequence[int] | None = None,
    max_tokens: int | None = None,
) -> DocumentMetrics:
    """Read documents from their start to their end, in chunks that hand on the state.

    Args:
        model: a causal model; its mode is put back afterwards.
        tokens: ids, an array or a memory map.
        starts: int64 (N,), the token before the first of a document, which is fed and not counted.
        ends: int64 (N,), where documents end.
        batch_size: documents read side by side.
        chunk_size: tokens read at once, and all of a document that memory holds; None takes what memory
            allows. The result does not depend on it.
        token_bytes: bytes that each id stands for, for bits per byte.
        max_tokens: stop after so many tokens, within a document if need be.

    Raises:
        ValueError: if the model is bidirectional, there is nothing to read, or a size is below 1.
    """
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if max_tokens is not None:
        starts, ends = _first(starts, ends, max_tokens)
    if not (ends - starts > 1).any():
        raise ValueError("there is no document to read")
    totals = torch.zeros(BUCKETS, 4, dtype=torch.float64)
    with evaluation_mode(model):
        for group in _groups(ends - starts, batch_size):
            _read(model, tokens, starts[group], ends[group], chunk_size, token_bytes or [0], totals)
    return _summary(totals, ends - starts - 1)


def _read(
    model: FFTNet,
    tokens: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    chunk_size: int | None,
    token_bytes: Sequence[int],
    totals: Tensor,
) -> None:
    """Read documents side by side; add losses, tokens, correct ones and bytes to the totals by bucket."""
    device = model.embedding.weight.device
    sizes = torch.tensor(token_bytes, device=device)
    longest = int((ends - starts).max())
    size = chunk_size or min(MAX_CHUNK, max(64, MAX_LOGITS // (model.embedding.num_embeddings * len(starts))))
    state = model.init_state(len(starts))
    for at in range(0, longest - 1, size):
        rows, present = _rows(tokens, starts + at, ends, min(size + 1, longest - at))
        read_BT = rows.to(device)
        targets_BT = read_BT[:, 1:]
        counted_BT = present[:, 1:].to(device)
        logits_BTV, state = model.prefill(read_BT[:, :-1], state)
        each = token_losses(logits_BTV, targets_BT, counted_BT)
        bytes_BT = sizes[targets_BT.clamp(max=len(sizes) - 1)] * counted_BT
        sums = [part.cpu().double().sum(dim=0) for part in (each.loss, counted_BT, each.correct, bytes_BT)]
        position_T = torch.arange(at, at + len(sums[0]))
        totals.index_add_(0, bucket(position_T), torch.stack(sums, dim=1))


def bucket(position: Tensor) -> Tensor:
    """Number of the bucket of a position, int64: binary digits of the position, 0 for position 0."""
    return torch.frexp(position.double()).exponent.long()


def _groups(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Documents side by side, none shorter than half of another, so that little is padding."""
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        among = lengths[order[first : first + batch_size]]
        last = first + int((2 * among >= among[0]).sum())
        yield order[first:last]
        first = last


def _first(starts: np.ndarray, ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The first documents, of which the last is cut where it brings the tokens up to so many."""
    read = np.cumsum(ends - starts - 1)
    kept = int(np.searchsorted(read, max_tokens)) + 1
    ends = ends[:kept].copy()
    ends[-1:] -= np.maximum(read[:kept][-1:] - max_tokens, 0)
    return starts[:kept], ends


def _rows(tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> tuple[Tensor, Tensor]:
    """int64 (N, width), tokens from the starts on and 0 from the ends on; boolean, where tokens are."""
    rows = np.zeros((len(starts), width), dtype=np.int64)
    for row, start, end in zip(rows, starts.tolist(), ends.tolist(), strict=True):
        taken = tokens[start : min(start + width, end)]
        row[: len(taken)] = taken
    present = np.arange(width) < (ends - starts)[:, None]
    return torch.from_numpy(rows), torch.from_numpy(present)


def _summary(totals: Tensor, lengths: np.ndarray) -> DocumentMetrics:
    nats, count, correct, bytes_ = totals.sum(dim=0).tolist()
    by_position = [
        PositionLoss(2**number // 2, max(2**number - 1, 0), int(row[1]), row[0] / row[1])
        for number, row in enumerate(totals.tolist())
        if row[1]
    ]
    return DocumentMetrics(
        loss=nats / count,
        perplexity=math.exp(min(nats / count, MAX_EXPONENT)),
        accuracy=correct / count,
        bits_per_byte=average(nats / math.log(2), bytes_),
        first_position_loss=average(float(totals[0, 0]), float(totals[0, 1])),
        documents=len(lengths),
        tokens=int(count),
        longest=int(lengths.max()),
        by_position=by_position,
    )
