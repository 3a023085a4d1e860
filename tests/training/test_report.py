"""Output of a run for people: plan, lines that fit a terminal, a steady estimate of the remaining time."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Chain, at_step, language_model, make, next_token, weights
from tqdm import tqdm

from fftnet.protocols import Batch, Losses
from fftnet.training.report import dry_run, evaluation_line, model_summary, paused
from fftnet.training.signals import StopRequest


def test_a_run_starts_with_its_plan(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, max_steps=10, progress=True, accumulation_steps=9).train()
    shown = capfd.readouterr()
    assert shown.out == ""
    lines = shown.err.replace("\r", "\n").splitlines()
    assert lines[0] == "264 parameters (0 128; 2 136)"
    assert lines[1].startswith(
        "10 steps of about 128 tokens, 1,280 in all: 2.5 epochs of 4 batches; 4 to validate"
    )
    assert lines[2] == "batches of 8 rows leave some of 9 micro-batches empty: raise batch_size"
    assert "tokens/s" in lines[3]
    assert "GB of memory" in lines[3]
    assert "step 10: train" in shown.err


def test_parameters_are_counted_by_part() -> None:
    model = language_model(d_model=9, num_heads=3, num_layers=3)
    text = model_summary(model)
    assert text.startswith(f"{model.num_parameters():,} parameters (embedding 72; 3 layers of ")
    inner = [int(word.split()[-1].replace(",", "")) for word in text.split(": ")[1].split(";")[0].split(", ")]
    assert 3 * sum(inner) + 72 + 9 == model.num_parameters()


def test_the_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    first = make(tmp_path / "a", max_steps=4, eval_every=4)
    start = weights(first).clone()
    at_step(first, 0, lambda: torch.testing.assert_close(weights(first), start, rtol=0, atol=0))
    first.train()
    torch.manual_seed(99)
    second = make(tmp_path / "b", max_steps=4, eval_every=4)
    torch.rand(7)
    second.train()
    assert torch.equal(weights(first), weights(second))


def test_the_dry_run_restores_running_statistics(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.distributed.raw_model.register_buffer("mean", torch.zeros(()))

    def counting(model: torch.nn.Module, batch: Batch) -> Losses:
        with torch.no_grad():
            model.get_buffer("mean").add_(1.0)
        return next_token(model, batch)

    dry_run(trainer.distributed, counting, Chain().batch(0, 0))
    assert trainer.distributed.raw_model.get_buffer("mean") == 0
    assert all(parameter.grad is None for parameter in trainer.distributed.raw_model.parameters())


@pytest.mark.parametrize(
    ("further", "shown"),
    [
        ({"bits_per_byte": 1.94, "accuracy": 0.61, "perplexity": 3.8}, "bits per byte 1.940, accuracy 0.610"),
        ({"a": None, "entropy floor": 0.567}, "entropy floor 0.567, 12,345 tokens/s"),
        ({"a_metric_with_an_unusually_long_name_indeed": 1.0, "f1": 0.5}, "f1 0.500, 12,345 tokens/s"),
    ],
)
def test_the_line_of_an_evaluation_has_at_most_80_characters(
    further: dict[str, float | None], shown: str
) -> None:
    line = evaluation_line(140, {"train": 1.234, "valid": 1.345}, further, "12,345 tokens/s")
    assert line == f"step 140: train 1.234, valid 1.345, {shown}"
    assert len(line) <= 80


def test_an_evaluation_does_not_change_the_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test moves the clock: a step takes a second, an evaluation a thousand."""
    now = 0.0
    rates: list[float] = []
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    trainer = make(tmp_path, max_steps=8, eval_every=2, save_model=False)
    trainer.config = replace(trainer.config, progress=True)
    update, evaluate = trainer._update, trainer._evaluate

    def step(stop: StopRequest, bar: Any) -> bool:
        nonlocal now
        now += 1.0
        asked = update(stop, bar)
        rates.append(bar.format_dict["rate"])
        return asked

    def slowly(stop: StopRequest) -> bool:
        nonlocal now
        now += 1000.0
        return evaluate(stop)

    trainer._update, trainer._evaluate = step, slowly
    trainer.train()
    assert rates == [1.0] * 8
    with paused(tqdm(disable=True)):
        pass
