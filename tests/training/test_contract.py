"""The trainer uses Batch and Losses only: here it trains on images with two targets each."""

import json
from pathlib import Path

import pytest
import torch
from runs import at_step, configs, stop, weights
from torch import nn

from fftnet.metrics.averages import evaluate
from fftnet.protocols import Batch, Losses, Mean
from fftnet.training.sharding import ShardedBatches
from fftnet.utils.trainer import Trainer


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
    fields = {"max_steps": 60, "eval_every": 20, "learning_rate": 0.03, "progress": True} | values
    return Trainer(model, Regression(), Scenes(), Scenes(), **configs(folder, **fields))


def test_images_and_numbers_are_trained_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = trainer(tmp_path / "whole")
    history = whole.train()
    assert history[-1]["loss"] < 0.3 * history[0]["train_loss"]
    shown = capfd.readouterr().err
    assert "60 steps of about 4 images, 240 in all" in shown
    assert f"error {history[-1]['error']:.3f}" in shown
    assert "images/s" in shown
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["tokens"] == 60 * 4
    part = trainer(tmp_path / "part")
    at_step(part, 31, stop)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    again = trainer(tmp_path / "part", resume="auto")
    assert [row["loss"] for row in again.train()] == [row["loss"] for row in history]
    assert torch.equal(weights(again), weights(whole))


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
