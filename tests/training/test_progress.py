"""What a person sees of a run: lines that fit a terminal, and a remaining time that does not jump."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import make
from tqdm import tqdm

from fftnet.training.progress import evaluation_line, paused
from fftnet.training.signals import StopRequest


@pytest.mark.parametrize(
    ("step", "further", "line"),
    [
        (
            140,
            {"entropy floor": None, "bits_per_byte": 1.94, "accuracy": 0.612, "perplexity": 3.838},
            "step 140: train 1.234, valid 1.345, bits per byte 1.940, accuracy 0.612",
        ),
        (
            140,
            {"accuracy": 0.912, "macro_f1": 0.901},
            "step 140: train 1.234, valid 1.345, accuracy 0.912, macro f1 0.901",
        ),
        (
            140,
            {"entropy floor": 0.567},
            "step 140: train 1.234, valid 1.345, entropy floor 0.567, 12,345 tokens/s",
        ),
        (
            123_456_789,
            {"a_metric_with_an_unusually_long_name": 1.0, "accuracy": 0.5},
            "step 123456789: train 1.234, valid 1.345, accuracy 0.500, 12,345 tokens/s",
        ),
    ],
)
def test_the_line_of_an_evaluation_has_at_most_80_characters(
    step: int, further: dict[str, float | None], line: str
) -> None:
    losses = {"train": 1.234, "valid": 1.345}
    assert evaluation_line(step, losses, further, "12,345 tokens/s") == line
    assert len(line) <= 80


def test_an_evaluation_does_not_change_the_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that the test moves: a step takes a second, an evaluation a thousand."""
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


def test_a_bar_that_is_not_shown_can_be_paused() -> None:
    with paused(tqdm(disable=True)):
        pass
