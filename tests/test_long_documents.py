"""Evaluation of whole documents: the carried state gives what one pass over the document gives."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise

from fftnet import FFTNet, FFTNetConfig
from fftnet.tasks import long_documents
from fftnet.tasks.long_documents import DocumentMetrics, evaluate_documents

VOCAB = 11
LENGTHS = (1, 2, 13, 37, 100, 151)
"""Targets of the documents; the model's training window has 16."""
BYTES = [(token * 7) % 5 for token in range(VOCAB)]


@pytest.fixture(scope="module")
def model() -> FFTNet:
    torch.manual_seed(3)
    config = FFTNetConfig(vocab_size=VOCAB, d_model=8, num_heads=2, num_layers=2, max_seq_length=16)
    return randomise(FFTNet(config))


@pytest.fixture(scope="module")
def documents() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, VOCAB, sum(LENGTHS) + 1).astype(np.uint16)
    ends = np.cumsum(LENGTHS) + 1
    return tokens, ends - np.array(LENGTHS) - 1, ends


def direct(
    model: FFTNet, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> list[tuple[int, float, bool, int]]:
    """Position, nats, hit and bytes of every target, from one pass over each document."""
    rows = []
    for start, end in zip(starts, ends, strict=True):
        ids = torch.from_numpy(tokens[start:end].astype(np.int64))[None]
        with torch.no_grad():
            log_p = model(ids[:, :-1])[0].log_softmax(-1)
        for position, target in enumerate(ids[0, 1:].tolist()):
            hit = int(log_p[position].argmax()) == target
            rows.append((position, -float(log_p[position, target]), hit, BYTES[target]))
    return rows


def check(found: DocumentMetrics, rows: list[tuple[int, float, bool, int]], lengths: tuple[int, ...]) -> None:
    nats = sum(row[1] for row in rows)
    assert (found.documents, found.tokens, found.longest) == (len(lengths), len(rows), max(lengths))
    assert found.loss == pytest.approx(nats / len(rows), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats / len(rows)), rel=1e-6)
    assert found.accuracy == pytest.approx(np.mean([row[2] for row in rows]))
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / sum(row[3] for row in rows), rel=1e-6)
    assert found.first_position_loss == pytest.approx(
        np.mean([row[1] for row in rows if row[0] == 0]), rel=1e-6
    )
    for part in found.by_position:
        own = [row[1] for row in rows if part.first <= row[0] <= part.last]
        assert part.tokens == len(own)
        assert part.loss == pytest.approx(np.mean(own), rel=1e-6)
    assert sum(part.tokens for part in found.by_position) == len(rows)
    edges = [(part.first, part.last) for part in found.by_position]
    assert (
        edges
        == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 127), (128, 255)][: len(edges)]
    )


@pytest.mark.parametrize("piece", [1, 7, 64, None])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_documents_are_read_as_if_in_one_piece(
    model: FFTNet, documents: tuple[np.ndarray, ...], piece: int | None, batch_size: int
) -> None:
    tokens, starts, ends = documents
    found = evaluate_documents(
        model, tokens, starts, ends, batch_size=batch_size, piece=piece, token_bytes=BYTES
    )
    check(found, direct(model, tokens, starts, ends), LENGTHS)
    assert not model.training


def test_without_the_state_the_losses_would_be_others(
    model: FFTNet, documents: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the tests above hold depends on the state that is carried."""
    tokens, starts, ends = documents
    prefill = FFTNet.prefill
    monkeypatch.setattr(FFTNet, "prefill", lambda self, ids, state: prefill(self, ids, None))
    found = evaluate_documents(model, tokens, starts, ends, piece=7, token_bytes=BYTES)
    with pytest.raises(AssertionError):
        check(found, direct(model, tokens, starts, ends), LENGTHS)


def test_a_memory_map_and_a_limit(tmp_path: Path, model: FFTNet, documents: tuple[np.ndarray, ...]) -> None:
    tokens, starts, ends = documents
    tokens.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", dtype=np.uint16, mode="r")
    found = evaluate_documents(model, mapped, starts, ends, token_bytes=BYTES, max_tokens=17)
    check(found, direct(model, tokens, starts[:4], ends[:4]), LENGTHS[:4])


def test_a_training_model_stays_one(model: FFTNet, documents: tuple[np.ndarray, ...]) -> None:
    try:
        evaluate_documents(model.train(), *documents)
        assert model.training
    finally:
        model.eval()


def test_what_can_not_be_read_is_refused(documents: tuple[np.ndarray, ...]) -> None:
    tokens, starts, ends = documents
    config = FFTNetConfig(vocab_size=VOCAB, d_model=8, num_heads=2, num_layers=1, causal=False)
    with pytest.raises(ValueError, match="a bidirectional model has no state"):
        evaluate_documents(FFTNet(config), tokens, starts, ends)
    with pytest.raises(ValueError, match="there is no document to read"):
        evaluate_documents(FFTNet(config), tokens, starts[:0], ends[:0])


def test_positions_fall_into_powers_of_two() -> None:
    positions = torch.tensor([0, 1, 2, 3, 4, 7, 8, 2**20 - 1, 2**20, 2**40])
    assert long_documents.bucket(positions).tolist() == [0, 1, 2, 2, 3, 3, 4, 20, 21, 41]
