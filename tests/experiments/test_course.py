"""What a run trains on: stages in their order, each from its beginning, the last without an end."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from experiments.cases import CaseSettings, Stage
from experiments.course import Course, Part
from experiments.lra import LongRangeArena
from experiments.sequences.base import Rows, gather
from experiments.training import Budget


def rows(label: int, count: int) -> Rows:
    found = [np.full(3, 10 * label + number) for number in range(count)]
    return gather(found, [label] * count, np.uint8)


def test_stages_follow_one_another_and_begin_anew_when_they_are_through() -> None:
    course = Course([Part(rows(0, 4), 3, 2), Part(rows(1, 3), 2, 3), Part(rows(2, 4), 0, 2)], seed=0)
    batches = [course.batch(step) for step in range(9)]
    assert [batch.targets.tolist() for batch in batches] == [[0, 0]] * 3 + [[1, 1, 1]] * 2 + [[2, 2]] * 4
    for first in (0, 5, 7):
        pair = np.concatenate([batches[step].inputs[:, 0] for step in (first, first + 1)])
        assert len(set(pair.tolist())) == 4, "an epoch has each row once"
    assert course.before == 5
    assert [course.epochs(steps) for steps in (3, 5, 7, 8)] == [0, 0, 1, 1.5]


def test_a_run_without_stages_has_the_batches_of_its_rows() -> None:
    course = Course([Part(rows(0, 5), 0, 2)], seed=3)
    batches = rows(0, 5).batches(2, 3)
    for step in range(7):
        expected = batches.batch(*divmod(step, batches.num_batches))
        assert course.batch(step).inputs.tolist() == expected.inputs.tolist()


def test_a_setting_that_is_left_at_its_default_is_no_part_of_the_configuration() -> None:
    """So that lines of before it existed still count; all others are."""
    experiment = LongRangeArena()
    usual = CaseSettings(data="listops", budget=Budget(steps=7))
    experiment.settings["listops"] = usual
    found = experiment.configuration("spectral", "listops")["settings"]
    assert found == {"data": "listops", "budget": asdict(usual.budget)}
    stage = Stage(data="listops40", steps=2, rows=3)
    experiment.settings["listops"] = replace(usual, stages=(stage,), dropout=0.0)
    found = experiment.configuration("spectral", "listops")["settings"]
    assert found["stages"] == [asdict(stage)]
    assert found["dropout"] == 0.0


@pytest.mark.parametrize("case", LongRangeArena.settings_of)
def test_stages_leave_something_of_the_budget(case: str) -> None:
    settings = LongRangeArena.settings_of[case]
    assert settings.budget.steps is not None
    assert sum(stage.steps for stage in settings.stages) < settings.budget.steps
