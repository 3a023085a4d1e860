"""A language model on whole documents of any length: the state is carried, losses are listed by position."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fftnet.data.windows import padded
from fftnet.metrics.averages import MAX_EXPONENT, Metrics, average, evaluate
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.state import state_of_tensors, state_tensors
from fftnet.protocols import Batch, Losses, RowStates
from fftnet.tasks.text import token_losses, unwrapped

BUCKETS = 64
"""Ranges of positions, each twice as long as the one before."""
POSITION = "position"
"""Name of the position of the next token in the state of the rows."""


@dataclass(frozen=True)
class PositionLoss:
    """Average over the positions ``first`` to ``last``; each range is twice as long as the one before."""

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
    """Bits per byte of text, comparable across tokenizers; None if the bytes of a token are unknown."""
    first_position_loss: float | None
    """Nats at position 0; far below the others, the model sees its target."""
    documents: int
    tokens: int
    longest: int
    """Tokens of the longest document."""
    by_position: list[PositionLoss]
    """Losses by position, from 0 for the first token; ranges without a token are left out."""


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
    """Read documents from start to end with a causal model, in chunks that carry the state.

    ``starts`` and ``ends`` are int64 (N,): indices of the tokens before the documents, which are read and not
    counted, and of their ends. ``chunk_size``, tokens of a row read at once (None: by memory), does not
    change the result. ``token_bytes`` are the bytes of text of each id. Reading stops after ``max_tokens``,
    if necessary within a document.
    """
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if max_tokens is not None:
        starts, ends = _first(starts, ends, max_tokens)
    # The first token of a document is read and not predicted.
    lengths = ends - starts - 1
    if not (lengths > 0).any():
        raise ValueError("there is no document to read")
    chunks: list[tuple[np.ndarray, int, int]] = []
    for group in _groups(ends - starts, batch_size):
        size = chunk_size or chunk_length(model, len(group))
        chunks += [(group, first, size) for first in range(0, int(lengths[group].max()), size)]
    batches = _Chunks(tokens, starts, ends, chunks)
    return _summary(evaluate(model, _PositionLosses(token_bytes), batches), lengths)


def chunk_length(model: FFTNet, rows: int) -> int:
    """Return the number of tokens that ``rows`` rows may read at once, by the memory of their logits."""
    return min(4096, max(64, 2**26 // (model.embedding.num_embeddings * rows)))


class _Chunks(NamedTuple):
    """Batches of documents side by side, a chunk each; ``fresh`` marks the first chunk of its documents."""

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    chunks: list[tuple[np.ndarray, int, int]]
    """Indices of documents, position of the first token and number of tokens of each chunk."""

    @property
    def num_batches(self) -> int:
        return len(self.chunks)

    def batch(self, epoch: int, index: int) -> Batch:
        group, first, size = self.chunks[index]
        spans = zip((self.starts[group] + first).tolist(), self.ends[group].tolist(), strict=True)
        # A slice of a document that has ended is empty, and its row is padding.
        rows, present = padded([self.tokens[start : min(start + size + 1, end)] for start, end in spans])
        ids_BT, present_BT = torch.from_numpy(rows), torch.from_numpy(present)
        return Batch(ids_BT[:, :-1], ids_BT[:, 1:], present_BT[:, 1:], fresh=first == 0)


class _PositionLosses:
    """Objective with counts (BUCKETS, 4): nats, tokens, correct predictions and bytes by position."""

    def __init__(self, token_bytes: Sequence[int] | None) -> None:
        self._bytes = torch.tensor(token_bytes or [0])

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        return self.carry(model, batch, None)[0]

    def carry(self, model: nn.Module, batch: Batch, state: RowStates | None) -> tuple[Losses, RowStates]:
        """Return the counts of a chunk, and the state of its rows with the position of the next token."""
        language_model = unwrapped(model)
        # The template tells types and dtypes of the carried tensors.
        before = language_model.init_state(batch.num_rows)
        first = 0
        if state is not None:
            before, first = state_of_tensors(state, before), int(state[POSITION][0])
        logits_BTV, after = language_model.prefill(batch.inputs, before)
        each = token_losses(logits_BTV, batch.targets, batch.loss_mask)
        bytes_V = self._bytes.to(batch.targets.device)
        bytes_BT = bytes_V[batch.targets.clamp(max=len(bytes_V) - 1)] * batch.loss_mask
        parts = (each.loss, batch.loss_mask, each.correct, bytes_BT)
        # Sums over documents are taken in float64, as those over batches are.
        sums_T4 = torch.stack([part.cpu().double().sum(dim=0) for part in parts], dim=1)
        end = first + len(sums_T4)
        counts = torch.zeros(BUCKETS, 4, dtype=torch.float64)
        counts.index_add_(0, bucket(torch.arange(first, end)), sums_T4)
        nats, count, _, _ = sums_T4.sum(dim=0)
        rows = {POSITION: torch.full((batch.num_rows,), end), **state_tensors(after)}
        return Losses(nats, count, {}, counts), rows


def bucket(position: Tensor) -> Tensor:
    """Return the range of a position, int64: the number of its binary digits, 0 for position 0."""
    return torch.frexp(position.double()).exponent.long()


def _groups(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield indices of documents of similar lengths: none is below half of another, to limit padding."""
    order = np.argsort(-lengths, kind="stable")
    first = 0
    # Sorted by length, so that a group ends where a document is less than half of its longest.
    while first < len(order):
        among = lengths[order[first : first + batch_size]]
        last = first + int((2 * among >= among[0]).sum())
        yield order[first:last]
        first = last


def _first(starts: np.ndarray, ends: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first documents up to ``max_tokens`` tokens, the last one cut."""
    # The last document is cut where the sum of tokens reaches the limit.
    read = np.cumsum(ends - starts - 1)
    kept = int(np.searchsorted(read, max_tokens)) + 1
    ends = ends[:kept].copy()
    ends[-1:] -= np.maximum(read[:kept][-1:] - max_tokens, 0)
    return starts[:kept], ends


def _summary(metrics: Metrics, lengths: np.ndarray) -> DocumentMetrics:
    assert metrics.counts is not None
    nats, count, correct, bytes_ = metrics.counts.sum(dim=0).tolist()
    by_position = [
        PositionLoss(2**number // 2, max(2**number - 1, 0), int(tokens), loss / tokens)
        for number, (loss, tokens, _, _) in enumerate(metrics.counts.tolist())
        if tokens
    ]
    return DocumentMetrics(
        loss=nats / count,
        perplexity=math.exp(min(nats / count, MAX_EXPONENT)),
        accuracy=correct / count,
        bits_per_byte=average(nats / math.log(2), bytes_),
        first_position_loss=by_position[0].loss if by_position[0].first == 0 else None,
        documents=len(lengths),
        tokens=int(count),
        longest=int(lengths.max()),
        by_position=by_position,
    )
