"""Training and evaluation of any model on any data; it is handed both and imports neither."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
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
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def train(self) -> list[dict[str, Any]]:
        """Train to the end of the budget and return the history, one row an evaluation.

        Raises:
            TrainingError: if a loss or gradient is not finite, or the run to resume is another one.
            CheckpointError: if a checkpoint can't be read or written.
        """
        torch.manual_seed(self.config.seed)
        if self.config.resume:
            self._resume()
        self.model.train()
        every = self.config.eval_every or self._default_interval()
        nats, count, since = 0.0, 0, time.perf_counter()
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            disable=not self.config.progress,
            unit="step",
            dynamic_ncols=True,
        )
        with bar:
            while self.step < self.total_steps:
                loss, tokens, norm = self._update()
                nats, count = nats + loss * tokens, count + tokens
                elapsed = time.perf_counter() - since
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}, {count / elapsed:,.0f} tokens/s", refresh=False)
                if self.step % every == 0 or self.step == self.total_steps:
                    self.seconds, self.tokens = self.seconds + elapsed, self.tokens + count
                    self._evaluate(nats / max(count, 1), count / elapsed, norm)
                    tqdm.write(self._line(), file=bar.fp) if self.config.progress else None
                    nats, count, since = 0.0, 0, time.perf_counter()
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
            folder = checkpoint.intact(self.output / "last")
            kept = f"the last good checkpoint is {folder}" if folder else "no checkpoint was made yet"
            raise TrainingError(
                f"the loss or its gradient is not finite at step {self.step} (epoch {epoch}, batch {index}); "
                f"{kept}; try a lower learning_rate"
            )
        self.optimizer.step()
        self.step += 1
        return float(loss.detach()), tokens, float(norm)

    def _evaluate(self, train_loss: float, tokens_per_second: float, norm: float) -> None:
        last = self.step == self.total_steps
        metrics = evaluate(
            self.model,
            self.objective,
            self.valid_data,
            token_bytes=self.token_bytes,
            max_batches=None if last else self.config.eval_batches,
        )
        row = {
            "step": self.step,
            "epoch": self.step / self.train_data.num_batches,
            "train_loss": train_loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
            "tokens_per_second": tokens_per_second,
            **asdict(metrics),
        }
        if not math.isfinite(metrics.loss):
            raise TrainingError(f"the validation loss is not finite at step {self.step}; lower learning_rate")
        self.history.append(row)
        improved = self.best is None or metrics.loss < self.best["loss"]
        if improved:
            self.best = row
        if self.config.save_model:
            checkpoint.replace_directory(self.output / "last", self._fill)
            if improved:
                checkpoint.replace_directory(self.output / "best", self._fill_weights)
        self._report()

    def _fill_weights(self, folder: Path) -> None:
        checkpoint.write_tensors(folder / WEIGHTS, self.model.state_dict())
        self.save_extras(folder)

    def _fill(self, folder: Path) -> None:
        self._fill_weights(folder)
        tensors = {"rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        checkpoint.write_tensors(folder / STATE, tensors)
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "total_steps": self.total_steps,
            "history": self.history,
            "best": self.best,
            "fingerprint": self.fingerprint,
            "python_rng": random.getstate(),
            "numpy_rng": _numpy_state(),
        }
        checkpoint.write_json(folder / PROGRESS, progress)

    def _resume(self) -> None:
        folder = checkpoint.intact(self.output / "last")
        if folder is None:
            raise TrainingError(f"nothing to resume: {self.output / 'last'} is not there; leave out resume")
        progress = checkpoint.read_json(folder / PROGRESS)
        asked = {"fingerprint": self.fingerprint, "total_steps": self.total_steps}
        for name, value in asked.items():
            if progress[name] != checkpoint.as_json(value):
                raise TrainingError(
                    f"{folder} was trained with other settings ({name}); resume with the flags of its start, "
                    "or train anew in another output_dir"
                )
        checkpoint.load_weights(self.model, folder / WEIGHTS)
        tensors = checkpoint.read_tensors(folder / STATE)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, field = name.split(".")
                state.setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        torch.set_rng_state(tensors["rng"])
        if "cuda_rng" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["cuda_rng"], self.device)
        version, words, gauss = progress["python_rng"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(tuple(progress["numpy_rng"]))
        self.step, self.seconds, self.tokens = (progress[name] for name in ("step", "seconds", "tokens"))
        self.history, self.best = progress["history"], progress["best"]

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
        plot_losses(self.history, self.floor, self.output / "loss_plot.png")

    def _line(self) -> str:
        row = self.history[-1]
        shown = {
            "train": row["train_loss"],
            "valid": row["loss"],
            "floor": self.floor,
            "bits/byte": row["bits_per_byte"],
            "accuracy": row["accuracy"],
            "position 0": row["first_position_loss"],
        }
        values = ", ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
        return f"step {self.step}: {values}"


def _numpy_state() -> list[Any]:
    name, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return [name, np.asarray(words).tolist(), position, has_gauss, gauss]
