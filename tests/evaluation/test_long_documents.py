"""Whole documents read in chunks: every average against one forward pass over each document, in float64."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import VOCAB, make
from torch import Tensor

from fftnet.evaluation.documents import bucket, evaluate_documents
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.state import State

WINDOW = 16
BYTES = [1 + token % 4 for token in range(VOCAB - 1)] + [0]
LENGTHS = (1, 2, 9, 37, 67, 2)
"""Tokens that are predicted in each document."""


def corpus(lengths: tuple[int, ...] = LENGTHS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return documents with other tokens between them, which must not be read."""
    rng = np.random.default_rng(1)
    starts = np.cumsum([3, *(length + 5 for length in lengths)])[:-1].astype(np.int64)
    ends = starts + 1 + np.array(lengths)
    return rng.integers(0, VOCAB, int(ends[-1]) + 4).astype(np.uint16), starts, ends


@torch.no_grad()
def truth(model: FFTNet, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> dict[str, Any]:
    """Return every metric from one forward pass over each whole document."""
    losses: list[tuple[int, float]] = []
    right = 0
    size = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        ids = [int(token) for token in tokens[start:end]]
        if len(ids) < 2:
            continue
        logits_TV = model(torch.tensor([ids[:-1]]))[0]
        assert logits_TV.dtype == torch.float64
        for position, target in enumerate(ids[1:]):
            row = logits_TV[position].tolist()
            losses.append((position, math.log(sum(map(math.exp, row))) - row[target]))
            right += row.index(max(row)) == target
            size += BYTES[target]
    nats = math.fsum(loss for _, loss in losses)
    first = [loss for position, loss in losses if position == 0]
    by_position = []
    for low, high in [(0, 0), *((2**n, 2 ** (n + 1) - 1) for n in range(12))]:
        inside = [loss for position, loss in losses if low <= position <= high]
        if inside:
            mean = math.fsum(inside) / len(inside)
            by_position.append({"first": low, "last": high, "tokens": len(inside), "loss": mean})
    return {
        "loss": nats / len(losses),
        "perplexity": math.exp(nats / len(losses)),
        "accuracy": right / len(losses),
        "bits_per_byte": nats / math.log(2) / size,
        "first_position_loss": math.fsum(first) / len(first),
        "documents": len(starts),
        "tokens": len(losses),
        "longest": int((ends - starts - 1).max()),
        "by_position": by_position,
    }


def flat(figures: dict[str, Any]) -> dict[str, float]:
    rows = {f"{row['first']}/{name}": row[name] for row in figures["by_position"] for name in row}
    return {name: figures[name] for name in figures if name != "by_position"} | rows


def check(model: FFTNet, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray, **how: Any) -> None:
    """Compare all metrics; the tolerance allows for losses in float32."""
    measured = asdict(evaluate_documents(model, tokens, starts, ends, token_bytes=BYTES, **how))
    assert flat(measured) == pytest.approx(flat(truth(model, tokens, starts, ends)), rel=1e-6)


@pytest.mark.parametrize(
    ("chunk_size", "batch_size", "lengths", "mixers"),
    [
        *((size, rows, LENGTHS, ("addressed_spectral",)) for size in (1, 7, 64, None) for rows in (1, 3)),
        *((7, 16, (length,), ("addressed_spectral",)) for length in (1, 2, 7, 63, 64, 65)),
        (50, 16, (20 * WINDOW + 3, 5), ("delta_spectral", "attention")),
    ],
)
def test_every_metric_is_that_of_one_forward_pass_over_the_whole_document(
    chunk_size: int | None, batch_size: int, lengths: tuple[int, ...], mixers: tuple[str, ...]
) -> None:
    check(make(mixers=mixers), *corpus(lengths), chunk_size=chunk_size, batch_size=batch_size)


def test_documents_without_a_token_to_predict_change_no_average() -> None:
    model = make()
    tokens, starts, ends = corpus((0, 9, 0, 4))
    check(model, tokens, starts, ends, chunk_size=3)
    with pytest.raises(ValueError, match="no document to read"):
        evaluate_documents(model, tokens, starts[:1], ends[:1])
    with pytest.raises(ValueError, match="no document to read"):
        evaluate_documents(model, tokens, starts[:0], ends[:0], max_tokens=4)


def test_the_comparison_fails_if_the_state_is_not_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    prefill = FFTNet.prefill

    def forgetful(self: FFTNet, tokens_BT: Tensor, state: State) -> tuple[Tensor, State]:
        logits_BTV, _ = prefill(self, tokens_BT, None)
        return logits_BTV, state

    monkeypatch.setattr(FFTNet, "prefill", forgetful)
    check(model, *corpus((7, 6, 2)), chunk_size=7)
    for chunk_size in (7, 64):
        with pytest.raises(AssertionError, match="Mismatched elements"):
            check(model, *corpus(), chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("max_tokens", "kept"),
    [(1, (1,)), (2, (1, 1)), (3, (1, 2)), (12, (1, 2, 9)), (100, (1, 2, 9, 37, 51)), (10**9, LENGTHS)],
)
def test_max_tokens_stops_within_a_document(max_tokens: int, kept: tuple[int, ...]) -> None:
    model = make()
    tokens, starts, ends = corpus()
    figures = evaluate_documents(model, tokens, starts, ends, token_bytes=BYTES, max_tokens=max_tokens)
    first = starts[: len(kept)]
    last = starts[: len(kept)] + 1 + np.array(kept)
    assert flat(asdict(figures)) == pytest.approx(flat(truth(model, tokens, first, last)), rel=1e-6)
    assert figures.tokens == min(max_tokens, sum(LENGTHS))
    assert (ends - starts - 1).tolist() == list(LENGTHS)


class Watched(np.ndarray):
    """Array that records the largest number of items read at once."""

    most = 0

    def __getitem__(self, key: Any) -> Any:
        taken = super().__getitem__(key)
        Watched.most = max(Watched.most, np.size(taken))
        return taken


def test_a_memory_map_is_read_a_piece_at_a_time(tmp_path: Path) -> None:
    model = make()
    tokens, starts, ends = corpus()
    tokens.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", np.uint16, "r")
    check(model, mapped, starts, ends, chunk_size=7, batch_size=3)
    Watched.most = 0
    watched = evaluate_documents(model, mapped.view(Watched), starts, ends, chunk_size=7, batch_size=3)
    assert watched == evaluate_documents(model, tokens, starts, ends, chunk_size=7, batch_size=3)
    assert Watched.most == 8


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(training: bool) -> None:
    model = make(dropout=0.5)
    expected = truth(model, *corpus())
    model.train(training)
    figures = evaluate_documents(model, *corpus())
    assert figures.bits_per_byte is None
    assert figures.loss == pytest.approx(expected["loss"], rel=1e-6)
    assert model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bidirectional_models_and_sizes_below_1_are_refused() -> None:
    model = make(causal=False).train()
    with pytest.raises(ValueError, match="a bidirectional model has no state"):
        evaluate_documents(model, *corpus())
    assert model.training
    for name in ("batch_size", "chunk_size", "max_tokens"):
        sizes: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            evaluate_documents(make(), *corpus(), **sizes)


def test_a_bucket_is_a_power_of_two() -> None:
    positions = [0, 1, 2, 3, 4, 7, 8, 1023, 1024, 2**40 - 1, 2**40]
    assert bucket(torch.tensor(positions)).tolist() == [position.bit_length() for position in positions]
