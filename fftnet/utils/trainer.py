"""The training loop, for any model, objective and data."""

import math
import time
from contextlib import closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from fftnet.metrics.averages import Metrics, evaluate
from fftnet.protocols import Batches, Objective
from fftnet.training.accelerator import AcceleratorConfig, TrainingError
from fftnet.training.checkpointer import Checkpointer, SaveConfig
from fftnet.training.config import Budget, BudgetConfig, Callbacks, Counters, RunMetadata, TrainConfig
from fftnet.training.distributed import Distributed
from fftnet.training.memory import memory_in_use
from fftnet.training.optim import EMA, OptimConfig
from fftnet.training.report import dry_run, evaluation_line, paused, run_summary, write_results
from fftnet.training.sharding import Carried, Interrupted, ShardedBatches
from fftnet.training.signals import StopRequest, deferred_signals
from fftnet.training.state import Interval, TrainingState

LOSS_EMA_DECAY = 0.95


class Trainer:
    """Trains a model, evaluates it during training, and saves checkpoints.

    Args:
        model: any module.
        objective: maps the model and a batch to summed loss, count and metrics; its optional attribute
            ``unit`` is the plural noun for what is counted.
        train: training data.
        valid: validation data.
        train_config, budget_config, optim_config, accelerator_config, save_config: see their classes.
        metadata: properties of the run that are known before it starts.
        callbacks: functions that the run calls.

    Raises:
        TrainingError: if the device is not available, or training or validation has no batch.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train: Batches,
        valid: Batches,
        *,
        train_config: TrainConfig | None = None,
        budget_config: BudgetConfig | None = None,
        optim_config: OptimConfig | None = None,
        accelerator_config: AcceleratorConfig | None = None,
        save_config: SaveConfig | None = None,
        metadata: RunMetadata | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        if train.num_batches < 1 or valid.num_batches < 1:
            raise TrainingError("training and validation need at least one batch each: use more data")
        self.config = train_config or TrainConfig()
        self.optim_config = optim_config or OptimConfig()
        self.save_config = save_config or SaveConfig()
        self.metadata = metadata or RunMetadata()
        self.callbacks = callbacks or Callbacks()
        self.objective = objective
        self.unit: str = getattr(objective, "unit", "targets")
        self.train_data = train
        self.valid_data = valid
        self.output = Path(self.save_config.output_dir)
        self.budget = Budget(budget_config or BudgetConfig(), train.num_batches)
        accelerator_config = accelerator_config or AcceleratorConfig()
        self.distributed = Distributed(model, accelerator_config, self.optim_config, self.output / "logs")
        decay = self.optim_config.ema_decay
        self.ema = None if decay is None else EMA(self.distributed.model, decay)
        settings = {
            "budget": self.budget.limits,
            "optim": asdict(self.optim_config),
            "seed": self.config.seed,
            "precision": self.distributed.precision,
            "run": self.metadata.fingerprint,
        }
        self.checkpointer = Checkpointer(
            self.distributed, self.ema, self.save_config, settings, self.callbacks, self._message
        )
        self.state = TrainingState()
        self._stop = StopRequest()
        self.carried: Carried | None = None

    @property
    def step(self) -> int:
        """Number of training steps so far."""
        return self.state.counters.steps

    @property
    def finished(self) -> bool:
        """True if the budget is used up, or the validation loss has not fallen for too long."""
        used_up = self.budget.progress(self.state.counters) >= 1
        return used_up or self._out_of_patience(self.state.evaluations_waited)

    def train(self) -> list[dict[str, Any]]:
        """Train to the end of the budget and return the history, one row per evaluation.

        The first Ctrl-C, SIGTERM or SIGHUP ends the current step and saves a checkpoint if checkpoints are
        written; then KeyboardInterrupt or SystemExit is raised. So does a closed terminal or pipe.

        Raises:
            TrainingError: if too many updates in a row were skipped, the run to resume is another one, or
                another run is in output_dir.
            CheckpointError: if output_dir or a file in it can't be read or written.
        """
        with self.checkpointer.claimed():
            return self._train()

    def _train(self) -> list[dict[str, Any]]:
        distributed = self.distributed
        self._stop = StopRequest()
        distributed.model.train()
        # The dry run comes before the seed and the resume, because it uses the random generators.
        forecast = dry_run(distributed, self.objective, self.train_data.batch(0, 0))
        steps = self.budget.steps(forecast.targets, forecast.seconds)
        self.state.eval_every = self.config.eval_every or self._default_interval(steps)
        # Dropout differs between processes. A resumed run replaces these states by the stored ones.
        torch.manual_seed(self.config.seed + distributed.rank)
        self.state, self.carried = self.checkpointer.resume() or (self.state, None)
        self.report(*run_summary(distributed, forecast, steps, self.train_data, self.valid_data, self.unit))
        distributed.start_trackers(self.checkpointer.settings)
        hidden = not (self.config.progress and distributed.is_main)
        bar = tqdm(total=steps, initial=self.step, disable=hidden, unit="step", dynamic_ncols=True)
        # From here on a signal ends the step first. The connection closes last, after all writes.
        with deferred_signals(self._stop) as stop, bar, closing(distributed):
            self._run(stop, bar)
            distributed.barrier()
        return self.state.history

    def _run(self, stop: StopRequest, bar: tqdm) -> None:
        # The seconds of earlier parts of a resumed run count, too.
        self._started = time.perf_counter() - self.state.counters.seconds
        # A finished run evaluates its last step. A resumed run may start with a missed evaluation.
        while not self.finished or self._evaluation_due():
            if self._evaluation_due():
                with paused(bar):
                    asked = self._evaluate(stop)
            else:
                asked = self._update(stop, bar)
            if asked:
                # An evaluation has saved already.
                if self.checkpointer.saved_step != self.step:
                    self._save()
                newest = self.checkpointer.newest
                kept = f"--resume continues from {newest}" if newest else "nothing is saved"
                self._message(f"stopped after step {self.step}: {kept}")
                self.distributed.barrier()
                stop.leave()

    def _update(self, stop: StopRequest, bar: tqdm) -> bool:
        """Train on the next batch; return True if the run was asked to end."""
        state = self.state
        distributed = self.distributed
        # The batch depends on the step only, so that a resumed run gets the batch that would have come.
        epoch, index = divmod(self.step, self.train_data.num_batches)
        batch = self.train_data.batch(epoch, index)
        start = time.perf_counter()
        late = start - self.checkpointer.saved_at > 60 * self.save_config.save_minutes
        # All processes must stop and save at the same step, or they would wait for each other forever. So the
        # decisions are summed together with the loss: a request to stop on any process, and the clock of
        # the main process (the others add 0).
        clock = [start - self._started, float(late)] if distributed.is_main else [0.0, 0.0]
        (total, count, asked, seconds, late), self.carried = distributed.accumulate(
            self.objective, batch, float(stop.number is not None), *clock, carried=self.carried
        )
        # All processes compute the same numbers from the sums, and so take the same decisions below.
        loss = total / max(count, 1)
        norm = distributed.clip_gradient()
        state.counters = Counters(self.step + 1, state.counters.targets + int(count), seconds)
        lr = self.optim_config.lr_at(self.budget.progress(state.counters))
        problem = self._problem(loss, norm)
        # A skipped batch counts as a step: the schedule and the order of batches stay the same.
        if problem:
            self._skip(f"{problem} at step {self.step - 1} (epoch {epoch}, batch {index})")
        else:
            distributed.step(lr)
            state.skipped_in_row = 0
            # The first loss initializes the average.
            state.loss_ema = loss + LOSS_EMA_DECAY * ((state.loss_ema or loss) - loss)
            if self.ema is not None:
                self.ema.update()
            state.interval.add(total, int(count), time.perf_counter() - start)
        speed = state.interval.targets_per_second
        # Drawing the bar is the first write that fails if the terminal has closed.
        with stop.on_lost_output():
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} {self.unit}/s", refresh=False)
        state.last = {"train_loss": loss, "learning_rate": lr, "gradient_norm": norm}
        if self.step % self.config.log_every == 0:
            state.log_loss(loss, self.config.log_every)
            distributed.log({f"step/{name}": value for name, value in state.last.items()}, self.step)
        every = self.save_config.save_every
        # An evaluation of this step saves a checkpoint itself.
        due = late or (every is not None and self.step % every == 0)
        if due and not problem and not self._evaluation_due():
            self._save()
        return asked > 0

    def _problem(self, loss: float, norm: float) -> str | None:
        usual = self.state.loss_ema
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "the loss or its gradient is not finite"
        if usual is not None and loss > usual + self.config.loss_spike:
            return f"the loss jumped from {usual:.2f} to {loss:.2f}"
        return None

    def _skip(self, problem: str) -> None:
        self.distributed.skip()
        # The carried states may be the cause, so that rows start afresh.
        self.carried = None
        self.state.skipped += 1
        self.state.skipped_in_row += 1
        if self.state.skipped_in_row >= self.config.max_skipped:
            raise self._failure(f"{problem}, {self.state.skipped_in_row} times in a row")
        self._message(f"{problem}: the update is skipped")

    def _failure(self, problem: str) -> TrainingError:
        newest = self.checkpointer.newest
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint was made yet"
        return TrainingError(f"{problem}; {kept}; try a lower learning_rate")

    def _save(self) -> None:
        if self.save_config.save_model:
            self.checkpointer.save(self.state, self.carried)

    def _default_interval(self, steps: int) -> int:
        """Return the steps between two evaluations: an epoch, but 5 to 30 evaluations per run."""
        return min(max(self.train_data.num_batches, -(-steps // 30)), -(-steps // 5))

    def _evaluation_due(self) -> bool:
        at = self.state.history[-1]["step"] if self.state.history else 0
        return self.step > at and (self.finished or self.step % (self.state.eval_every or 1) == 0)

    def _out_of_patience(self, waited: int) -> bool:
        patience = self.config.early_stopping
        return patience is not None and waited >= patience

    def _evaluate(self, stop: StopRequest) -> bool:
        """Evaluate and save; return True if the run was asked to end, which cancels the evaluation."""
        distributed = self.distributed

        def stop_requested() -> bool:
            return distributed.all_reduce(float(stop.number is not None))[0] > 0

        # Every process evaluates its own rows, and asks before each batch whether the run should end.
        data = ShardedBatches(self.valid_data, distributed.rank, distributed.world, stop_requested)
        measure = partial(
            evaluate, distributed.model, self.objective, data, all_reduce=distributed.all_reduce
        )
        finished = self.finished
        best = self.state.best
        # The moving average, if there is one, is evaluated; it is also the model in the checkpoint.
        with self.ema.swapped() if self.ema else nullcontext():
            try:
                metrics = measure(max_batches=None if finished else self.config.eval_batches)
                lower = best is None or metrics.loss < best["loss"]
                waited = 0 if lower else self.state.evaluations_waited + 1
                if self._out_of_patience(waited) and not finished:
                    # The last evaluation uses all validation data, also after early stopping.
                    metrics = measure()
            except Interrupted:
                return True
            if not math.isfinite(metrics.loss):
                raise self._failure(f"the validation loss is not finite at step {self.step}")
            sample = self._sample()
        self.state.evaluations_waited = waited
        self._record(metrics, sample)
        if self._out_of_patience(waited):
            self.report(f"stopped early: {waited} evaluations in a row without a lower validation loss")
        self._save()
        # Results come after the checkpoint, so that they never describe one that is missing.
        results = partial(write_results, self.output, self.state, self.metadata, distributed, self.unit)
        distributed.main_process_only(results)
        return False

    def _record(self, metrics: Metrics, sample: str | None) -> None:
        """Add a row to the history and show it."""
        state = self.state
        speed = state.interval.targets_per_second
        row = {
            "step": self.step,
            "epoch": self.step / self.train_data.num_batches,
            **state.last,
            "train_loss": state.interval.loss / max(state.interval.targets, 1),
            "tokens_per_second": speed,
            "memory_bytes": memory_in_use(self.distributed.device),
            "seconds": state.counters.seconds,
            "skipped": state.skipped,
            **metrics.named(),
        }
        # Speed and training loss are those since the evaluation before.
        state.interval = Interval()
        state.history.append(row | ({} if sample is None else {"sample": sample}))
        if state.best is None or metrics.loss < state.best["loss"]:
            state.best = row
        logged = {f"evaluation/{name}": value for name, value in state.history[-1].items()}
        self.distributed.log({name: value for name, value in logged.items() if value is not None}, self.step)
        losses = {"train": row["train_loss"], "valid": metrics.loss}
        further = {"entropy floor": self.metadata.entropy_floor} | metrics.values
        self.report(evaluation_line(self.step, losses, further, f"{speed:,.0f} {self.unit}/s"))
        if sample is not None:
            self.report(f"    sample: {sample!r}")

    def _sample(self) -> str | None:
        if self.callbacks.sample is None:
            return None
        # Every process must take part in gathering sharded weights.
        weights = self.distributed.weights()
        return self.callbacks.sample(weights) if self.distributed.is_main else None

    def report(self, *lines: str) -> None:
        """Show lines to the user, on the main process and if progress is shown."""
        for line in lines if self.config.progress else ():
            self._message(line)

    def _message(self, line: str) -> None:
        if self.distributed.is_main:
            with self._stop.on_lost_output():
                self.callbacks.message(line)
