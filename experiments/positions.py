"""Loss by position: the best language models read far beyond their window with the state carried.

Rows of the held-out stream are read twice: from start to end with one state, and in fresh windows of the
trained length. Both losses are of the same tokens. Documents follow each other, as in training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from experiments import building, byte_stream, pictures, results, tables
from experiments.base import FINISHED, Experiment, Run, Sweep, digest_of
from experiments.language import Language, LongLanguage
from experiments.results import ExperimentError, Line, key_of
from fftnet import serialization
from fftnet.metrics.plots import plain_ticks
from fftnet.serialization import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class PositionSettings:
    """Lengths that the models read."""

    tokens: int = 65_536
    """Tokens of a row; fewer if the held-out text is shorter."""
    rows: int = 4
    """Consecutive rows of the held-out text; fewer if it is shorter."""
    chunk: int = 2048
    """Tokens of a forward pass, a multiple of the window."""
    first: int = 64
    """End of the first bucket of positions. Every other bucket is as long as all before it."""


class Positions(Experiment):
    """Measurement of the models of ``language``, whose weights must still be in the cache."""

    name = "positions"
    title = "Loss by position, state carried"
    about = (
        "The best language model of each kind (first seed) reads held-out text up to 65,536 tokens with "
        "its state carried, and the same tokens in fresh windows of 512. The tables show the loss with "
        "the carried state minus the loss in fresh windows, in thousandths of a nat per token, by "
        "position: below 0 the carried state helps. Attention has no state of fixed size and is left out."
    )
    lower_is_better = True
    cases = Language.cases
    sweep = Sweep(learning_rates=(), seeds=(0,))
    settings = PositionSettings()
    training: ClassVar[type[Language]] = Language
    """Experiment whose models are measured."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.language = self.training(self.is_quick, self.models, self.workbench)
        if self.is_quick:
            self.cases = self.language.cases
            self.settings = PositionSettings(tokens=256, rows=2, chunk=64, first=16)
        self._trained: list[Line] | None = None

    def configuration(self, model: str, case: str) -> dict[str, Any]:
        """Return also the settings of the training."""
        trained = as_json(asdict(self.language.settings))
        return super().configuration(model, case) | {"trained": trained}

    def plan(self, lines: Sequence[Line]) -> Iterator[Run]:
        """Yield a run for each corpus and model whose best weights exist and have a state."""
        done = {key_of(line) for line in lines}
        for case in self.cases:
            for name in self.models:
                best = self.language.best(self._language_lines(), name, case)
                # Attention has no state of fixed size.
                if best is None or best["state_numbers"] is None:
                    continue
                run = self.run(name, case, best["learning_rate"], best["weight_decay"], best["seed"])
                if self.language.weights(digest_of(best)).is_file() and key_of(asdict(run)) not in done:
                    yield run

    def _language_lines(self) -> list[Line]:
        if self._trained is None:
            if self.is_quick:
                self._trained = _train_all(self.language)
            else:
                self._trained = results.read(results.RESULTS / f"{self.language.name}.jsonl")
        return self._trained

    def execute(self, run: Run) -> dict[str, Any]:
        """Read the held-out text with a carried state and in fresh windows."""
        settings = self.settings
        window = self.language.settings.window
        # The digest of the training run names the file of its weights.
        trained = self.language.run(run.arm, run.case, run.learning_rate, run.weight_decay, run.seed)
        model = self.language.model(run.arm, run.seed).eval()
        serialization.load_weights(model, self.language.weights(trained.digest))
        model.to(self.workbench.device)
        _, held_out = self.language.streams(run.case)
        ids = torch.from_numpy(held_out.ids.astype("int64"))
        tokens = min(settings.tokens, (len(ids) - 1) // window * window)
        if tokens == 0:
            raise ExperimentError(
                f"the held-out part of {run.case} is shorter than a window of {window} tokens"
            )
        rows = min(settings.rows, (len(ids) - 1) // tokens)
        inputs_RT = ids[: rows * tokens].view(rows, tokens)
        # Every token is the target of the one before it.
        targets_RT = ids[1 : rows * tokens + 1].view(rows, tokens)
        carried_RT = byte_stream.nats_with_state(model, inputs_RT, targets_RT, settings.chunk)
        # Fresh windows in batches of 8 rows; each starts from an empty state.
        windows = zip(
            inputs_RT.reshape(-1, window).split(8), targets_RT.reshape(-1, window).split(8), strict=True
        )
        fresh_RT = torch.cat([byte_stream.nats(model, *pair) for pair in windows]).view(rows, tokens)
        buckets = [
            {
                "first": first,
                "last": last - 1,
                "carried": round(carried_RT[:, first:last].mean().item(), 5),
                "fresh": round(fresh_RT[:, first:last].mean().item(), 5),
            }
            for first, last in bounds(tokens, settings.first)
        ]
        return {
            "parameters": building.count_parameters(model),
            "state_numbers": building.count_state(model),
            "outcome": FINISHED,
            "results": {"buckets": buckets, "rows": rows, "tokens": tokens},
        }

    def score(self, line: Line) -> float:
        """Return the carried loss over the fresh loss in the last bucket."""
        last = line["results"]["buckets"][-1]
        return last["carried"] / last["fresh"]

    def tables(self, lines: Sequence[Line]) -> str:
        """Return a table for each corpus, a model a row, a bucket a column."""
        found = {
            case: {name: self.of(lines, name, case)[-1] for name in self.reported(lines, case)}
            for case in self.cases
        }
        gains = {
            case: {self.label(name): [100 * (1 - self.score(line))] for name, line in lines_of.items()}
            for case, lines_of in found.items()
            if lines_of
        }
        parts = [tables.winners(gains, "Percent gained by the carried state at the last positions", False, 1)]
        for case in gains:
            first = next(iter(found[case].values()))
            buckets = first["results"]["buckets"]
            head = [case, *(f"{bucket['first']:,} to {bucket['last']:,}" for bucket in buckets)]
            rows = [
                [
                    self.label(name),
                    *(
                        _thousandths(bucket["carried"] - bucket["fresh"])
                        for bucket in line["results"]["buckets"]
                    ),
                ]
                for name, line in found[case].items()
            ]
            parts.append(tables.table(head, rows))
        return "\n\n".join(parts)

    def pictures(self, lines: Sequence[Line]) -> dict[str, "Figure"]:
        """Draw carried minus fresh loss over the position."""
        cases = [case for case in self.cases if self.reported(lines, case)]
        figure, panels = pictures.panels(max(len(cases), 1), width=4.4, height=3.8)
        for axes, case in zip(panels, cases, strict=False):
            for name in self.reported(lines, case):
                buckets = self.of(lines, name, case)[-1]["results"]["buckets"]
                middles = [(bucket["first"] + bucket["last"]) / 2 + 1 for bucket in buckets]
                gains = [bucket["carried"] - bucket["fresh"] for bucket in buckets]
                axes.plot(middles, gains, marker=".", color=pictures.colour(name), label=self.label(name))
            axes.axhline(0, color="black", linestyle=":")
            axes.set_xscale("log", base=2)
            plain_ticks(axes.xaxis, base=2)
            axes.set(
                xlabel="position, from 1", ylabel="carried minus fresh state, nats per token", title=case
            )
        pictures.legend(figure)
        return {"difference": figure}


class LongPositions(Positions):
    """Measurement of the models of ``language_long``, which know more about a long text."""

    name = "positions_long"
    title = "Loss by position, state carried, after the long run"
    about = "As above, with the model of the long run (50M tokens, windows of 512)."
    cases = LongLanguage.cases
    training = LongLanguage


def _thousandths(loss: float) -> str:
    return f"{round(1000 * loss):d}"


def bounds(tokens: int, first: int) -> list[tuple[int, int]]:
    """Return buckets of positions: up to ``first``, then each as long as all before it."""
    found = [(0, min(first, tokens))]
    while found[-1][1] < tokens:
        # Doubling buckets, so that each is as long as all before it.
        start = found[-1][1]
        found.append((start, min(2 * start, tokens)))
    return found


def _train_all(language: Language) -> list[Line]:
    lines: list[Line] = []
    while (run := next(iter(language.plan(lines)), None)) is not None:
        lines.append(asdict(run) | language.execute(run))
    return lines
