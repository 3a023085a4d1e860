"""Base class of the classification experiments: one run, tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from experiments import building, models, pictures, tables
from experiments.base import Experiment, Run, Sweep
from experiments.classifier_data import CaseSettings, Curriculum, Part, Reader
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

CASE_NAMES = {
    "listops": "ListOps",
    "r8": "R8",
    "newsgroups": "20 Newsgroups",
    "retrieval": "passages",
    "pixels": "Fashion-MNIST pixels",
    "fashion_mnist": "Fashion-MNIST",
    "fashion_mnist_brief": "Fashion-MNIST, brief",
    "images": "Fashion-MNIST, brief",
}
"""Name of a case in tables and pictures."""


class ClassificationExperiment(Experiment):
    """One class for each sequence or image. The best run has the best validation; tables show the test."""

    unit = "Test accuracy in percent"
    sweep = Sweep(learning_rates=(1e-3, 3e-3, 6e-3), weight_decays=(0.05,))
    settings_of: ClassVar[Mapping[str, CaseSettings]]
    """Name of a case to its settings."""
    published: ClassVar[str] = ""
    """Published results, a paragraph or table under the tables."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.cases = tuple(self.settings_of)
        # A copy: tests and quick runs change it.
        self.settings = dict(self.settings_of)
        super().__init__(*args, **options)
        if self.is_quick:
            self.settings = {case: self.tiny(settings) for case, settings in self.settings.items()}
            self.sweep = replace(self.sweep, learning_rates=self.sweep.learning_rates[:1], seeds=(0,))

    def tiny(self, settings: CaseSettings) -> CaseSettings:
        """Return the sizes for ``quick``."""
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

    def label(self, model: str) -> str:
        """Return the name of a model, which says "causal" next to bidirectional models."""
        return "FFTNet (causal)" if model == "addressed" else super().label(model)

    def definition(self, model: str) -> dict[str, Any]:
        """Return the choices of a model that decide its results."""
        return models.find(model).classifier_definition()

    def configuration(self, model: str, case: str) -> dict[str, Any]:
        """Return the model and the settings of the case, as they come back from JSON.

        Settings at their defaults are left out, so that stored lines stay valid when a setting is added.
        """
        settings = self.settings[case]
        usual = {field.name: field.default for field in fields(settings)}
        chosen = {name: value for name, value in asdict(settings).items() if value != usual[name]}
        return as_json({"arm": self.definition(model), "settings": chosen})

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model; classify all validation and test rows."""
        settings = self.settings[run.case]
        data = _data(settings.data, settings.sizes, self.workbench.cache)
        model = building.build_classifier(
            run.arm,
            _sizes(data, settings),
            settings.parameters,
            run.seed,
            settings.num_anchors,
            settings.pairs,
        ).to(self.workbench.device)
        curriculum = self._curriculum(data, settings, run.seed)
        reader = Reader(data, settings)

        def batch(step: int) -> Batch:
            found = curriculum.batch(step)
            if settings.augment:
                found = reader.augmented(found, run.seed, step)
            # No row counts, so that only the loss without labels is left.
            if settings.budget.used(step, 0.0) < settings.reading_share:
                found = found._replace(loss_mask=torch.zeros_like(found.loss_mask))
            return found

        def measure() -> dict[str, Any]:
            return {"valid": round(reader.accuracy(model, data.valid, settings.curve_rows), 4)}

        def measure_all() -> dict[str, Any]:
            return {
                "valid": round(reader.accuracy(model, data.valid), 4),
                "test": round(reader.accuracy(model, data.test), 4),
                "epochs": round(curriculum.epochs(trained.steps), 2),
                "test_rows": len(data.test),
            }

        checkpoint = Checkpoint(run, self.workbench)
        trained = train(
            model, run, settings.budget, batch, measure, checkpoint, settings.precision, reader.loss
        )
        return trained.line(model, None, measure_all)

    def _curriculum(self, data: SequenceData, settings: CaseSettings, seed: int) -> Curriculum:
        before = [
            Part(_data(stage.data, settings.sizes, self.workbench.cache).train, stage.steps, stage.rows)
            for stage in settings.stages
        ]
        return Curriculum([*before, Part(data.train, 0, settings.rows)], seed)

    def score(self, line: Line) -> float:
        """Return the accuracy on validation, by which a learning rate is chosen."""
        return line["results"]["valid"]

    def tables(self, lines: Sequence[Line]) -> str:
        """Return the accuracy on the test split, a model a row, a data set a column."""
        cases = [case for case in self.cases if self.reported(lines, case)]
        scores = {
            CASE_NAMES.get(case, case): {
                self.label(name): [100 * line["results"]["test"] for line in self.seeds(lines, name, case)]
                for name in self.reported(lines, case)
            }
            for case in cases
        }
        names = [name for name in models.MODELS if any(self.best(lines, name, case) for case in cases)]
        rows = [
            [
                self.label(name),
                *(tables.number(found.get(self.label(name), []), 1) for found in scores.values()),
            ]
            for name in names
        ]
        parts = [self.sentence(scores), tables.table(["model", *scores], rows)]
        parts += [self._caption(lines, case) for case in cases]
        return "\n\n".join([*parts, self.published] if self.published else parts)

    def sentence(self, scores: dict[str, dict[str, list[float]]]) -> str:
        """Return the sentence about the best model."""
        return tables.winners(scores, self.unit, self.lower_is_better, digits=1)

    def _caption(self, lines: Sequence[Line], case: str) -> str:
        settings = self.settings[case]
        best = [self.seeds(lines, name, case)[0] for name in self.reported(lines, case)]
        minutes = sorted({f"{line['results']['training_seconds'] / 60:.0f}" for line in best}, key=int)
        rates = sorted({f"{line['learning_rate']:g}" for line in self.current(lines) if line["case"] == case})
        before = "".join(
            f"{stage.steps:,} of {stage.rows} rows of {stage.data}, " for stage in settings.stages
        )
        # Steps on the data of the case itself, after the earlier stages.
        own = (settings.budget.steps or 0) - sum(stage.steps for stage in settings.stages)
        reading = (
            f", without labels in the first {settings.reading_share:.0%}" if settings.reading_share else ""
        )
        span = " to ".join(dict.fromkeys((minutes[0], minutes[-1])))
        results = best[0]["results"]
        return (
            f"**{CASE_NAMES.get(case, case)}**: {settings.parameters:,} parameters (D = {settings.d_model}, "
            f"{settings.num_layers} layers), {settings.pooling} pooling, steps: {before}{own:,} of "
            f"{settings.rows} rows ({results['epochs']:g} epochs){reading}, {span} minutes a run, learning "
            f"rates {', '.join(rates)}; {results['test_rows']:,} test rows."
        )

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Draw the accuracy on validation over the steps and over learning rates, a panel a data set."""
        cases = [case for case in self.cases if self.reported(lines, case)]
        figure, panels = pictures.panels(max(len(cases), 1), width=4.0, height=3.6)
        for axes, case in zip(panels, cases, strict=False):
            for name in self.reported(lines, case):
                for line in self.seeds(lines, name, case):
                    curve = line["results"]["curve"]
                    steps = [row["step"] for row in curve]
                    # One entry in the legend for all seeds.
                    label = self.label(name) if line["seed"] == self.sweep.seeds[0] else None
                    axes.plot(
                        steps, [row["valid"] for row in curve], color=pictures.colour(name), label=label
                    )
            axes.set(xlabel="steps", ylabel="accuracy, validation", title=CASE_NAMES.get(case, case))
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
    # Training without labels needs one more id, the mask.
    return SequenceClassifierConfig(**both, vocab_size=data.vocab_size + (settings.reading_share > 0))


@lru_cache(maxsize=4)
def _data(name: str, sizes: tuple[int, int, int] | None, cache: Path) -> SequenceData:
    return SEQUENCES[name](cache, sizes)
