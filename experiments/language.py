"""Language models over bytes: arms of equal size read equally many tokens of three corpora.

Bits per byte are all nats of the held-out documents, over ln 2 and over their raw bytes. The end of each
document is predicted, too, and charged to its bytes. Held-out text is read in windows of the trained length,
each from an empty state.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import arms, byte_stream, corpora, markdown, pictures
from experiments.base import FINISHED, Experiment, Run, Sweep
from experiments.byte_stream import ByteStream
from experiments.results import Line
from experiments.training import Batch, Budget, Checkpoint, train
from fftnet import serialization

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLUMNS = ["model", "parameters", "state", "lr", "seeds", "bits per byte", "tokens", "minutes", "on"]
"""Of the tables of results; the last names the processor."""
READ_AT_ONCE = 4096
"""Held-out tokens."""


@dataclass(frozen=True, kw_only=True)
class LanguageSettings:
    """Sizes of the language models and of their training."""

    d_model: int = 128
    """Width D."""
    num_layers: int = 4
    """Blocks of mixer and feed-forward."""
    parameters: int = 1_000_000
    """Of the whole model, met by the width of the feed-forward."""
    window: int = 512
    """Tokens T of a row."""
    rows: int = 8
    """Rows of a batch."""
    tokens: int | None = 3_000_000
    """Tokens of the whole training; None: the time is given."""
    seconds: float | None = None
    """Seconds of the whole training; None: the tokens are given."""
    precision: str = "bf16"
    """Of the matrix products of training, as ``auto`` chooses it at this width; losses are measured in
    float32."""
    points: int = 30
    """Of the curves."""
    curve_windows: int = 32
    """Held-out windows, spread over all, that the curve is measured on."""
    held_out: float = 0.06
    """Share of the bytes, in whole documents."""
    documents: int | None = None
    """The first so many documents only (None: all)."""

    @property
    def budget(self) -> Budget:
        """Of training."""
        steps = None if self.tokens is None else self.tokens // (self.window * self.rows)
        return Budget(steps=steps, seconds=self.seconds, points=self.points)


class Language(Experiment):
    """Equal tokens."""

    name = "language"
    title = "Language modelling over bytes, equal tokens"
    about = (
        "Byte-level language models of 1M parameters (the feed-forward makes up for what a mixer has more or "
        "less), windows of 512 tokens, 3M tokens of training with bf16 matrix products. Bits per byte of "
        "whole held-out documents, read in fresh windows; the ends of documents are predicted, too, and "
        "charged to their bytes. Lower is better."
    )
    lower_is_better = True
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
        """Sizes for ``quick``."""
        return LanguageSettings(
            d_model=16,
            num_layers=1,
            parameters=30_000,
            window=32,
            rows=2,
            tokens=640,
            points=3,
            curve_windows=4,
            documents=3,
        )

    def weights(self, digest: str) -> Path:
        """The file of a finished run's weights."""
        return self.workbench.cache / f"{self.name}-{digest}.safetensors"

    def model(self, arm: str, seed: int) -> arms.Stack:
        """A new model of an arm."""
        sizes = arms.Sizes(
            vocab_size=byte_stream.VOCABULARY,
            d_model=self.settings.d_model,
            num_layers=self.settings.num_layers,
            parameters=self.settings.parameters,
        )
        return arms.build(arm, sizes, seed)

    def streams(self, corpus: str) -> tuple[ByteStream, ByteStream]:
        """The corpus for training and its held-out part."""
        return _streams(corpus, self.workbench.cache, self.settings.held_out, self.settings.documents)

    def execute(self, run: Run) -> dict[str, Any]:
        """Train one model, read the held-out documents, keep the weights."""
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

        checkpoint = Checkpoint(run, self.workbench)
        trained = train(model, run, settings.budget, batch, measure, checkpoint, settings.precision)
        results: dict[str, Any] = {"curve": trained.curve, "training_seconds": round(trained.seconds, 1)}
        if trained.outcome == FINISHED:
            model.eval()
            total = byte_stream.total_nats(model, (inputs, targets), READ_AT_ONCE)
            results |= {
                "bits_per_byte": round(total / math.log(2) / held_out.raw_bytes, 5),
                "held_out_bytes": held_out.raw_bytes,
                "tokens": trained.steps * settings.rows * settings.window,
                "corpus": hashlib.sha256(training.ids.tobytes() + held_out.ids.tobytes()).hexdigest()[:16],
            }
            serialization.write_tensors(self.weights(run.digest), model.state_dict())
        return {
            "parameters": arms.count_parameters(model),
            "state_numbers": arms.count_state(model),
            "outcome": trained.outcome,
            "results": results,
        }

    def score(self, line: Line) -> float:
        """Bits per byte."""
        return line["results"]["bits_per_byte"]

    def tables(self, lines: Sequence[Line]) -> str:
        """A table for each corpus."""
        parts = []
        for case in self.cases:
            rows = [self._row(lines, arm, case) for arm in self.reported(lines, case)]
            if rows:
                parts.append(f"{self._caption(lines, case)}\n\n{markdown.table(COLUMNS, rows)}")
        return "\n\n".join(parts)

    def _caption(self, lines: Sequence[Line], case: str) -> str:
        read = {
            (line["results"]["held_out_bytes"], line["results"]["corpus"])
            for line in self.current(lines)
            if line["case"] == case and line["outcome"] == FINISHED
        }
        sizes = ", ".join(sorted(f"{size:,}" for size, _ in read))
        # Python's own texts differ from one version of Python to another.
        mixed = " (**these runs read different texts**)" if len(read) > 1 else ""
        return f"**{case}**, {sizes} bytes held out{mixed}:"

    def _row(self, lines: Sequence[Line], arm: str, case: str) -> list[str]:
        seeds = self.seeds(lines, arm, case)
        best = seeds[0]
        minutes = [line["results"]["training_seconds"] / 60 for line in seeds]
        tokens = [line["results"]["tokens"] for line in seeds]
        return [
            self.label(arm),
            f"{best['parameters']:,}",
            markdown.count(best["state_numbers"]),
            f"{best['learning_rate']:g}",
            str(len(seeds)),
            markdown.spread([self.score(line) for line in seeds]),
            f"{sum(tokens) / len(tokens) / 1e6:.2f}M",
            markdown.spread(minutes, digits=1),
            ", ".join(sorted({line["processor"] for line in seeds})),
        ]

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Bits per byte over learning rates, and for each corpus the loss over tokens and seconds.

        Seconds are left out where the runs were made by different processors.
        """
        found = pictures.over_learning_rates(self, lines, "bits per byte")
        for case in self.cases:
            if self.reported(lines, case):
                found[f"curves_{case}"] = self._curves(lines, case)
        return found

    def _curves(self, lines: Sequence[Line], case: str) -> "Figure":
        shown = [line for arm in self.reported(lines, case) for line in self.seeds(lines, arm, case)]
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


@lru_cache(maxsize=2)
def _streams(corpus: str, cache: Path, share: float, limit: int | None) -> tuple[ByteStream, ByteStream]:
    texts = corpora.documents(corpus, cache)[:limit]
    training, held_out = corpora.split(texts, share)
    return byte_stream.join(training), byte_stream.join(held_out)
