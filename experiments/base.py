"""Framework of an experiment: models, a sweep, a plan of runs, a control, tables and pictures."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from experiments import models
from experiments.results import CACHE, Line, key_of
from fftnet.serialization import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FINISHED = "finished"
DIVERGED = "diverged"
"""Outcome of a run whose loss stopped being a finite number."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Learning rates, weight decays and seeds of an experiment."""

    learning_rates: tuple[float, ...]
    """Peaks of the schedule."""
    weight_decays: tuple[float, ...] = (0.1,)
    """The first is tried with every learning rate, the others with the best."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The sweep runs on the first seed; the others follow at the best choice."""


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Folder, deadline and device of a process."""

    cache: Path = CACHE
    """Folder of checkpoints and corpora."""
    deadline: float = math.inf
    """Time of ``time.monotonic`` at which a run is saved and the process ends."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it never changes
    """Device on which models train and are measured."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training or measurement: everything that decides its result, and nothing else."""

    experiment: str
    case: str
    """Task, corpus or data set; empty if there is only one."""
    arm: str
    """Name of the model; stored lines have it under this key."""
    configuration: Mapping[str, Any] = field(hash=False)
    """Definition of the model and all sizes and budgets, as JSON."""
    learning_rate: float
    weight_decay: float
    seed: int

    @property
    def digest(self) -> str:
        """Short name for files that belong to this run."""
        return digest_of(asdict(self))


def digest_of(line: Mapping[str, Any]) -> str:
    """Return the ``digest`` of the run that a line records."""
    return hashlib.sha256(key_of(line).encode()).hexdigest()[:16]


class Experiment(ABC):
    """One question, put to all models alike.

    Attributes:
        name: name of the experiment and of its result file.
        title: heading in the report.
        about: description and score for the report, in plain sentences.
        reference: model that must succeed, or nothing can be said about the others. It is swept first.
        lower_is_better: True if the score is a loss.
        unit: name of the score in the sentence about the best model.

    Args:
        quick: use tiny sizes, to try everything in seconds.
        only: names of models to run (empty: all that the table has for this experiment).
        workbench: folder, deadline and device.

    Raises:
        ExperimentError: if there is no model of a name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    reference: ClassVar[str] = "attention"
    lower_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "Accuracy"
    sweep: Sweep
    settings: Any
    """Frozen dataclass of all sizes."""
    cases: tuple[str, ...] = ("",)

    def __init__(
        self, quick: bool = False, only: Sequence[str] = (), workbench: Workbench | None = None
    ) -> None:
        self.is_quick = quick
        self.workbench = workbench or Workbench()
        self.models = tuple(only) or tuple(
            name for name, model in models.MODELS.items() if self.name in model.experiments
        )
        for name in self.models:
            models.find(name)

    @abstractmethod
    def execute(self, run: Run) -> dict[str, Any]:
        """Do one run.

        Returns:
            Fields of the line: ``parameters``, ``state_numbers``, ``outcome`` and ``results``.
        """

    @abstractmethod
    def score(self, line: Line) -> float:
        """Return the number by which the best run of a sweep is chosen."""

    @abstractmethod
    def tables(self, lines: Sequence[Line]) -> str:
        """Return everything that was measured as Markdown, the sentence about the best model first."""

    def control(self, lines: Sequence[Line]) -> str | None:
        """Return a sentence that says why nothing follows from these results, or None."""
        return None

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Return the pictures by their names."""
        return {}

    def label(self, model: str) -> str:
        """Return the name of a model in tables and legends."""
        return models.MODELS[model].label or model

    def definition(self, model: str) -> dict[str, Any]:
        """Return the choices of a model that decide its results."""
        return models.find(model).language_definition()

    def configuration(self, model: str, case: str) -> dict[str, Any]:
        """Return everything that decides a run next to sweep and seed, as it comes back from JSON."""
        return as_json({"arm": self.definition(model), "settings": asdict(self.settings)})

    def run(self, model: str, case: str, learning_rate: float, weight_decay: float, seed: int) -> Run:
        """Return the run of these choices."""
        return Run(
            experiment=self.name,
            case=case,
            arm=model,
            configuration=self.configuration(model, case),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
        )

    def plan(self, lines: Sequence[Line]) -> Iterator[Run]:
        """Yield the runs that are still missing, the most decisive ones first.

        Case by case: the reference's learning rates, since nothing counts if it fails; those of the other
        models, one at a time and the middle ones first; then the other weight decays and seeds at each
        model's best.

        Args:
            lines: lines of the runs that were made, of any configuration.
        """
        # Lines are compared by everything that decides a result, so a changed setting is a new run.
        done = {key_of(line) for line in lines}
        for case in self.cases:
            for run in self._wanted(case, lines):
                if key_of(asdict(run)) not in done:
                    yield run

    def _wanted(self, case: str, lines: Sequence[Line]) -> Iterator[Run]:
        first, *others = self.sweep.seeds
        decay, *other_decays = self.sweep.weight_decays
        rates = _middle_first(self.sweep.learning_rates)
        # The reference first; its runs are skipped below, because they are done by then.
        if self.reference in self.models:
            for rate in rates:
                yield self.run(self.reference, case, rate, decay, first)
        for rate in rates:
            for model in self.models:
                yield self.run(model, case, rate, decay, first)
        # The rest runs at the best rate, which is known when all rates have run.
        swept = [
            name for name in self.models if self._tried(lines, name, case, "learning_rate") >= set(rates)
        ]
        for decay in other_decays:
            for model, best in self._at_best(swept, lines, case):
                yield self.run(model, case, best["learning_rate"], decay, first)
        # Seeds wait until the best weight decay is known.
        decays = set(self.sweep.weight_decays)
        decided = [name for name in swept if self._tried(lines, name, case, "weight_decay") >= decays]
        for seed in others:
            for model, best in self._at_best(decided, lines, case):
                yield self.run(model, case, best["learning_rate"], best["weight_decay"], seed)

    def _at_best(self, names: Sequence[str], lines: Sequence[Line], case: str) -> Iterator[tuple[str, Line]]:
        for name in names:
            best = self.best(lines, name, case)
            if best is not None:
                yield name, best

    def _tried(self, lines: Sequence[Line], model: str, case: str, choice: str) -> set[float]:
        """Return the values of a choice for which a model's sweep has lines."""
        return {line[choice] for line in self.swept(lines, model, case)}

    def current(self, lines: Sequence[Line]) -> list[Line]:
        """Return the lines of the current configuration. Other lines answer another question."""
        found = {
            key_of(line): line
            for line in lines
            if line["arm"] in models.MODELS
            and line["case"] in self.cases
            and line["configuration"] == self.configuration(line["arm"], line["case"])
        }
        # A run that two processes did at the same time counts once.
        return list(found.values())

    def of(self, lines: Sequence[Line], model: str, case: str = "") -> list[Line]:
        """Return a model's lines of the current configuration."""
        return [line for line in self.current(lines) if line["arm"] == model and line["case"] == case]

    def swept(self, lines: Sequence[Line], model: str, case: str = "") -> list[Line]:
        """Return a model's lines of the sweep, by learning rate and weight decay."""
        first = self.sweep.seeds[0]
        rows = [line for line in self.of(lines, model, case) if line["seed"] == first]
        return sorted(rows, key=lambda line: (line["learning_rate"], line["weight_decay"]))

    def best(self, lines: Sequence[Line], model: str, case: str = "") -> Line | None:
        """Return the best finished line of a model's sweep, or None if there is none."""
        rows = [line for line in self.swept(lines, model, case) if line["outcome"] == FINISHED]
        # Diverged runs have no score and can't be the best.
        choose = min if self.lower_is_better else max
        return choose(rows, key=self.score, default=None)

    def seeds(self, lines: Sequence[Line], model: str, case: str = "") -> list[Line]:
        """Return all finished seeds at the best choice of a model's sweep, the sweep's own first."""
        best = self.best(lines, model, case)
        if best is None:
            return []
        same = ("learning_rate", "weight_decay")
        rows = [
            line
            for line in self.of(lines, model, case)
            if line["outcome"] == FINISHED and all(line[name] == best[name] for name in same)
        ]
        return sorted(rows, key=lambda line: line["seed"])

    def reported(self, lines: Sequence[Line], case: str = "") -> list[str]:
        """Return the names of the models that have finished lines, in the order of the table."""
        return [name for name in models.MODELS if self.best(lines, name, case) is not None]


def _middle_first(values: Sequence[float]) -> list[float]:
    # Middle rates are the likeliest best ones, so an interrupted sweep has them.
    middle = (len(values) - 1) / 2
    return [value for _, value in sorted(enumerate(values), key=lambda pair: abs(pair[0] - middle))]
