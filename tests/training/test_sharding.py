"""Batches are split among processes and micro-batches; the gradient stays that of the whole batch."""

from pathlib import Path

import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from runs import VOCAB, Chain, bigram, configs, make, next_token, text
from torch.nn import functional as F

from fftnet import FFTNet, FFTNetConfig
from fftnet.protocols import Batch
from fftnet.tasks import LANGUAGE_TASKS
from fftnet.training.sharding import shard
from fftnet.utils.trainer import Trainer


@given(
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_row_is_in_one_shard(rows: int, length: int, world: int, parts: int, masked: bool) -> None:
    """Whatever the inputs and targets are: here images, several labels a row, and a mask of the inputs."""
    batch = Batch(
        torch.randn(rows, 3, length, 2),
        torch.randint(9, (rows, length)),
        torch.rand(rows, length) < 0.5,
        torch.rand(rows, length) < 0.5 if masked else None,
        fresh=False,
    )
    shards = [shard(batch, rank, world, parts) for rank in range(world)]
    assert {len(micro_batches) for micro_batches in shards} == {parts}
    every = [micro_batch for micro_batches in shards for micro_batch in micro_batches]
    assert len({micro_batch.inputs.shape for micro_batch in every}) == 1
    *columns, fresh = zip(*every, strict=True)
    assert set(fresh) == {False}
    for found, whole, filler in zip(columns, batch[:4], (0, 0, False, True), strict=True):
        if whole is None:
            assert set(found) == {None}
            continue
        together = torch.cat(found)
        assert together.dtype == whole.dtype
        assert torch.equal(together[:rows], whole)
        assert (together[rows:] == filler).all()


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_gradients_are_those_of_the_mean_over_all_tokens(tmp_path: Path, parts: int) -> None:
    """The micro-batches hold unequal numbers of tokens, so that a mean of means would be another value."""
    rows = Chain().rows(0, 0)
    rows[0, 3:] = -1
    rows[5, 9:] = -1
    trainer = make(tmp_path, accumulation_steps=parts)
    distributed = trainer.distributed
    distributed.raw_model.double().eval()
    (nats, tokens, extra), _ = distributed.accumulate(next_token, text(rows), 7.0)
    direct = bigram().double().eval()
    targets = rows[:, 1:].flatten()
    loss = F.cross_entropy(
        direct(rows[:, :-1].clamp(min=0)).flatten(0, 1), targets.clamp(min=0), reduction="none"
    )
    mean = loss[targets >= 0].mean()
    mean.backward()
    assert (tokens, extra) == (float((targets >= 0).sum()), 7.0)
    assert nats / tokens == pytest.approx(mean.item(), rel=1e-6)
    for found, wanted in zip(distributed.raw_model.parameters(), direct.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("causal", "task"), [(True, "next_token"), (False, "masked_token")])
def test_rows_that_fill_up_micro_batches_change_nothing(tmp_path: Path, causal: bool, task: str) -> None:
    """Four rows in three micro-batches of two: the last one holds nothing."""
    config = FFTNetConfig(vocab_size=VOCAB + 1, d_model=8, num_heads=2, num_layers=1, causal=causal)
    model = randomise(FFTNet(config))
    objective = LANGUAGE_TASKS[task]()
    rows = Chain().rows(0, 0)[:4]
    halves = [objective(model, text(half)) for half in rows.split(2)]
    loss = halves[0].loss + halves[1].loss
    count = float(halves[0].count + halves[1].count)
    wanted = torch.autograd.grad(loss / count, list(model.parameters()), allow_unused=True)
    trainer = Trainer(model, objective, Chain(), Chain(), **configs(tmp_path, accumulation_steps=3))
    found, _ = trainer.distributed.accumulate(objective, text(rows))
    assert found == [pytest.approx(loss.item(), rel=1e-6), count]
    assert count > 0
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)
