"""Recall rows against a dictionary that replays them, and the command on tiny sizes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.recall import FILLER, Recall, RewrittenRecall, recall_batch, rewritten_batch
from experiments.training import IGNORED, Batch

ROOT = Path(__file__).parents[2]
VOCABULARY = 512


def replay(inputs: list[int], targets: list[int], written: int, vocabulary: int) -> list[int]:
    """Read a row as a list of writes, then of queries; returns the keys that were asked for."""
    memory = {}
    for at in range(0, written, 2):
        key, value = inputs[at : at + 2]
        assert 1 <= key < vocabulary // 2 <= value < vocabulary
        assert targets[at] == targets[at + 1] == IGNORED
        memory[key] = value
    asked = []
    for at in range(written, len(inputs)):
        if targets[at] != IGNORED:
            assert targets[at] == memory[inputs[at]]
            assert inputs[at + 1] == memory[inputs[at]]
            asked.append(inputs[at])
        elif inputs[at] != FILLER:
            assert targets[at - 1] == inputs[at]
    assert set(asked) == set(memory)
    return asked


@pytest.mark.parametrize(
    ("draw", "size", "writes"),
    [
        *((recall_batch, size, 1) for size in Recall.settings.tested),
        *((rewritten_batch, size, 2) for size in RewrittenRecall.settings.tested),
    ],
)
def test_every_query_is_answered_by_the_last_write(
    draw: Callable[..., Batch], size: tuple[int, int], writes: int
) -> None:
    inputs, targets = draw(np.random.default_rng(0), 40, size, VOCABULARY)
    assert inputs.shape == targets.shape == (40, size[0])
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert len(replay(row, answers, 2 * writes * size[1], VOCABULARY)) == size[1]


def test_rows_depend_on_the_generator_only_and_near_places_come_first() -> None:
    one, _ = recall_batch(np.random.default_rng([1, 2]), 4, (64, 4), VOCABULARY)
    same, _ = recall_batch(np.random.default_rng([1, 2]), 4, (64, 4), VOCABULARY)
    other, _ = recall_batch(np.random.default_rng([1, 3]), 4, (64, 4), VOCABULARY)
    assert one.equal(same)
    assert not one.equal(other)
    _, targets = recall_batch(np.random.default_rng(0), 4000, (64, 4), VOCABULARY)
    asked = (targets != IGNORED).float().mean(dim=0)[8::2]
    assert asked[0] > 2 * asked[2] > 3 * asked[-1]


def test_quick_runs_the_whole_way() -> None:
    words = ["--quick", "--threads", "1", "--model", "attention", "gated_linear_8"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "recall", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    path, control, *table = done.stdout.splitlines()
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert [line["arm"] for line in lines].count("attention") == 3
    assert {line["outcome"] for line in lines} == {"finished"}
    assert {"commit", "threads", "processor", "torch", "date", "seconds"} <= set(lines[0])
    assert lines[0]["state_numbers"] is None
    assert lines[-1]["state_numbers"] > 0
    assert control.startswith("void: attention reaches")
    assert any(line.startswith("| gated linear (keys of 8) |") for line in table)
