"""A step of training, spread over the processes of a run.

A batch is that of the whole run: every process reads all of it and works on its own rows, in pieces if
gradients are accumulated. The sum of the losses is divided by the tokens of all processes, so that a step is
the same however it is spread out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.nn import functional as F

from fftnet import serialization
from fftnet.protocols import Batches, Objective
from fftnet.training.accelerator import EngineConfig, TrainingError, make_accelerator
from fftnet.training.optim import OptimConfig, make_optimizer
from fftnet.training.signals import StopRequest

OPTIMIZER = "state."
"""What the names of the optimizer's tensors start with."""
Result = TypeVar("Result")


class Engine:
    """The processes of a run and what is spread over them.

    Args:
        model: any module; its ``_no_split_modules`` names the classes of its layers.
        config: where and in which numbers.
        optim_config: the optimizer.
        folder: where trackers that write files put them.

    Raises:
        TrainingError: if the device, the precision or a tracker can't be used here.
    """

    def __init__(
        self, model: nn.Module, config: EngineConfig, optim_config: OptimConfig, folder: Path
    ) -> None:
        self.accelerator = make_accelerator(model, config, folder)
        self.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.shards = self.world if self.accelerator.distributed_type == DistributedType.FSDP else 1
        self.raw = model
        layers = tuple(getattr(model, "_no_split_modules", ()))
        if config.activation_checkpointing:
            apply_activation_checkpointing(model, check_fn=lambda part: type(part).__name__ in layers)
        # The compiled and the wrapped model share the parameters of the raw one.
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model, optim_config))
        self.clip = optim_config.gradient_clip

    def share(self, rows: Tensor) -> list[Tensor]:
        """This process's rows of a batch, in pieces for gradient accumulation."""
        parts = self.accelerator.gradient_accumulation_steps
        return [piece.to(self.device) for piece in share(rows, self.rank, self.world, parts)]

    def accumulate(self, objective: Objective, rows: Tensor, *others: float) -> list[float]:
        """Gradients of the mean loss over a batch, on all processes.

        Args:
            objective: losses of rows.
            rows: int64 (B, T + 1), the batch of the whole run.
            others: numbers to add up over the processes on the way.

        Returns:
            Nats, counted tokens and the other numbers, each summed over all processes.

        Raises:
            TrainingError: if another process has died, or there is not enough memory.
        """
        self.optimizer.zero_grad(set_to_none=True)
        pieces, expected = self.share(rows), max(rows.shape[0] * (rows.shape[1] - 1), 1)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        # Accelerate divides by its number of pieces and processes; here all tokens count alike.
        weight = self.world * self.accelerator.gradient_accumulation_steps / expected
        with _explained():
            for number, piece in enumerate(pieces, start=1):
                with nullcontext() if number == len(pieces) else self.accelerator.no_sync(self.model):
                    losses = objective(self.model, piece)
                    nats = losses.loss_BT.sum()
                    self.accelerator.backward(nats * weight)
                    sums += torch.stack([nats.detach().double(), losses.counted_BT.sum().double()])
        totals = self.total(*sums.tolist(), *others)
        if totals[1] not in (0.0, expected):
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            for gradient in gradients:
                gradient.mul_(expected / totals[1])
        return totals

    def total(self, *values: float) -> list[float]:
        """Sums over all processes.

        Raises:
            TrainingError: if another process has died.
        """
        if self.world == 1:
            return list(values)
        with _explained():
            tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
            return torch.as_tensor(self.accelerator.reduce(tensor, "sum")).tolist()

    def gradient_norm(self) -> float:
        """Norm of the gradient over all parameters, which is then shortened to the limit."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        whole = getattr(norm, "full_tensor", None)
        return float(whole() if whole else norm or 0.0)

    def step(self, rate: float) -> None:
        """Change the weights by the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def skip(self) -> None:
        """Drop the gradient; a loss scale that made it overflow is lowered."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()

    def agreed(self, value: Any) -> Any:
        """The main process's value, on every process."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    def gathered(self, value: Any) -> list[Any]:
        """Everybody's values, in the order of the processes."""
        return gather_object([value]) if self.world > 1 else [value]

    def on_main(self, action: Callable[[], Result]) -> Result | None:
        """Do something on the main process only; where it fails, all processes fail with the same sentence.

        Raises:
            CheckpointError: if a file can't be read or written.
            TrainingError: if the run can't go on.
        """
        result = failed = None
        if self.is_main:
            try:
                result = action()
            except (serialization.CheckpointError, TrainingError) as error:
                failed = error
        elsewhere = self.agreed(failed)
        if failed or elsewhere:
            raise failed or elsewhere
        return result

    def start_trackers(self, values: dict[str, Any]) -> None:
        """Begin a record of the run, with what describes it."""
        self.accelerator.init_trackers("fftnet", config=_flat(values))

    def log(self, values: dict[str, Any], step: int) -> None:
        """Send values to the trackers."""
        self.accelerator.log(values, step=step)

    def wait(self) -> None:
        """Wait for the other processes, so that none leaves while another still reads from it."""
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Close the trackers and part from the other processes."""
        self.accelerator.end_training()

    def weights(self) -> dict[str, Tensor]:
        """Weights as in :meth:`state`, alone."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options)
        return {name: torch.as_tensor(value) for name, value in weights.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights, and the optimizer's tensors, by the names of the parameters, whole, on the CPU.

        They do not depend on the number of processes or on how the model is spread over them. Every process
        must call this, and the main one alone gets them.
        """
        weights, moments = self._tensors(on_main_only=True)
        return weights, {
            f"{OPTIMIZER}{name}.{field}": torch.as_tensor(value)
            for name, values in moments.get("state", {}).items()
            for field, value in values.items()
        }

    def load_state(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave, on any number of processes.

        Raises:
            CheckpointError: if the optimizer's tensors are of another model.
        """
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        _, current = self._tensors(on_main_only=False)
        state = current["state"]
        wanted = {f"{OPTIMIZER}{name}.{field}" for name, values in state.items() for field in values}
        if wanted != optimizer.keys():
            name = min(wanted ^ optimizer.keys())
            raise serialization.CheckpointError(f"the optimizer's state lacks or should not hold {name}")
        for key, tensor in optimizer.items():
            name, field = key.removeprefix(OPTIMIZER).rsplit(".", 1)
            state[name][field] = tensor
        set_state_dict(
            self.model,
            self.optimizer.optimizer,
            model_state_dict=cast(dict[str, Any], weights),
            optim_state_dict=current,
            options=StateDictOptions(full_state_dict=True),
        )

    def _tensors(self, on_main_only: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        # Imported here because it takes half a second, which other commands need not wait for.
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=on_main_only)
        weights, optimizer = get_state_dict(self.model, self.optimizer.optimizer, options=options)
        return {name: torch.as_tensor(value) for name, value in weights.items()}, optimizer


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what PyTorch says of lost processes and of memory into sentences."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise TrainingError(
                "there is not enough memory: use a smaller batch_size, more accumulation_steps, or "
                "activation_checkpointing"
            ) from error
        if isinstance(error, torch.distributed.DistError) or "gloo" in text or "NCCL" in text:
            raise TrainingError(
                "another process of this run has ended: see its message, and go on with --resume auto"
            ) from error
        raise


def share(rows: Tensor, rank: int, world: int, parts: int) -> list[Tensor]:
    """One process's rows of a batch.

    Args:
        rows: int64 (B, T + 1).
        rank: of the process.
        world: processes.
        parts: pieces that each of them works on.

    Returns:
        As many pieces as asked for, all of one size; where the rows run out, rows of nothing (-1) follow.
    """
    size = -(-len(rows) // (world * parts))
    padded = F.pad(rows, (0, 0, 0, size * world * parts - len(rows)), value=-1)
    return list(padded[rank * parts * size : (rank + 1) * parts * size].split(size))


class Interrupted(Exception):
    """Somebody asked for the end of the run."""


class SharedBatches:
    """This process's rows of batches, until somebody asks for the end.

    Args:
        engine: the processes, all of which read the same batches.
        batches: those of the whole run.
        stop: whether this process was asked.
    """

    def __init__(self, engine: Engine, batches: Batches, stop: StopRequest) -> None:
        self._engine, self._batches, self._stop = engine, batches, stop
        self.num_batches = batches.num_batches

    def batch(self, epoch: int, index: int) -> Tensor:
        """int64 rows of this process, filled up with -1.

        Raises:
            Interrupted: if any process was asked to end.
        """
        if self._engine.total(float(self._stop.number is not None))[0] > 0:
            raise Interrupted
        return torch.cat(self._engine.share(self._batches.batch(epoch, index)))


def _flat(values: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Nested values under joined names, those that no tracker takes as text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}{key}.")
        else:
            flat[name + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
