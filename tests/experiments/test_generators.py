"""Tasks of the experiments against readers that share nothing with their generators, and a quick run."""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import python

from experiments import generators
from experiments.generators import MAD_TASKS, TRACKING_TASKS
from experiments.recall import FILLER, Recall, RewrittenRecall, recall_batch, rewritten_batch
from experiments.tasks import Compressor, Mad, Tracking
from experiments.training import IGNORED, Batch

ROWS = 60


def drawn(case: str) -> tuple[list[list[int]], list[list[int]]]:
    task = MAD_TASKS[case]
    ids, targets = task.draw(np.random.default_rng(0), ROWS, task.tokens)
    assert ids.shape == targets.shape == (ROWS, task.tokens)
    assert ids.dtype == targets.dtype == np.int64
    assert ids.min() >= 0
    assert max(ids.max(), targets.max()) < task.vocab_size
    return ids.tolist(), targets.tolist()


def test_parity() -> None:
    lengths = np.random.default_rng(1).integers(3, 41, ROWS)
    ids, targets = TRACKING_TASKS["parity"].draw(np.random.default_rng(0), lengths)
    for row, answers, length in zip(ids.tolist(), targets.tolist(), lengths.tolist(), strict=True):
        assert answers[:length] == [row[: at + 1].count(1) % 2 for at in range(length)]
        assert set(answers[length:]) <= {IGNORED}


def test_modular_arithmetic_is_what_python_makes_of_it() -> None:
    lengths = np.random.default_rng(1).integers(3, 41, 100)
    ids, targets = TRACKING_TASKS["modular arithmetic"].draw(np.random.default_rng(0), lengths)
    operators = set()
    for row, answers, length in zip(ids.tolist(), targets.tolist(), lengths.tolist(), strict=True):
        text = "".join("01234+-*"[token] for token in row[:length])
        # An operator asks for the value before it.
        assert answers[:length] == [eval(text[: at + 1].rstrip("+-*")) % 5 for at in range(length)]
        assert set(answers[length:]) <= {IGNORED}
        operators |= set(text) & set("+-*")
    assert operators == set("+-*")


def test_words_of_s3_are_products_of_permutations() -> None:
    elements = list(permutations(range(3)))
    lengths = np.random.default_rng(1).integers(3, 41, ROWS)
    ids, targets = TRACKING_TASKS["S3"].draw(np.random.default_rng(0), lengths)
    for row, answers, length in zip(ids.tolist(), targets.tolist(), lengths.tolist(), strict=True):
        product = (0, 1, 2)
        for token, answer in zip(row[:length], answers[:length], strict=True):
            product = tuple(elements[token][place] for place in product)
            assert elements[answer] == product
        assert set(answers[length:]) <= {IGNORED}


def test_tracking_trains_short_and_tests_long() -> None:
    experiment = Tracking()
    generator = np.random.default_rng(0)
    assert experiment.draw("parity", generator, 200, test=False)[0].shape[1] == 40
    _, targets = experiment.draw("parity", generator, 200, test=True)
    lengths = (targets != IGNORED).sum(dim=1)
    assert 40 <= int(lengths.min()) < int(lengths.max()) <= 256
    assert experiment.rescale("parity", 0.5) == 0
    assert experiment.rescale("S3", 1.0) == 1


@pytest.mark.parametrize("case", ["in-context recall", "noisy recall"])
def test_recall_among_noise(case: str) -> None:
    noise = 0
    for row, answers in zip(*drawn(case), strict=True):
        memory: dict[int, int] = {}
        at = 0
        while at < len(row):
            if row[at] >= 16:
                assert answers[at] == IGNORED
                noise += 1
                at += 1
                continue
            key, value = row[at : at + 2]
            assert key < 8 <= value < 16
            assert answers[at] == memory.get(key, IGNORED)
            assert answers[at + 1] == IGNORED
            assert memory.setdefault(key, value) == value
            at += 2
    assert noise == (ROWS * 26 if case == "noisy recall" else 0)


def test_fuzzy_recall() -> None:
    lengths = set()
    for row, answers in zip(*drawn("fuzzy recall"), strict=True):
        memory: dict[tuple[int, ...], tuple[int, ...]] = {}
        starts = [at for at in range(len(row)) if row[at] < 8 and (at == 0 or row[at - 1] >= 8)]
        # The last pair may be cut off.
        for start, end in pairwise(starts):
            split = next(at for at in range(start, end) if row[at] >= 8)
            key = tuple(row[start:split])
            value = tuple(row[split:end])
            lengths |= {len(key), -len(value)}
            known = memory.get(key)
            expected = [IGNORED] * (end - start)
            if known is not None:
                expected[len(key) - 1 : -1] = known
            assert answers[start:end] == expected
            assert memory.setdefault(key, value) == value
        assert len(memory) <= 8
    assert lengths == {1, 2, 3, -1, -2, -3}


def test_selective_copying() -> None:
    for row, answers in zip(*drawn("selective copying"), strict=True):
        mark = row.index(generators.MARK)
        assert [answer for answer in answers if answer != IGNORED] == [
            token for token in row if token < generators.BLANK
        ]
        assert set(answers[:mark]) == {IGNORED}
        assert len(answers) - mark == 16


def test_compression_and_memorization() -> None:
    for row, answers in zip(*drawn("compression"), strict=True):
        assert answers == [*row[:-1], IGNORED]
        assert row[-1] == generators.MARK
    memory: dict[int, int] = {}
    for row, answers in zip(*drawn("memorization"), strict=True):
        assert max(row[::2]) < 128
        assert set(row[1::2]) == {generators.ASK}
        for key, value in zip(row[::2], answers[1::2], strict=True):
            assert memory.setdefault(key, value) == value
        assert set(answers[::2]) == {IGNORED}


def test_the_compressor_sees_the_last_hidden_state_only(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Mad(quick=True, only=("gru",))
    (run,) = (run for run in experiment.plan([]) if run.case == "compression")
    made_of = experiment.model
    seen = []
    monkeypatch.setattr(experiment, "model", lambda *choices: seen.append(made_of(*choices)) or seen[-1])
    found = experiment.execute(run)
    (model,) = seen
    assert isinstance(model, Compressor)
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    ids, _ = experiment.draw("compression", np.random.default_rng(0), 2, test=False)
    assert model(ids).shape == (2, 8, 18)
    language_model = model.language_model
    hidden = language_model.backbone(language_model.embedding(ids))[:, -1:]
    torch.testing.assert_close(model(ids), model.decode(hidden + model.places.weight))


@pytest.mark.parametrize("kind", [Tracking, Mad])
def test_every_case_runs_and_is_reported(kind: type[Tracking] | type[Mad]) -> None:
    experiment = kind(quick=True, only=("min_gru",))
    lines = []
    while (run := next(iter(experiment.plan(lines)), None)) is not None:
        lines.append(asdict(run) | experiment.execute(run))
    assert [line["case"] for line in lines] == list(experiment.cases)
    assert experiment.tables(lines).splitlines()[-1].startswith("| minGRU | 256 |")
    assert experiment.pictures(lines) == {}
    other = [line | {"learning_rate": 2 * line["learning_rate"]} for line in lines]
    assert set(experiment.pictures(lines + other)) == {"learning_rates"}


VOCABULARY = 512


def replay(inputs: list[int], targets: list[int], written: int, vocabulary: int) -> list[int]:
    """Read a row as a list of writes, then of queries, and return the keys that were asked for."""
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
    done = python("-m", "experiments", "recall", *words)
    path, control, *table = done.stdout.splitlines()
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert [line["arm"] for line in lines].count("attention") == 3
    assert {line["outcome"] for line in lines} == {"finished"}
    assert {"commit", "threads", "processor", "torch", "date", "seconds"} <= set(lines[0])
    assert lines[0]["state_numbers"] is None
    assert lines[-1]["state_numbers"] > 0
    assert control.startswith("void: attention reaches")
    assert any(line.startswith("| gated linear (keys of 8) |") for line in table)
