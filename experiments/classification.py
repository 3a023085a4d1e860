"""What the classification experiments share: settings of a data set, one run, tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import encoders, markdown, pictures
from experiments.arms import count_parameters
from experiments.base import FINISHED, Experiment, Run
from experiments.results import Line
from experiments.sequences import SEQUENCES
from experiments.sequences.base import Rows, SequenceData
from experiments.training import BF16, FP32, Budget, Checkpoint, train
from fftnet.data.images.augmentation import cropped, flipped
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.pooling import MEAN, pooled
from fftnet.model.vit import ViTConfig
from fftnet.protocols import Batch
from fftnet.serialization import as_json
from fftnet.tasks.masked_token import MASKED_FRACTION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READ_AT_ONCE = 32
"""Rows of a batch that is only read."""
SHIFT = 1
"""Pixels by which a training image may be moved to each side."""


@dataclass(frozen=True, kw_only=True)
class CaseSettings:
    """A data set, the models on it and their training."""

    data: str
    """A name in the table of sequences."""
    sizes: tuple[int, int, int] | None = None
    """Rows of training, validation and test (None: as published)."""
    d_model: int = 64
    """Width D."""
    num_layers: int = 4
    """Blocks of mixer and feed-forward."""
    num_heads: int = 4
    """Heads H."""
    parameters: int = 250_000
    """Of the whole model, met by the width of the feed-forward."""
    patch_size: int = 0
    """Pixels of a side of the patches that an image is read in; 0: its ids one by one."""
    dropout: float = 0.1
    """Probability of dropping a value in training."""
    rows: int = 32
    """Rows of a batch."""
    augment: bool = False
    """Move and mirror training images at random."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes in training."""
    reading_share: float = 0.0
    """Share of the steps in which the training rows are only read: the next token is learned in causal arms,
    masked tokens in the others; afterwards that goes on beside the classes (0: classes alone)."""
    curve_rows: int = 500
    """Validation rows that a point of the curve is measured on."""
    precision: str = FP32
    """Of the matrix products of training."""
    budget: Budget
    """Of training."""


class ClassificationExperiment(Experiment):
    """One class a sequence or image; the score is the accuracy on validation, the tables show the test's."""

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
            curve_rows=2,
            budget=Budget(steps=3, points=1),
        )

    def find_arm(self, name: str) -> encoders.Encoder:
        """The arm of that name."""
        return encoders.encoder(name)

    def configuration(self, arm: str, case: str) -> dict[str, Any]:
        """The arm and the settings of the case, as they come back from JSON."""
        return as_json({"arm": self.find_arm(arm).definition(), "settings": asdict(self.settings[case])})

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model; classify all validation and test rows."""
        settings = self.settings[run.case]
        data = _data(settings.data, settings.sizes, self.workbench.cache)
        model = encoders.build(run.arm, _sizes(data, settings), settings.parameters, run.seed)
        model = model.to(self.workbench.device)
        batches = data.train.batches(settings.rows, run.seed)
        read = Reader(data, settings)

        def batch(step: int) -> Batch:
            found = batches.batch(*divmod(step, batches.num_batches))
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
                "epochs": round(trained.steps / batches.num_batches, 2),
                "test_rows": len(data.test),
            }
        return {
            "parameters": count_parameters(model),
            "state_numbers": None,
            "outcome": trained.outcome,
            "results": results,
        }

    def score(self, line: Line) -> float:
        """Accuracy on validation, by which a learning rate is chosen."""
        return line["results"]["valid"]

    def tables(self, lines: Sequence[Line]) -> str:
        """An arm a row, a data set a column: accuracy on the test split."""
        shown = [case for case in self.cases if self.reported(lines, case)]
        names = [arm for arm in self.arms_table if any(self.best(lines, arm, case) for case in shown)]
        rows = [[arm, *(self._cell(lines, arm, case) for case in shown)] for arm in names]
        parts = [markdown.table(["arm", *shown], rows)]
        parts += [self._caption(lines, case) for case in shown]
        return "\n\n".join([*parts, self.published] if self.published else parts)

    def _cell(self, lines: Sequence[Line], arm: str, case: str) -> str:
        found = [100 * line["results"]["test"] for line in self.seeds(lines, arm, case)]
        return markdown.spread(found, digits=1) if found else ""

    def _caption(self, lines: Sequence[Line], case: str) -> str:
        settings = self.settings[case]
        best = [self.seeds(lines, arm, case)[0] for arm in self.reported(lines, case)]
        minutes = [line["results"]["training_seconds"] / 60 for line in best]
        rates = sorted({f"{line['learning_rate']:g}" for line in self.current(lines) if line["case"] == case})
        return (
            f"**{case}**: {settings.parameters:,} parameters (D = {settings.d_model}, {settings.num_layers} "
            f"layers), {settings.budget.steps:,} steps of {settings.rows} rows "
            f"({best[0]['results']['epochs']:g} epochs), {min(minutes):.0f} to {max(minutes):.0f} minutes a "
            f"run, learning rates {', '.join(rates)}; {best[0]['results']['test_rows']:,} test rows."
        )

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Accuracy on validation over the steps, a panel for each data set."""
        shown = [case for case in self.cases if self.reported(lines, case)]
        figure, panels = pictures.panels(max(len(shown), 1), width=4.0, height=3.6)
        for axes, case in zip(panels, shown, strict=False):
            for arm in self.reported(lines, case):
                for line in self.seeds(lines, arm, case):
                    curve = line["results"]["curve"]
                    steps = [row["step"] for row in curve]
                    label = arm if line["seed"] == self.sweep.seeds[0] else None
                    axes.plot(steps, [row["valid"] for row in curve], color=pictures.colour(arm), label=label)
            axes.set(xlabel="steps", ylabel="accuracy, validation", title=case)
        panels[0].legend(fontsize="x-small")
        return {"curves": figure}


class Reader:
    """Hands rows to a model in the form that it reads, be it ids or images.

    Args:
        data: the data set; its training rows give mean and deviation of pixels.
        settings: patches and label smoothing.
    """

    def __init__(self, data: SequenceData, settings: CaseSettings) -> None:
        self.settings = settings
        self.image_shape = data.image_shape if settings.patch_size else None
        sample = data.train.ids[: 2**22].astype("float32")
        self.mean = float(sample.mean())
        self.deviation = max(float(sample.std()), 1.0)

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Logits (B, K), float32."""
        device = next(model.parameters()).device
        if self.image_shape is None:
            batch = batch.to(device)
            return model(batch.inputs, batch.attention_mask).float()
        images = (batch.inputs.float() - self.mean) / self.deviation
        return model(images.view(len(images), 1, *self.image_shape).to(device)).float()

    def moved(self, batch: Batch, seed: int, step: int) -> Batch:
        """The images of a batch moved by up to ``SHIFT`` pixels each way, half of them mirrored."""
        assert self.image_shape is not None
        generator = np.random.default_rng([seed, step])
        images_BHW1 = batch.inputs.view(-1, *self.image_shape, 1).numpy()
        top_B, left_B = generator.integers(0, 2 * SHIFT + 1, (len(images_BHW1), 2)).T
        moved_BHW1 = cropped(images_BHW1, SHIFT, top_B, left_B)
        moved_BHW1 = flipped(moved_BHW1, generator.random(len(moved_BHW1)) < 0.5)
        return batch._replace(inputs=torch.from_numpy(moved_BHW1).flatten(1))

    def loss(self, model: Any, batch: Batch, precision: str) -> Tensor:
        """Mean cross-entropy of the rows that count; with that of reading, where rows are read."""
        device = next(model.parameters()).device
        reading = torch.zeros((), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16):
            if self.settings.reading_share:
                logits, reading = self._read(model, batch.to(device))
            else:
                logits = self.logits(model, batch)
        smoothing = self.settings.label_smoothing
        targets = batch.targets.to(device)
        loss_B = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")
        counted_B = batch.loss_mask.to(device)
        return (loss_B * counted_B).sum() / counted_B.sum().clamp(min=1) + reading

    def _read(self, model: FFTNetForSequenceClassification, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of the classes, and the mean loss of the next tokens, or of masked ones, in nats."""
        config = model.config
        inputs_BT = batch.inputs
        present_BT = torch.ones_like(inputs_BT, dtype=torch.bool)
        if batch.attention_mask is not None:
            present_BT = batch.attention_mask
        masked_BT = torch.zeros_like(present_BT)
        if not config.causal:
            masked_BT = present_BT & (torch.rand(inputs_BT.shape, device=inputs_BT.device) < MASKED_FRACTION)
        hidden_BTD = model.backbone(
            model.embedding(inputs_BT.masked_fill(masked_BT, config.vocab_size - 1)), batch.attention_mask
        )
        logits = model.score(pooled(hidden_BTD, config.pooling or MEAN, batch.attention_mask))
        if config.causal:
            asked_BT = present_BT[:, 1:]
            read_ND, targets_N = hidden_BTD[:, :-1][asked_BT], inputs_BT[:, 1:][asked_BT]
        else:
            read_ND, targets_N = hidden_BTD[masked_BT], inputs_BT[masked_BT]
        return logits, F.cross_entropy(model.embedding(read_ND).float(), targets_N)

    @torch.no_grad()
    def accuracy(self, model: nn.Module, rows: Rows, most: int | None = None) -> float:
        """Share of (the first ``most``) rows whose class has the largest logit."""
        # By length, so that a batch needs little padding.
        rows = rows.take(np.argsort(np.diff(rows.ends, prepend=0)[:most], kind="stable"))
        batches = rows.batches(READ_AT_ONCE, None)
        right = 0
        for index in range(batches.num_batches):
            batch = batches.batch(0, index)
            guess = self.logits(model, batch).argmax(dim=-1).cpu()
            right += int((guess == batch.targets).sum())
        return right / len(rows)


def _sizes(data: SequenceData, settings: CaseSettings) -> SequenceClassifierConfig | ViTConfig:
    if settings.patch_size:
        assert data.image_shape is not None
        return ViTConfig(
            d_model=settings.d_model,
            num_heads=settings.num_heads,
            num_layers=settings.num_layers,
            dropout=settings.dropout,
            image_size=data.image_shape[0],
            patch_size=settings.patch_size,
            num_channels=1,
            num_classes=len(data.class_names),
            class_names=data.class_names,
        )
    return SequenceClassifierConfig(
        d_model=settings.d_model,
        num_heads=settings.num_heads,
        num_layers=settings.num_layers,
        dropout=settings.dropout,
        # The last id is the mask.
        vocab_size=data.vocab_size + (settings.reading_share > 0),
        num_classes=len(data.class_names),
        class_names=data.class_names,
    )


@lru_cache(maxsize=2)
def _data(name: str, sizes: tuple[int, int, int] | None, cache: Path) -> SequenceData:
    return SEQUENCES[name](cache, sizes)
