"""Training and evaluation of any model on any data; it is handed both and imports neither."""

import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from fftnet import checkpoint
from fftnet.optim import OptimConfig, make_optimizer
from fftnet.plots import plot_losses
from fftnet.tasks.evaluation import evaluate
from fftnet.tasks.objective import Batches, Objective

WEIGHTS, STATE, PROGRESS = "model.safetensors", "training.safetensors", "training.json"


class TrainingError(RuntimeError):
    """Training can't start or go on; the message says why, what is kept, and what to do."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how often, where to.

    Raises:
        ValueError: if a field is out of range.
    """

    output_dir: str = "outputs"
    """Folder of the checkpoints, the loss curve and the metrics."""
    num_epochs: int = 10
    """Passes over the training data."""
    max_steps: int | None = None
    """Stop after so many steps instead, however many epochs that takes."""
    eval_every: int | None = None
    """Steps between two evaluations (default: an epoch, but 5 to 30 evaluations in a run)."""
    eval_batches: int = 50
    """Validation batches of an evaluation at most; the last evaluation takes all."""
    save_model: bool = True
    """Write checkpoints: the best and the last."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, exactly where it stopped."""
    seed: int = 0
    """Of the weights and of dropout."""
    progress: bool = True
    """Show a progress bar."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "max_steps", "eval_every", "eval_batches"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass
class _Interval:
    """What was trained since the last row of the history."""

    nats: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, nats: float, tokens: int, seconds: float) -> None:
        self.nats, self.tokens, self.seconds = self.nats + nats, self.tokens + tokens, self.seconds + seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is cuda where there is one.

    Raises:
        TrainingError: if the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r} can't be used here: choose cpu or auto") from error


class Trainer:
    """Trains a model, evaluates it on the way, and loses nothing.

    Args:
        model: any module.
        objective: maps the model and rows to losses, one a token.
        train: training data.
        valid: validation data.
        train_config: how long, how often, where to.
        optim_config: the optimizer and its schedule.
        token_bytes: bytes that each id stands for, for bits per byte.
        floor: entropy of the validation data in nats per token, where it is known.
        save_extras: writes what belongs into a checkpoint beside the weights, into the folder it is given.
        fingerprint: JSON-able description of model and data; resuming with another one is refused.

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
        optim_config: OptimConfig,
        token_bytes: Sequence[int] | None = None,
        floor: float | None = None,
        save_extras: Callable[[Path], None] = lambda folder: None,
        fingerprint: Any = None,
    ) -> None:
        if train.num_batches < 1 or valid.num_batches < 1:
            raise TrainingError("training and validation need a batch each: use more data")
        self.device = pick_device(train_config.device)
        self.model, self.objective = model.to(self.device), objective
        self.train_data, self.valid_data = train, valid
        self.config, self.optim_config = train_config, optim_config
        self.token_bytes, self.floor = token_bytes, floor
        self.save_extras, self.fingerprint = save_extras, fingerprint
        self.output = Path(train_config.output_dir)
        self.optimizer = make_optimizer(model, optim_config)
        self.total_steps = train_config.max_steps or train_config.num_epochs * train.num_batches
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self.interval = _Interval()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.saved: Path | None = None

    def train(self) -> list[dict[str, Any]]:
        """Train to the end of the budget and return the history, one row an evaluation.

        The first Ctrl-C ends the step, saves ``last`` if checkpoints are written, and is raised then.

        Raises:
            TrainingError: if a loss or gradient is not finite, or the run to resume is another one.
            CheckpointError: if output_dir or a file in it can't be read or written.
        """
        torch.manual_seed(self.config.seed)
        if self.config.resume:
            self._resume()
        with checkpoint.writing(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.output).close()
        self.model.train()
        every = self.config.eval_every or self._default_interval()
        hidden = not self.config.progress
        bar = tqdm(total=self.total_steps, initial=self.step, disable=hidden, unit="step", dynamic_ncols=True)
        with _deferred_interrupt() as interrupted, bar:
            while self.step < self.total_steps:
                start = time.perf_counter()
                loss, tokens, norm = self._update()
                self.interval.add(loss * tokens, tokens, time.perf_counter() - start)
                speed = self.interval.tokens_per_second
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
                if self.step % every == 0 or self.step == self.total_steps:
                    self._evaluate(norm)
                    None if hidden else tqdm.write(self._line(), file=sys.stderr)
                elif interrupted.is_set() and self.config.save_model:
                    self._save(improved=self.best is None)
                if interrupted.is_set():
                    kept = f"resume goes on from {self.saved}" if self.saved else "nothing is saved"
                    tqdm.write(f"stopped after step {self.step}: {kept}", file=sys.stderr)
                    raise KeyboardInterrupt
        return self.history

    def _default_interval(self) -> int:
        least, most = -(-self.total_steps // 30), -(-self.total_steps // 5)
        return min(max(self.train_data.num_batches, least), most)

    def _update(self) -> tuple[float, int, float]:
        epoch, index = divmod(self.step, self.train_data.num_batches)
        rate = self.optim_config.rate(self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.objective(self.model, self.train_data.batch(epoch, index).to(self.device))
        tokens = int(losses.counted_BT.sum())
        loss = losses.loss_BT.sum() / max(tokens, 1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.optim_config.gradient_clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise self._not_finite("loss or its gradient", f" (epoch {epoch}, batch {index})")
        self.optimizer.step()
        self.step += 1
        return float(loss.detach()), tokens, float(norm)

    def _not_finite(self, what: str, where: str) -> TrainingError:
        kept = f"the last good checkpoint is {self.saved}" if self.saved else "no checkpoint was made yet"
        return TrainingError(
            f"the {what} is not finite at step {self.step}{where}; {kept}; try a lower learning_rate"
        )

    def _evaluate(self, norm: float) -> None:
        most = None if self.step == self.total_steps else self.config.eval_batches
        data, sizes = self.valid_data, self.token_bytes
        metrics = evaluate(self.model, self.objective, data, token_bytes=sizes, max_batches=most)
        if not math.isfinite(metrics.loss):
            raise self._not_finite("validation loss", "")
        interval, self.interval = self.interval, _Interval()
        self.seconds, self.tokens = self.seconds + interval.seconds, self.tokens + interval.tokens
        row = {
            "step": self.step,
            "epoch": self.step / self.train_data.num_batches,
            "train_loss": interval.nats / max(interval.tokens, 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
            "tokens_per_second": interval.tokens_per_second,
            "seconds": self.seconds,
            **asdict(metrics),
        }
        self.history.append(row)
        improved = self.best is None or metrics.loss < self.best["loss"]
        if improved:
            self.best = row
        if self.config.save_model:
            self._save(improved)
        self._report()

    def _save(self, improved: bool) -> None:
        # The best comes first: if this stops in between, going on from the older last writes it again.
        if improved:
            checkpoint.replace_directory(self.output / "best", self._fill_weights)
        checkpoint.replace_directory(self.output / "last", self._fill)
        self.saved = self.output / "last"

    def _fill_weights(self, folder: Path) -> None:
        checkpoint.write_tensors(folder / WEIGHTS, self.model.state_dict())
        self.save_extras(folder)

    def _fill(self, folder: Path) -> None:
        self._fill_weights(folder)
        rng_tensors, rng_values = checkpoint.random_state(self.device)
        tensors = checkpoint.optimizer_tensors(self.optimizer) | rng_tensors
        checkpoint.write_tensors(folder / STATE, tensors)
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "interval": asdict(self.interval),
            "total_steps": self.total_steps,
            "history": self.history,
            "best": self.best,
            "fingerprint": self.fingerprint,
        }
        checkpoint.write_json(folder / PROGRESS, progress | rng_values)

    def _resume(self) -> None:
        folder = checkpoint.intact(self.output / "last")
        if folder is None:
            raise TrainingError(f"nothing to resume: {self.output / 'last'} is not there; leave out resume")
        progress = checkpoint.read_json(folder / PROGRESS)
        asked = checkpoint.as_json({"total_steps": self.total_steps, "settings": self.fingerprint})
        stored = {"total_steps": progress["total_steps"], "settings": progress["fingerprint"]}
        if others := list(checkpoint.differences(stored, asked)):
            raise TrainingError(
                f"{folder} was trained with other settings ({', '.join(others)}); resume with the flags of "
                "its start, or train anew in another output_dir"
            )
        checkpoint.load_weights(self.model, folder / WEIGHTS)
        tensors = checkpoint.read_tensors(folder / STATE)
        checkpoint.load_optimizer(self.optimizer, tensors)
        checkpoint.set_random_state(tensors, progress, self.device)
        self.step, self.seconds, self.tokens = (progress[name] for name in ("step", "seconds", "tokens"))
        self.history, self.best = progress["history"], progress["best"]
        self.interval, self.saved = _Interval(**progress["interval"]), folder

    def _report(self) -> None:
        report = {
            "final": self.history[-1],
            "best": self.best,
            "floor": self.floor,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
            "history": self.history,
        }
        checkpoint.write_json(self.output / "metrics.json", report)
        plot = self.output / "loss_plot.png"
        with checkpoint.writing(plot):
            plot_losses(self.history, self.floor, plot)

    def _line(self) -> str:
        row = self.history[-1]
        shown = {"train": row["train_loss"], "valid": row["loss"], "floor": self.floor}
        shown |= {"bits/byte": row["bits_per_byte"], "accuracy": row["accuracy"]}
        shown |= {"position 0": row["first_position_loss"]}
        values = ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
        return f"step {self.step}: {values}"


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Hold the first Ctrl-C back until the step is whole; the second one is raised at once."""
    asked = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)
