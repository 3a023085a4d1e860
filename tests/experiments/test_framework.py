"""Plan, result lines, resuming, models, the command and the report, on a small experiment."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import experiments
from experiments import __main__ as command
from experiments import models, report, results, training, workers
from experiments.base import Experiment, Run, Sweep, Workbench, digest_of
from experiments.building import build_language_model, count_parameters, count_state
from experiments.recall import Recall
from experiments.results import ExperimentError, Line


@dataclass(frozen=True)
class NoSettings:
    size: int = 3


class Toy(Experiment):
    """The score is a function of the learning rate."""

    name = "toy"
    title = "Toy"
    about = "A toy."
    sweep = Sweep(learning_rates=(0.1, 0.2, 0.3), weight_decays=(0.0, 0.1), seeds=(0, 1, 2))
    settings = NoSettings()

    def execute(self, run: Run) -> dict[str, Any]:
        diverged = run.learning_rate == 0.3
        return {
            "parameters": 1,
            "state_numbers": None,
            "outcome": "diverged" if diverged else "finished",
            "results": {} if diverged else {"score": run.learning_rate},
        }

    def score(self, line: Line) -> float:
        return line["results"]["score"]

    def tables(self, lines: Sequence[Line]) -> str:
        return "**Nobody wins.**"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", "Toy")
    known = report.experiment_class
    monkeypatch.setattr(report, "experiment_class", lambda name: Toy if name == "toy" else known(name))


def done(experiment: Experiment) -> list[Line]:
    lines: list[Line] = []
    while (run := next(iter(experiment.plan(lines)), None)) is not None:
        lines.append(asdict(run) | experiment.execute(run))
    return lines


def test_the_reference_is_swept_first_and_the_best_gets_all_seeds() -> None:
    lines = done(Toy(only=("gru", "attention")))
    assert [line["arm"] for line in lines[:6]] == ["attention"] * 3 + ["gru"] * 3
    assert [line["learning_rate"] for line in lines[:3]] == [0.2, 0.1, 0.3]
    pair = ("gru", "attention")
    decayed = [(line["arm"], line["weight_decay"], line["learning_rate"]) for line in lines[6:8]]
    assert decayed == [(name, 0.1, 0.2) for name in pair]
    repeated = [(line["arm"], line["seed"], line["learning_rate"]) for line in lines[8:]]
    assert repeated == [(name, seed, 0.2) for seed in (1, 2) for name in pair]
    assert not list(Toy(only=("gru", "attention")).plan(lines))


def test_processes_that_share_the_runs_never_work_on_the_same(tmp_path: Path) -> None:
    experiment = Toy(only=("gru", "attention"), workbench=Workbench(cache=tmp_path))
    path = tmp_path / "toy.jsonl"
    working = [workers.missing(experiment, path, print) for _ in range(3)]
    held = [next(one) for one in working]
    assert [(run.arm, run.learning_rate) for run in held] == [("attention", rate) for rate in (0.2, 0.1, 0.3)]
    # One dies: what it held is taken by the next one.
    working.pop().close()
    again = workers.missing(experiment, path, print)
    assert next(again) == held[2]
    again.close()
    # One ends: it goes on with what nobody holds.
    results.append(path, asdict(held[0]) | experiment.execute(held[0]))
    assert next(working[0]) == held[2]
    for one in working:
        one.close()
    alone = []
    for run in workers.missing(experiment, path, print):
        results.append(path, asdict(run) | experiment.execute(run))
        alone.append(run)
    assert len({run.digest for run in [*alone, held[0]]}) == len(done(experiment)) == len(alone) + 1


def test_seeds_wait_for_the_sweep() -> None:
    experiment = Toy(only=("attention",))
    lines = done(experiment)
    rates = [line for line in lines if line["seed"] == 0 and line["weight_decay"] == 0.0]
    wanted = list(experiment.plan(rates[:2]))
    assert {(run.learning_rate, run.weight_decay, run.seed) for run in wanted} == {(0.3, 0.0, 0)}
    assert {run.weight_decay for run in experiment.plan(rates)} == {0.1}


@pytest.mark.usefixtures("toy")
def test_the_command_goes_on_behind_a_torn_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["toy", "--model", "gru", "--results", str(tmp_path)]
    assert command.main(words) == 0
    path = tmp_path / "toy.jsonl"
    whole = path.read_bytes()
    assert len(whole.splitlines()) == 6
    path.write_bytes(whole[:-20])
    capsys.readouterr()
    assert command.main(words) == 0
    printed = capsys.readouterr().err
    assert "the last line was cut off" in printed
    assert printed.count("finished") == 1
    assert [json.loads(row)["seed"] for row in path.read_text().splitlines()] == [0] * 4 + [1, 2]
    assert command.main(words) == 0
    assert len(path.read_bytes().splitlines()) == 6


def test_a_changed_configuration_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = done(Toy(only=("gru",)))
    monkeypatch.setattr(Toy, "settings", NoSettings(size=4))
    changed = Toy(only=("gru",))
    assert len(list(changed.plan(lines))) == 3
    assert changed.current(lines) == []


@pytest.mark.parametrize("path", sorted(results.RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_stored_lines_are_found_under_their_digests(path: Path) -> None:
    experiment = report.experiment_class(path.stem)()
    current = experiment.current(results.read(path))
    assert current
    for line in current:
        choices = (line[name] for name in ("arm", "case", "learning_rate", "weight_decay", "seed"))
        assert experiment.run(*choices).digest == digest_of(line)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nonsense", "there is no experiment 'nonsense'"),
        ("", "name an experiment"),
        ("toy --model nobody", "there is no model 'nobody'"),
        ("toy --case nowhere", "toy has no case 'nowhere'"),
        ("toy --max_hours 0", "--max_hours must be above 0"),
        ("toy --threads 0", "--threads must be at least 1"),
        ("toy --workers 0", "--workers must be at least 1"),
        ("toy --model gru --results README.md", "README.md/toy.jsonl can't be"),
        ("report --results nowhere", "there is nothing to report"),
    ],
)
def test_an_error_is_one_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words.split()) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("error: ")
    assert sentence in printed


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ExperimentError, match="damaged in line 1"):
        results.read(path)


def test_a_model_with_an_unknown_field_or_a_bidirectional_mixer_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for mixer in ("gru", "delta_spectral"):
        new = models.Model(mixers=(mixer,), config={mixer: {"knob": 1}})
        monkeypatch.setitem(models.MODELS, "new", new)
        with pytest.raises(ExperimentError, match="can't be built"):
            build_language_model("new", **SMALL, seed=0)
    with pytest.raises(ExperimentError, match="can't be built: causal=True needs causal mixers"):
        build_language_model("spectral", **SMALL, seed=0)


CAUSAL = [name for name, model in models.MODELS.items() if model.mixers[0] not in ("spectral", "fnet")]
SMALL: dict[str, Any] = {"vocab_size": 257, "d_model": 64, "num_layers": 2, "parameters": 160_000}


@pytest.mark.parametrize("name", CAUSAL)
def test_language_models_are_causal_and_have_the_wanted_size(name: str) -> None:
    model = build_language_model(name, **SMALL, seed=0)
    assert abs(count_parameters(model) / SMALL["parameters"] - 1) <= 0.02
    assert model(torch.randint(0, 257, (1, 5))).shape == (1, 5, 257)
    same = build_language_model(name, **SMALL, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


def test_states_are_counted_and_a_size_that_can_not_be_met_is_refused() -> None:
    bare: dict[str, Any] = {"vocab_size": 16, "d_model": 64, "num_layers": 1, "parameters": None, "seed": 0}
    # 4 heads of 16 channels with keys of 8 numbers; three tokens of keys, queries and values.
    assert count_state(build_language_model("gated_linear_8", **bare)) == 64 * 8 + 3 * (32 + 32 + 64)
    assert count_state(build_language_model("attention", **bare)) is None
    # Two numbers a bin and channel, the mean, three tokens of values and keys.
    assert count_state(build_language_model("addressed", **bare)) == 2 * 16 * 64 + 32 + 3 * 128
    with pytest.raises(ExperimentError, match="can't have 20,000 parameters"):
        build_language_model("attention", **SMALL | {"parameters": 20_000}, seed=0)


class Bias(nn.Module):
    """Logits that do not depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*tokens.shape, 4)


def bias_training(
    tmp_path: Path, deadline: float, batch: Callable[[int], training.Batch], rate: float = 0.1
) -> tuple[Bias, training.Trained]:
    torch.manual_seed(0)
    model = Bias()
    run = Toy(only=("gru",)).run("gru", "", rate, 0.0, 0)
    checkpoint = training.Checkpoint(run, Workbench(cache=tmp_path, deadline=deadline))
    budget = training.Budget(steps=8, points=4)
    return model, training.train(model, run, budget, batch, dict, checkpoint)


def numbered(step: int) -> training.Batch:
    ids = torch.tensor([[step % 4, 1]])
    return ids, ids


def test_an_interrupted_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    whole, one = bias_training(tmp_path, float("inf"), numbered)
    assert [row["step"] for row in one.curve] == [2, 4, 6, 8]
    seen = []

    def noted(step: int) -> training.Batch:
        seen.append(step)
        return numbered(step)

    for _ in range(7):
        # The deadline is over at once, so every call does one step and saves the run.
        with pytest.raises(training.OutOfTime):
            bias_training(tmp_path, 0.0, noted)
    parted, other = bias_training(tmp_path, float("inf"), noted)
    assert seen == list(range(8))
    assert torch.equal(whole.logits, parted.logits)
    assert [row["loss"] for row in one.curve] == [row["loss"] for row in other.curve]
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_an_outcome(tmp_path: Path) -> None:
    _, trained = bias_training(
        tmp_path, float("inf"), lambda step: (torch.zeros(1, 1).long(), torch.full((1, 1), -100))
    )
    assert trained.outcome == "diverged"


def synthetic(experiment: Recall, accuracy: Callable[[str, int], float]) -> list[Line]:
    lines: list[Line] = []
    while (run := next(iter(experiment.plan(lines)), None)) is not None:
        found = {f"{t} tokens, {k} pairs": accuracy(run.arm, k) for t, k in experiment.settings.tested}
        diverged = run.arm == "gru" and run.learning_rate == 2e-2
        measured = {
            "parameters": 1000,
            "state_numbers": None if run.arm == "attention" else 64,
            "outcome": "diverged" if diverged else "finished",
            "results": {"curve": []} | ({} if diverged else {"accuracy": found}),
        }
        lines.append(asdict(run) | results.environment(torch.device("cpu")) | {"seconds": 1.0} | measured)
    return lines


@pytest.mark.parametrize("solved", [True, False])
def test_the_report_is_made_from_the_lines(tmp_path: Path, solved: bool) -> None:
    experiment = Recall(only=("attention", "gru"))
    accuracy = lambda name, pairs: 1.0 if solved and name == "attention" else 1 / pairs  # noqa: E731
    for line in synthetic(experiment, accuracy):
        results.append(tmp_path / "recall.jsonl", line)
    assert command.main(["report", "--results", str(tmp_path), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "results.md").read_text()
    assert "| attention | 1,000 | grows | " in page
    words = " ".join(page.split())
    assert ("**Accuracy: attention wins on the trained sizes (1.000; GRU 0.117)" in words) == solved
    assert ("**Void: attention reaches 0.031 on 128 tokens" in words) != solved
    assert page.count("## ") == 1
    for name in ("learning_rates", "state"):
        assert f"(results/recall_{name}.png)" in page
        assert (tmp_path / "results" / f"recall_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_two_processes_did_counts_once() -> None:
    toy = Toy(only=("gru",))
    lines = done(toy)
    assert toy.current([*lines, *lines]) == lines
