"""Training and evaluation of any model on any data; it is handed both and imports neither."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fftnet import serialization
from fftnet.evaluation.metrics import evaluate
from fftnet.evaluation.plots import plot_losses
from fftnet.protocols import Batches, Objective
from fftnet.training.accelerator import EngineConfig, TrainingError
from fftnet.training.budget import Budget, BudgetConfig, Spent
from fftnet.training.checkpointer import LOGS, RunStore
from fftnet.training.checkpoints import SaveConfig
from fftnet.training.distributed import Engine, Interrupted, SharedBatches
from fftnet.training.dry_run import announcement, memory_in_use, try_out
from fftnet.training.ema import WeightAverage
from fftnet.training.optim import OptimConfig
from fftnet.training.signals import StopRequest, deferred_signals
from fftnet.training.state import Interval, Progress

LEVEL_MEMORY = 0.95


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run is watched.

    Raises:
        ValueError: if a field is out of range.
    """

    eval_every: int | None = None
    """Steps between two evaluations (default: an epoch, but 5 to 30 evaluations in a run)."""
    eval_batches: int = 50
    """Validation batches of an evaluation at most; the last evaluation takes all."""
    log_every: int = 10
    """Steps between two lines to the trackers."""
    spike: float = 3.0
    """Skip an update whose loss is more than so many nats above its running average."""
    max_skipped: int = 10
    """End after so many updates in a row that were skipped for a spike or a value that is not finite."""
    seed: int = 0
    """Of the weights and of dropout."""
    progress: bool = True
    """Show a progress bar, what the run is about to do, and a line at every evaluation."""

    def __post_init__(self) -> None:
        for name in ("eval_every", "eval_batches", "log_every", "spike", "max_skipped"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a run may know about its model and data."""

    token_bytes: Sequence[int] | None = None
    """Bytes that each id stands for, for bits per byte."""
    floor: float | None = None
    """Entropy of the validation data in nats per token, where it is known."""
    save_extras: Callable[[Path], None] = lambda folder: None
    """Writes what belongs into a checkpoint beside the weights, into the folder it is given."""
    fingerprint: Any = None
    """JSON-able description of model and data; resuming with another one is refused."""
    sample: Callable[[dict[str, Tensor]], str] | None = None
    """Writes a text with the weights it is given, to be shown at every evaluation."""


class Trainer:
    """Trains a model, evaluates it on the way, and loses nothing.

    Args:
        model: any module.
        objective: maps the model and rows to losses, one a token.
        train: training data.
        valid: validation data.
        train_config: how the run is watched.
        budget_config: when it ends.
        optim_config: the optimizer and its schedule.
        engine_config: where and in which numbers it computes.
        save_config: what is kept, where, and whether a run goes on.
        extras: what is known about model and data.

    Raises:
        TrainingError: if the device can't be used or there is no batch to train on or to validate with.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train: Batches,
        valid: Batches,
        *,
        train_config: TrainConfig,
        budget_config: BudgetConfig,
        optim_config: OptimConfig,
        engine_config: EngineConfig,
        save_config: SaveConfig,
        extras: Extras | None = None,
    ) -> None:
        if train.num_batches < 1 or valid.num_batches < 1:
            raise TrainingError("training and validation need a batch each: use more data")
        self.config, self.optim_config, self.save_config = train_config, optim_config, save_config
        self.objective, self.train_data, self.valid_data = objective, train, valid
        self.extras = extras or Extras()
        self.output = Path(save_config.output_dir)
        self.budget = Budget(budget_config, train.num_batches)
        self.engine = Engine(model, engine_config, optim_config, self.output / LOGS)
        self.average = None
        if optim_config.ema_decay is not None:
            self.average = WeightAverage(self.engine.model, optim_config.ema_decay)
        settings = {"budget": self.budget.limits, "optim": asdict(optim_config), "seed": train_config.seed}
        self.store = RunStore(
            self.engine,
            self.average,
            save_config,
            settings | {"run": self.extras.fingerprint},
            self.extras.save_extras,
            self._say,
        )
        self.progress = Progress()

    @property
    def step(self) -> int:
        """Batches that were trained on."""
        return self.progress.spent.steps

    def train(self) -> list[dict[str, Any]]:
        """Train to the end of the budget and return the history, one row an evaluation.

        The first Ctrl-C or SIGTERM ends the step and saves a checkpoint if checkpoints are written; then
        KeyboardInterrupt or SystemExit(143) is raised.

        Raises:
            TrainingError: if too many updates in a row were skipped, or the run to resume is another one.
            CheckpointError: if output_dir or a file in it can't be read or written.
        """
        self.store.prepare()
        self.engine.model.train()
        self.forecast = try_out(self.engine, self.objective, self.train_data.batch(0, 0))
        steps = self.budget.steps(self.forecast.tokens, self.forecast.seconds)
        self.progress.eval_every = self.config.eval_every or self._default_interval(steps)
        torch.manual_seed(self.config.seed + self.engine.rank)
        self.progress = self.store.resume() or self.progress
        self._tell(*announcement(self.engine, self.forecast, steps, self.train_data, self.valid_data))
        self.engine.start_trackers(self.store.settings)
        hidden = not (self.config.progress and self.engine.is_main)
        bar = tqdm(total=steps, initial=self.step, disable=hidden, unit="step", dynamic_ncols=True)
        with deferred_signals() as stop, bar, closing(self.engine):
            self._run(stop, bar)
            self.engine.wait()
        return self.progress.history

    def _run(self, stop: StopRequest, bar: tqdm) -> None:
        self._started = time.perf_counter() - self.progress.spent.seconds
        while self.budget.done(self.progress.spent) < 1 or self._evaluation_due():
            asked = self._evaluate(stop) if self._evaluation_due() else self._update(stop, bar)
            if asked:
                if self.store.saved_step != self.step:
                    self._save()
                newest = self.store.newest
                kept = f"resume goes on from {newest}" if newest else "nothing is saved"
                self._say(f"stopped after step {self.step}: {kept}")
                self.engine.wait()
                stop.leave()

    def _update(self, stop: StopRequest, bar: tqdm) -> bool:
        """Train on the next batch; tells whether somebody asked for the end."""
        progress, spent, engine = self.progress, self.progress.spent, self.engine
        epoch, index = divmod(spent.steps, self.train_data.num_batches)
        rows = self.train_data.batch(epoch, index)
        start = time.perf_counter()
        late = start - self.store.saved_at > 60 * self.save_config.save_minutes
        clock = [start - self._started, float(late)] if engine.is_main else [0.0, 0.0]
        nats, tokens, asked, seconds, late = engine.accumulate(
            self.objective, rows, float(stop.number is not None), *clock
        )
        loss, norm = nats / max(tokens, 1), engine.gradient_norm()
        progress.spent = Spent(spent.steps + 1, spent.tokens + int(tokens), seconds)
        rate = self.optim_config.rate(self.budget.done(progress.spent))
        problem = self._problem(loss, norm)
        if problem:
            self._skip(f"{problem} at step {spent.steps} (epoch {epoch}, batch {index})")
        else:
            engine.step(rate)
            progress.skipped_in_row = 0
            progress.level = loss + LEVEL_MEMORY * ((progress.level or loss) - loss)
            if self.average is not None:
                self.average.update()
            progress.interval.add(nats, int(tokens), time.perf_counter() - start)
        bar.update()
        speed = progress.interval.tokens_per_second
        bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
        progress.last = {"train_loss": loss, "learning_rate": rate, "gradient_norm": norm}
        if self.step % self.config.log_every == 0:
            engine.log({f"step/{name}": value for name, value in progress.last.items()}, self.step)
        every = self.save_config.save_every
        due = late or (every is not None and self.step % every == 0)
        if due and not problem and not self._evaluation_due():
            self._save()
        return asked > 0

    def _problem(self, loss: float, norm: float) -> str | None:
        level = self.progress.level
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "the loss or its gradient is not finite"
        if level is not None and loss > level + self.config.spike:
            return f"the loss jumped from {level:.2f} to {loss:.2f}"
        return None

    def _skip(self, problem: str) -> None:
        self.engine.skip()
        self.progress.skipped += 1
        self.progress.skipped_in_row += 1
        if self.progress.skipped_in_row >= self.config.max_skipped:
            raise self._failure(f"{problem}, {self.progress.skipped_in_row} times in a row")
        self._say(f"{problem}: the update is skipped")

    def _failure(self, problem: str) -> TrainingError:
        kept = self.store.newest
        kept = f"the last good checkpoint is {kept}" if kept else "no checkpoint was made yet"
        return TrainingError(f"{problem}; {kept}; try a lower learning_rate")

    def _save(self) -> None:
        if self.save_config.save_model:
            self.store.save(self.progress)

    def _default_interval(self, steps: int) -> int:
        least, most = -(-steps // 30), -(-steps // 5)
        return min(max(self.train_data.num_batches, least), most)

    def _evaluation_due(self) -> bool:
        finished = self.budget.done(self.progress.spent) >= 1
        at = self.progress.history[-1]["step"] if self.progress.history else 0
        return self.step > at and (finished or self.step % (self.progress.eval_every or 1) == 0)

    def _evaluate(self, stop: StopRequest) -> bool:
        """Evaluate and save; tells whether somebody asked for the end, in which case nothing was done."""
        progress, engine = self.progress, self.engine
        finished = self.budget.done(progress.spent) >= 1
        with self.average.in_place() if self.average else nullcontext():
            try:
                metrics = evaluate(
                    engine.model,
                    self.objective,
                    SharedBatches(engine, self.valid_data, stop),
                    token_bytes=self.extras.token_bytes,
                    max_batches=None if finished else self.config.eval_batches,
                    total=engine.total,
                )
            except Interrupted:
                return True
            if not math.isfinite(metrics.loss):
                raise self._failure(f"the validation loss is not finite at step {self.step}")
            sample = self._sample()
        interval, progress.interval = progress.interval, Interval()
        row = {
            "step": self.step,
            "epoch": self.step / self.train_data.num_batches,
            **progress.last,
            "train_loss": interval.nats / max(interval.tokens, 1),
            "tokens_per_second": interval.tokens_per_second,
            "utilisation": self.forecast.utilisation(interval.tokens_per_second),
            "memory_bytes": memory_in_use(engine.device),
            "seconds": progress.spent.seconds,
            "skipped": progress.skipped,
            **asdict(metrics),
        }
        progress.history.append(row | ({} if sample is None else {"sample": sample}))
        logged = {f"evaluation/{name}": value for name, value in progress.history[-1].items()}
        engine.log({name: value for name, value in logged.items() if value is not None}, self.step)
        if progress.best is None or metrics.loss < progress.best["loss"]:
            progress.best = row
        self._tell(_line(row, self.extras.floor), *([] if sample is None else [f"    {sample!r}"]))
        self._save()
        engine.on_main(self._report)
        return False

    def _sample(self) -> str | None:
        if self.extras.sample is None:
            return None
        weights = self.engine.weights()
        return self.extras.sample(weights) if self.engine.is_main else None

    def _report(self) -> None:
        report = {
            "final": self.progress.history[-1],
            "best": self.progress.best,
            "floor": self.extras.floor,
            "parameters": sum(parameter.numel() for parameter in self.engine.model.parameters()),
            "tokens": self.progress.spent.tokens,
            "seconds": self.progress.spent.seconds,
            "processes": self.engine.world,
            "threads": torch.get_num_threads(),
            "history": self.progress.history,
        }
        serialization.write_json(self.output / "metrics.json", report)
        plot = self.output / "loss_plot.png"
        with serialization.writing(plot):
            plot_losses(self.progress.history, self.extras.floor, plot)

    def _tell(self, *lines: str) -> None:
        for line in lines if self.config.progress else ():
            self._say(line)

    def _say(self, line: str) -> None:
        if self.engine.is_main:
            tqdm.write(line, file=sys.stderr)


def _line(row: dict[str, Any], floor: float | None) -> str:
    shown = {"train": row["train_loss"], "valid": row["loss"], "floor": floor}
    shown |= {"bits/byte": row["bits_per_byte"], "accuracy": row["accuracy"]}
    shown |= {"position 0": row["first_position_loss"]}
    values = ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
    return f"step {row['step']}: {values}, {row['tokens_per_second']:,.0f} tokens/s"
