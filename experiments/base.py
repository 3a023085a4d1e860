"""What an experiment is: arms, a sweep, a plan, a measurement, a control, tables and pictures."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from experiments import arms
from experiments.results import CACHE, Line, key_of
from fftnet.serialization import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FINISHED = "finished"
DIVERGED = "diverged"
"""The outcome of a run whose loss stopped being a finite number."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which learning rates, weight decays and seeds are run."""

    learning_rates: tuple[float, ...]
    """Peaks of the schedule."""
    weight_decays: tuple[float, ...] = (0.1,)
    """The first is tried with every learning rate, the others with the best."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The sweep runs on the first; the others follow at the best."""


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Where and how long a process works."""

    cache: Path = CACHE
    """Folder of checkpoints and corpora."""
    deadline: float = math.inf
    """Time of ``time.monotonic`` at which a run puts itself away and the process ends."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it never changes
    """Where models train and are measured."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training or measurement: what decides its result, and nothing else."""

    experiment: str
    case: str
    """Task or corpus; empty where there is one only."""
    arm: str
    configuration: Mapping[str, Any] = field(hash=False)
    """The arm's definition and all sizes and budgets, as JSON."""
    learning_rate: float
    weight_decay: float
    seed: int

    @property
    def digest(self) -> str:
        """A short name for files that belong to this run."""
        return digest_of(asdict(self))


def digest_of(line: Mapping[str, Any]) -> str:
    """The ``digest`` of the run that a line records."""
    return hashlib.sha256(key_of(line).encode()).hexdigest()[:16]


class Experiment(ABC):
    """One question, put to all arms alike.

    Attributes:
        name: of the file and of its results.
        title: heading in the report.
        about: what is done and how it is scored, for the report; plain sentences.
        reference: the arm that must succeed, or nothing can be said of the others; it is swept first.
        lower_is_better: whether the score is a loss.

    Args:
        quick: tiny sizes, to try the whole way in seconds.
        only: names of arms to run (empty: all that the table has for this experiment).
        workbench: folder and deadline.

    Raises:
        ExperimentError: if there is no arm of a name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    reference: ClassVar[str] = "attention"
    lower_is_better: ClassVar[bool] = False
    sweep: Sweep
    settings: Any
    """A frozen dataclass of all sizes."""
    arms_table: ClassVar[Mapping[str, Any]] = arms.ARMS
    """Name to arm, in the order of the report; an arm names the experiments that run it."""
    cases: tuple[str, ...] = ("",)

    def __init__(
        self, quick: bool = False, only: Sequence[str] = (), workbench: Workbench | None = None
    ) -> None:
        self.is_quick = quick
        self.workbench = workbench or Workbench()
        self.arms = tuple(only) or tuple(
            name for name, arm in self.arms_table.items() if self.name in arm.experiments
        )
        for name in self.arms:
            self.find_arm(name)

    @abstractmethod
    def execute(self, run: Run) -> dict[str, Any]:
        """Do one run.

        Returns:
            Fields of the line: ``parameters``, ``state_numbers``, ``outcome`` and ``results``.
        """

    @abstractmethod
    def score(self, line: Line) -> float:
        """The number that the best run of a sweep is chosen by."""

    @abstractmethod
    def tables(self, lines: Sequence[Line]) -> str:
        """Markdown of everything that was measured."""

    def control(self, lines: Sequence[Line]) -> str | None:
        """The sentence that says why nothing follows from these results, or None."""
        return None

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Name of a picture to the picture."""
        return {}

    def find_arm(self, name: str) -> Any:
        """The arm of that name.

        Raises:
            ExperimentError: if there is none.
        """
        return arms.arm(name)

    def label(self, arm: str) -> str:
        """Return the name of an arm in tables and legends."""
        return self.arms_table[arm].label or arm

    def configuration(self, arm: str, case: str) -> dict[str, Any]:
        """What decides a run beside sweep and seed, as it comes back from JSON."""
        return as_json({"arm": self.find_arm(arm).definition(), "settings": asdict(self.settings)})

    def run(self, arm: str, case: str, learning_rate: float, weight_decay: float, seed: int) -> Run:
        """The run of these choices."""
        return Run(
            experiment=self.name,
            case=case,
            arm=arm,
            configuration=self.configuration(arm, case),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
        )

    def plan(self, lines: Sequence[Line]) -> Iterator[Run]:
        """The runs that are still wanted, those that decide most first.

        Case by case: the reference's learning rates, since nothing counts if it fails; the others', one at a
        time and the middle ones first; then the other weight decays and seeds at each arm's best.

        Args:
            lines: of the runs that were made, of whatever configuration.
        """
        done = {key_of(line) for line in lines}
        for case in self.cases:
            for run in self._wanted(case, lines):
                if key_of(asdict(run)) not in done:
                    yield run

    def _wanted(self, case: str, lines: Sequence[Line]) -> Iterator[Run]:
        first, *others = self.sweep.seeds
        decay, *other_decays = self.sweep.weight_decays
        rates = _middle_first(self.sweep.learning_rates)
        if self.reference in self.arms:
            for rate in rates:
                yield self.run(self.reference, case, rate, decay, first)
        for rate in rates:
            for arm in self.arms:
                yield self.run(arm, case, rate, decay, first)
        # What follows is done at the best rate, which is known when all of them have run.
        swept = [arm for arm in self.arms if self._tried(lines, arm, case, "learning_rate") >= set(rates)]
        for decay in other_decays:
            for arm in swept:
                best = self.best(lines, arm, case)
                if best is not None:
                    yield self.run(arm, case, best["learning_rate"], decay, first)
        decays = set(self.sweep.weight_decays)
        decided = [arm for arm in swept if self._tried(lines, arm, case, "weight_decay") >= decays]
        for seed in others:
            for arm in decided:
                best = self.best(lines, arm, case)
                if best is not None:
                    yield self.run(arm, case, best["learning_rate"], best["weight_decay"], seed)

    def _tried(self, lines: Sequence[Line], arm: str, case: str, choice: str) -> set[float]:
        """The values of a choice that an arm's sweep has lines of."""
        return {line[choice] for line in self.swept(lines, arm, case)}

    def current(self, lines: Sequence[Line]) -> list[Line]:
        """The lines whose configuration is that of today; others answer another question."""
        found = {
            key_of(line): line
            for line in lines
            if line["arm"] in self.arms_table
            and line["case"] in self.cases
            and line["configuration"] == self.configuration(line["arm"], line["case"])
        }
        # A run that two processes did at the same time counts once.
        return list(found.values())

    def of(self, lines: Sequence[Line], arm: str, case: str = "") -> list[Line]:
        """An arm's lines of today's configuration."""
        return [line for line in self.current(lines) if line["arm"] == arm and line["case"] == case]

    def swept(self, lines: Sequence[Line], arm: str, case: str = "") -> list[Line]:
        """An arm's lines of the sweep, by learning rate and weight decay."""
        first = self.sweep.seeds[0]
        rows = [line for line in self.of(lines, arm, case) if line["seed"] == first]
        return sorted(rows, key=lambda line: (line["learning_rate"], line["weight_decay"]))

    def best(self, lines: Sequence[Line], arm: str, case: str = "") -> Line | None:
        """The best finished line of an arm's sweep; None where there is none."""
        rows = [line for line in self.swept(lines, arm, case) if line["outcome"] == FINISHED]
        choose = min if self.lower_is_better else max
        return choose(rows, key=self.score, default=None)

    def seeds(self, lines: Sequence[Line], arm: str, case: str = "") -> list[Line]:
        """All finished seeds at the best of an arm's sweep, the sweep's own first."""
        best = self.best(lines, arm, case)
        if best is None:
            return []
        same = ("learning_rate", "weight_decay")
        rows = [
            line
            for line in self.of(lines, arm, case)
            if line["outcome"] == FINISHED and all(line[name] == best[name] for name in same)
        ]
        return sorted(rows, key=lambda line: line["seed"])

    def reported(self, lines: Sequence[Line], case: str = "") -> list[str]:
        """Names of the arms that have finished lines, in the order of the table."""
        return [name for name in self.arms_table if self.best(lines, name, case) is not None]


def _middle_first(values: Sequence[float]) -> list[float]:
    middle = (len(values) - 1) / 2
    return [value for _, value in sorted(enumerate(values), key=lambda pair: abs(pair[0] - middle))]
