"""Batches of any content are split among processes and micro-batches; gradients stay those of the whole."""

import json
from pathlib import Path

import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from runs import VOCAB, Chain, assert_equal_runs, bigram, language_model, make, next_token, text, train_until
from torch import nn
from torch.nn import functional as F

from fftnet.metrics.averages import evaluate
from fftnet.protocols import Batch, Losses, Mean
from fftnet.tasks import LANGUAGE_TASKS
from fftnet.training.sharding import ShardedBatches, shard
from fftnet.utils.trainer import Trainer


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.booleans())
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
    model = randomise(language_model(vocab_size=VOCAB + 1, num_layers=1, causal=causal))
    objective = LANGUAGE_TASKS[task]()
    rows = Chain().rows(0, 0)[:4]
    halves = [objective(model, text(half)) for half in rows.split(2)]
    loss = halves[0].loss + halves[1].loss
    count = float(halves[0].count + halves[1].count)
    wanted = torch.autograd.grad(loss / count, list(model.parameters()), allow_unused=True)
    trainer = make(tmp_path, objective=objective, model=model, accumulation_steps=3)
    found, _ = trainer.distributed.accumulate(objective, text(rows))
    assert found == [pytest.approx(loss.item(), rel=1e-6), count]
    assert count > 0
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


class Scenes:
    """Images of noise, and two numbers each that depend on them; every fifth image has no answer."""

    num_batches = 4

    def batch(self, epoch: int, index: int) -> Batch:
        images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(100 * epoch + index))
        return Batch(images, images.flatten(2).mean(1)[:, :2], torch.arange(5) < 4)


class Regression:
    """Squared error of both numbers of an image."""

    unit = "images"

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        error = (model(batch.inputs) - batch.targets) * batch.loss_mask[:, None]
        count = batch.loss_mask.sum()
        return Losses(error.square().sum(), count, {"error": Mean(error.detach().abs().sum(), 2 * count)})


def trainer(folder: Path, **values: object) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Dropout(0.1), nn.Linear(16, 2))
    fields = {"max_steps": 60, "eval_every": 20, "progress": True} | values
    return make(folder, Scenes(), Regression(), model, Scenes(), **fields)


def test_images_and_numbers_are_trained_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = trainer(tmp_path / "whole")
    history = whole.train()
    assert history[-1]["loss"] < 0.3 * history[0]["train_loss"]
    shown = capfd.readouterr().err
    assert "60 steps of about 4 images, 240 in all" in shown
    assert f"error {history[-1]['error']:.3f}" in shown
    assert "images/s" in shown
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["tokens"] == 60 * 4
    train_until(trainer(tmp_path / "part"), 31)
    again = trainer(tmp_path / "part", resume="auto")
    again.train()
    assert_equal_runs(again, whole)


def test_gradients_of_images_are_averaged_over_counted_rows(tmp_path: Path) -> None:
    """Five images in micro-batches of two, or on two processes: the last row is filled up."""
    plain = trainer(tmp_path)
    spread = trainer(tmp_path, accumulation_steps=3)
    model = plain.distributed.raw_model.eval()
    spread.distributed.raw_model.eval()
    sums = [each.distributed.accumulate(Regression(), Scenes().batch(0, 0))[0] for each in (plain, spread)]
    assert sums[0] == pytest.approx(sums[1])
    for one, other in zip(model.parameters(), spread.distributed.raw_model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    metrics = evaluate(model, Regression(), Scenes())
    shares = [evaluate(model, Regression(), ShardedBatches(Scenes(), rank, 2)) for rank in (0, 1)]
    images = torch.cat([Scenes().batch(0, index).inputs[:4] for index in range(4)])
    error = model(images).detach() - images.flatten(2).mean(1)[:, :2]
    assert metrics.loss == pytest.approx(error.square().sum(1).mean().item())
    assert metrics.values["error"] == pytest.approx(error.abs().mean().item())
    assert [each.count for each in shares] == [12, 4]
    assert sum(each.loss * each.count for each in shares) == pytest.approx(16 * metrics.loss)
