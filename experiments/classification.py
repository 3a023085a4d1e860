"""What the classification experiments share: one run, tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from experiments import encoders, markdown, pictures
from experiments.arms import count_parameters
from experiments.base import FINISHED, Experiment, Run, Sweep
from experiments.cases import CaseSettings
from experiments.course import Course, Part
from experiments.reader import Reader
from experiments.results import Line
from experiments.sequences import SEQUENCES
from experiments.sequences.base import SequenceData
from experiments.training import Budget, Checkpoint, train
from fftnet.model.classifier import SequenceClassifierConfig
from fftnet.model.vit import ViTConfig
from fftnet.protocols import Batch
from fftnet.serialization import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClassificationExperiment(Experiment):
    """One class a sequence or image; the score is the accuracy on validation, the tables show the test's."""

    sweep = Sweep(learning_rates=(1e-3, 3e-3, 6e-3), weight_decays=(0.05,))
    arms_table: ClassVar[Mapping[str, Any]] = encoders.ENCODERS
    settings_of: ClassVar[Mapping[str, CaseSettings]]
    """Name of a case to its settings."""
    published: ClassVar[str] = ""
    """A paragraph or table under the tables: what others have reported."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.cases = tuple(self.settings_of)
        self.settings = dict(self.settings_of)
        super().__init__(*args, **options)
        if self.is_quick:
            self.settings = {case: self.tiny(settings) for case, settings in self.settings.items()}
            self.sweep = replace(self.sweep, learning_rates=self.sweep.learning_rates[:1], seeds=(0,))

    def tiny(self, settings: CaseSettings) -> CaseSettings:
        """Sizes for ``quick``."""
        return replace(
            settings,
            sizes=(8, 4, 4),
            d_model=16,
            num_layers=2,
            parameters=40_000,
            rows=2,
            stages=tuple(replace(stage, steps=1, rows=2) for stage in settings.stages),
            curve_rows=2,
            budget=Budget(steps=len(settings.stages) + 3, points=1),
        )

    def find_arm(self, name: str) -> encoders.Encoder:
        """The arm of that name."""
        return encoders.encoder(name)

    def configuration(self, arm: str, case: str) -> dict[str, Any]:
        """The arm and the settings of the case, as they come back from JSON.

        What a setting is by default is left out, so that a new one changes nothing of what has been run.
        """
        settings = self.settings[case]
        usual = {field.name: field.default for field in fields(settings)}
        chosen = {name: value for name, value in asdict(settings).items() if value != usual[name]}
        return as_json({"arm": self.find_arm(arm).definition(), "settings": chosen})

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model; classify all validation and test rows."""
        settings = self.settings[run.case]
        data = _data(settings.data, settings.sizes, self.workbench.cache)
        sizes = _sizes(data, settings)
        model = encoders.build(
            run.arm, sizes, settings.parameters, run.seed, settings.num_anchors, settings.pairs
        ).to(self.workbench.device)
        course = self._course(data, settings, run.seed)
        read = Reader(data, settings)

        def batch(step: int) -> Batch:
            found = course.batch(step)
            if settings.augment:
                found = read.moved(found, run.seed, step)
            if settings.budget.used(step, 0.0) < settings.reading_share:
                found = found._replace(loss_mask=torch.zeros_like(found.loss_mask))
            return found

        def measure() -> dict[str, Any]:
            return {"valid": round(read.accuracy(model, data.valid, settings.curve_rows), 4)}

        trained = train(
            model,
            run,
            settings.budget,
            batch,
            measure,
            Checkpoint(run, self.workbench),
            settings.precision,
            read.loss,
        )
        results: dict[str, Any] = {"curve": trained.curve, "training_seconds": round(trained.seconds, 1)}
        if trained.outcome == FINISHED:
            model.eval()
            results |= {
                "valid": round(read.accuracy(model, data.valid), 4),
                "test": round(read.accuracy(model, data.test), 4),
                "epochs": round(course.epochs(trained.steps), 2),
                "test_rows": len(data.test),
            }
        return {
            "parameters": count_parameters(model),
            "state_numbers": None,
            "outcome": trained.outcome,
            "results": results,
        }

    def _course(self, data: SequenceData, settings: CaseSettings, seed: int) -> Course:
        before = [
            Part(_data(stage.data, settings.sizes, self.workbench.cache).train, stage.steps, stage.rows)
            for stage in settings.stages
        ]
        return Course([*before, Part(data.train, 0, settings.rows)], seed)

    def score(self, line: Line) -> float:
        """Accuracy on validation, by which a learning rate is chosen."""
        return line["results"]["valid"]

    def tables(self, lines: Sequence[Line]) -> str:
        """An arm a row, a data set a column: accuracy on the test split."""
        shown = [case for case in self.cases if self.reported(lines, case)]
        names = [arm for arm in self.arms_table if any(self.best(lines, arm, case) for case in shown)]
        rows = [[self.label(arm), *(self._cell(lines, arm, case) for case in shown)] for arm in names]
        parts = [markdown.table(["model", *shown], rows)]
        parts += [self._caption(lines, case) for case in shown]
        return "\n\n".join([*parts, self.published] if self.published else parts)

    def _cell(self, lines: Sequence[Line], arm: str, case: str) -> str:
        found = [100 * line["results"]["test"] for line in self.seeds(lines, arm, case)]
        return markdown.spread(found, digits=1) if found else ""

    def _caption(self, lines: Sequence[Line], case: str) -> str:
        settings = self.settings[case]
        best = [self.seeds(lines, arm, case)[0] for arm in self.reported(lines, case)]
        minutes = sorted({f"{line['results']['training_seconds'] / 60:.0f}" for line in best}, key=int)
        rates = sorted({f"{line['learning_rate']:g}" for line in self.current(lines) if line["case"] == case})
        before = "".join(
            f"{stage.steps:,} of {stage.rows} rows of {stage.data}, " for stage in settings.stages
        )
        own = (settings.budget.steps or 0) - sum(stage.steps for stage in settings.stages)
        reading = (
            f", reading only in the first {settings.reading_share:.0%}" if settings.reading_share else ""
        )
        span = " to ".join(dict.fromkeys((minutes[0], minutes[-1])))
        results = best[0]["results"]
        return (
            f"**{case}**: {settings.parameters:,} parameters (D = {settings.d_model}, {settings.num_layers} "
            f"layers), {settings.pooling} pooling, steps: {before}{own:,} of {settings.rows} rows "
            f"({results['epochs']:g} epochs){reading}, "
            f"{span} minutes a run, learning rates {', '.join(rates)}; {results['test_rows']:,} test rows."
        )

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Accuracy on validation over the steps, a panel for each data set; and over learning rates."""
        shown = [case for case in self.cases if self.reported(lines, case)]
        figure, panels = pictures.panels(max(len(shown), 1), width=4.0, height=3.6)
        for axes, case in zip(panels, shown, strict=False):
            for arm in self.reported(lines, case):
                for line in self.seeds(lines, arm, case):
                    curve = line["results"]["curve"]
                    steps = [row["step"] for row in curve]
                    label = self.label(arm) if line["seed"] == self.sweep.seeds[0] else None
                    axes.plot(steps, [row["valid"] for row in curve], color=pictures.colour(arm), label=label)
            axes.set(xlabel="steps", ylabel="accuracy, validation", title=case)
            axes.locator_params(axis="x", nbins=5)
            axes.xaxis.set_major_formatter("{x:,.0f}")
        pictures.legend(figure)
        return {"curves": figure} | pictures.over_learning_rates(self, lines, "accuracy, validation")


def _sizes(data: SequenceData, settings: CaseSettings) -> SequenceClassifierConfig | ViTConfig:
    both: dict[str, Any] = {
        "d_model": settings.d_model,
        "num_heads": settings.num_heads,
        "num_layers": settings.num_layers,
        "dropout": settings.dropout,
        "pooling": settings.pooling,
        "num_classes": len(data.class_names),
        "class_names": data.class_names,
    }
    if settings.patch_size:
        assert data.image_shape is not None
        return ViTConfig(
            **both, image_size=data.image_shape[0], patch_size=settings.patch_size, num_channels=1
        )
    # The last id is the mask.
    return SequenceClassifierConfig(**both, vocab_size=data.vocab_size + (settings.reading_share > 0))


@lru_cache(maxsize=4)
def _data(name: str, sizes: tuple[int, int, int] | None, cache: Path) -> SequenceData:
    return SEQUENCES[name](cache, sizes)
