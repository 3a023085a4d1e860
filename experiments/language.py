"""Language models over bytes: models of equal size with equal tokens or equal time of training.

Bits per byte are all nats of the held-out documents, divided by ln 2 and by their raw bytes. The end of each
document is predicted, too. Held-out text is read in windows of the trained length, each from an empty state.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import building, byte_stream, corpora, models, pictures, tables
from experiments.base import FINISHED, Experiment, Run, Sweep
from experiments.byte_stream import ByteStream
from experiments.results import Line
from experiments.training import Batch, Budget, Checkpoint, train
from fftnet import serialization
from fftnet.model.fftnet_model import FFTNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READ_AT_ONCE = 4096
"""Held-out tokens of a forward pass."""


@dataclass(frozen=True, kw_only=True)
class LanguageSettings:
    """Sizes of the language models and of their training."""

    d_model: int = 128
    """Width D."""
    num_layers: int = 4
    """Blocks of mixer and feed-forward."""
    parameters: int = 1_000_000
    """Parameters of the whole model, reached by the width of the feed-forward."""
    window: int = 512
    """Tokens T of a row."""
    rows: int = 8
    """Rows of a batch."""
    tokens: int | None = 3_000_000
    """Tokens of the whole training (None: the time is given)."""
    seconds: float | None = None
    """Duration of the whole training in seconds (None: the tokens are given)."""
    precision: str = "bf16"
    """Dtype of the matrix products of training, as ``auto`` chooses it at this width. Losses are measured in
    float32."""
    points: int = 30
    """Points of the curves."""
    curve_windows: int = 32
    """Held-out windows, spread over all, that the curve is measured on."""
    held_out: float = 0.06
    """Held-out share of the bytes, in whole documents."""
    documents: int | None = None
    """Number of documents, from the first on (None: all)."""

    @property
    def budget(self) -> Budget:
        """Length of training."""
        # Whole batches only.
        steps = None if self.tokens is None else self.tokens // (self.window * self.rows)
        return Budget(steps=steps, seconds=self.seconds, points=self.points)


class Language(Experiment):
    """Language models with equal tokens of training."""

    name = "language"
    title = "Language modelling over bytes, equal tokens"
    about = (
        "Byte-level language models of 1M parameters (the width of the feed-forward is matched), windows of "
        "512 tokens, 3M tokens of training with bf16 matrix products. Bits per byte of whole held-out "
        "documents, read in fresh windows; the ends of documents are predicted, too. Lower is better."
    )
    lower_is_better = True
    unit = "Bits per byte"
    cases = ("shakespeare", "python-docs", "python-source")
    sweep = Sweep(learning_rates=(3e-3, 6e-3, 1.2e-2))
    settings = LanguageSettings()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_quick:
            self.cases = ("python-docs",)
            self.sweep = Sweep(learning_rates=(2e-3, 4e-3), seeds=(0,))
            self.settings = self.tiny()

    def tiny(self) -> LanguageSettings:
        """Return the sizes for ``quick``."""
        return LanguageSettings(
            d_model=64,
            num_layers=1,
            parameters=150_000,
            window=32,
            rows=2,
            tokens=640,
            points=3,
            curve_windows=4,
            documents=3,
        )

    def weights(self, digest: str) -> Path:
        """Return the file of a finished run's weights."""
        return self.workbench.cache / f"{self.name}-{digest}.safetensors"

    def model(self, name: str, seed: int) -> FFTNet:
        """Return a new model of that name."""
        return building.build_language_model(
            name,
            vocab_size=byte_stream.VOCABULARY,
            d_model=self.settings.d_model,
            num_layers=self.settings.num_layers,
            parameters=self.settings.parameters,
            seed=seed,
        )

    def streams(self, corpus: str) -> tuple[ByteStream, ByteStream]:
        """Return the training part and the held-out part of a corpus."""
        return _streams(corpus, self.workbench.cache, self.settings.held_out, self.settings.documents)

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model, measure it on the held-out documents, keep the weights."""
        settings = self.settings
        training, held_out = self.streams(run.case)
        model = self.model(run.arm, run.seed).to(self.workbench.device)
        inputs, targets = byte_stream.windows(held_out, settings.window)
        # Whole windows only: the last one may be short.
        chosen = np.linspace(0, max(len(inputs) - 2, 0), min(settings.curve_windows, len(inputs))).astype(int)
        sample = (inputs[chosen], targets[chosen])

        def batch(step: int) -> Batch:
            generator = np.random.default_rng([run.seed, step])
            return byte_stream.draw(training, generator, settings.rows, settings.window)

        def measure() -> dict[str, Any]:
            loss = byte_stream.total_nats(model, sample, READ_AT_ONCE) / sample[1].numel()
            return {"held_out": round(loss, 5)}

        def measure_all() -> dict[str, Any]:
            total = byte_stream.total_nats(model, (inputs, targets), READ_AT_ONCE)
            # The experiment on positions reads these weights.
            serialization.write_tensors(self.weights(run.digest), model.state_dict())
            return {
                "bits_per_byte": round(total / math.log(2) / held_out.raw_bytes, 5),
                "held_out_bytes": held_out.raw_bytes,
                "tokens": trained.steps * settings.rows * settings.window,
                "corpus": hashlib.sha256(training.ids.tobytes() + held_out.ids.tobytes()).hexdigest()[:16],
            }

        # Training on windows drawn by seed and step; the curve on the same sample each time.
        checkpoint = Checkpoint(run, self.workbench)
        trained = train(model, run, settings.budget, batch, measure, checkpoint, settings.precision)
        return trained.line(model, building.count_state(model), measure_all)

    def score(self, line: Line) -> float:
        """Return the bits per byte."""
        return line["results"]["bits_per_byte"]

    def tables(self, lines: Sequence[Line]) -> str:
        """Return bits per byte, a model a row and a corpus a column; ranges; choices and cost of the runs."""
        cases = [case for case in self.cases if self.reported(lines, case)]
        scores = {
            case: {
                self.label(name): [self.score(line) for line in self.seeds(lines, name, case)]
                for name in self.reported(lines, case)
            }
            for case in cases
        }
        names = [name for name in models.MODELS if any(self.label(name) in scores[case] for case in cases)]
        rows = [
            [self.label(name), *(tables.number(scores[case].get(self.label(name), [])) for case in cases)]
            for name in names
        ]
        parts = [self.sentence(scores), tables.table(["model", *cases], rows)]
        ranges = {case: tables.ranges(scores[case]) for case in cases}
        if any(ranges.values()):
            listed = "\n".join(f"- {case}: {text}" for case, text in ranges.items() if text)
            parts += ["Smallest to largest seed:", listed]
        parts.append(f"Held-out bytes: {', '.join(self._held_out(lines, case) for case in cases)}. The runs:")
        return "\n\n".join([*parts, self._runs(lines, cases, names)])

    def sentence(self, scores: dict[str, dict[str, list[float]]]) -> str:
        """Return the sentence about the best model."""
        return tables.winners(scores, self.unit, self.lower_is_better)

    def _held_out(self, lines: Sequence[Line], case: str) -> str:
        read = {
            (line["results"]["held_out_bytes"], line["results"]["corpus"])
            for line in self.current(lines)
            if line["case"] == case and line["outcome"] == FINISHED
        }
        sizes = " and ".join(sorted(f"{size:,}" for size, _ in read))
        # Python's own texts differ from one version of Python to another.
        mixed = " (**these runs read different texts**)" if len(read) > 1 else ""
        return f"{sizes} of {case}{mixed}"

    def _runs(self, lines: Sequence[Line], cases: Sequence[str], names: Sequence[str]) -> str:
        """Return sizes, choices and cost of each model's runs at its best choice, over all corpora."""
        rows = []
        for name in names:
            found = [line for case in cases for line in self.seeds(lines, name, case)]
            tokens = tables.mean([line["results"]["tokens"] for line in found])
            # The best rate may differ between corpora.
            rates = sorted({line["learning_rate"] for line in found})
            rows.append(
                [
                    self.label(name),
                    f"{found[0]['parameters']:,}",
                    tables.count(found[0]["state_numbers"]),
                    ", ".join(f"{rate:g}" for rate in rates),
                    str(len(found)),
                    f"{tokens / 1e6:.2f}M",
                    tables.number([line["results"]["training_seconds"] / 60 for line in found], digits=1),
                    ", ".join(sorted({line["processor"] for line in found})),
                ]
            )
        head = ["model", "parameters", "state", "learning rate", "runs", "tokens", "minutes", "processor"]
        return tables.table(head, rows)

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Draw bits per byte over learning rates, and for each corpus the loss over tokens and seconds.

        Seconds are left out if the runs were made by different processors.
        """
        found = pictures.over_learning_rates(self, lines, "bits per byte")
        for case in self.cases:
            if self.reported(lines, case):
                found[f"curves_{case}"] = self._curves(lines, case)
        return found

    def _curves(self, lines: Sequence[Line], case: str) -> "Figure":
        shown = [line for name in self.reported(lines, case) for line in self.seeds(lines, name, case)]
        units = ["tokens", "seconds"] if len({line["processor"] for line in shown}) == 1 else ["tokens"]
        figure, panels = pictures.panels(len(units), width=4.6, height=3.8)
        for axes, unit in zip(panels, units, strict=True):
            for line in shown:
                curve = line["results"]["curve"]
                label = self.label(line["arm"]) if line["seed"] == self.sweep.seeds[0] else None
                axes.plot(
                    [row[unit] for row in curve],
                    [row["held_out"] / math.log(2) for row in curve],
                    color=pictures.colour(line["arm"]),
                    label=label,
                )
            axes.set(xlabel=f"{unit} of training", ylabel="held-out bits per token", title=case)
            pictures.widen(axes)
        pictures.legend(figure)
        return figure


class LanguageInTime(Language):
    """Language models with equal wall time of training."""

    name = "language_time"
    title = "Language modelling over bytes, equal time"
    about = (
        "The same models and corpora, each trained for 90 seconds on two threads of the same machine with "
        "nothing else running: a faster model reads more. The learning-rate schedule follows the used share "
        "of the time. Learning rates are swept with one seed: on Python's documentation for both models, "
        "elsewhere for attention at the two best."
    )
    sweep = Sweep(learning_rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2))
    settings = LanguageSettings(tokens=None, seconds=90.0, points=12)

    def tiny(self) -> LanguageSettings:
        """Return the sizes for ``quick``."""
        return replace(super().tiny(), tokens=None, seconds=0.2)


class LongLanguage(Language):
    """Attention and FFTNet with seventeen times as many tokens, to see if the lead lasts."""

    name = "language_long"
    title = "Language modelling over bytes, one long run"
    about = (
        "The same models on Shakespeare's works for 50M tokens, eleven times through the text: attention "
        "starts slowly, so that a short training favours other models. One seed, one learning rate. Other "
        "work ran on the machine, so the minutes are those of a busy machine."
    )
    cases = ("shakespeare",)
    sweep = Sweep(learning_rates=(3e-3,), seeds=(0,))
    settings = LanguageSettings(tokens=50_000_000)

    def tiny(self) -> LanguageSettings:
        """Return the sizes for ``quick``."""
        return replace(super().tiny(), tokens=960)


class AblatedLanguage(Language):
    """Language models without a part of the causal layer, at one learning rate, with half of the tokens."""

    name = "ablation_language"
    title = "Ablation: language"
    about = (
        "The language experiment on Shakespeare's works with one part of the causal layer removed, 1.5M "
        "tokens, at one learning rate. Parameters are equal: the feed-forward gets those of the part."
    )
    reference = "addressed"
    cases = ("shakespeare",)
    sweep = Sweep(learning_rates=(3e-3,))
    settings = LanguageSettings(tokens=1_500_000)

    def sentence(self, scores: dict[str, dict[str, list[float]]]) -> str:
        """Return the sentence about the part whose removal costs most."""
        return tables.costs(scores, self.label(self.reference), self.unit, self.lower_is_better)


@lru_cache(maxsize=2)
def _streams(corpus: str, cache: Path, share: float, limit: int | None) -> tuple[ByteStream, ByteStream]:
    # Cached: all models of a corpus read the same streams.
    texts = corpora.documents(corpus, cache)[:limit]
    training, held_out = corpora.split(texts, share)
    return byte_stream.join(training), byte_stream.join(held_out)
