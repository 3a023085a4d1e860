"""A step of training, spread over the processes of a run.

The sum of the losses is divided by the counted targets of all processes, so that a step is the same however
its batch is spread out (see ``fftnet.training.sharding``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from fftnet import serialization
from fftnet.protocols import Batch, Objective, RowStates
from fftnet.training.accelerator import AcceleratorConfig, TrainingError, make_accelerator
from fftnet.training.carry import Carried, losses_and_state
from fftnet.training.optim import OptimConfig, make_optimizer
from fftnet.training.precision import name_of
from fftnet.training.sharding import shard

OPTIMIZER = "state."
"""Prefix of the names of the optimizer's tensors."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Result = TypeVar("Result")


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


class Distributed:
    """The processes of a run, with the model and the optimizer that are spread over them.

    Whatever the processes exchange raises TrainingError where another of them has died.

    Args:
        model: any module; its ``_no_split_modules`` names the classes of its layers.
        config: where and in which numbers.
        optim_config: the optimizer.
        folder: where trackers that write files put them.

    Raises:
        TrainingError: if the device, the precision or a tracker can't be used here.
    """

    def __init__(
        self, model: nn.Module, config: AcceleratorConfig, optim_config: OptimConfig, folder: Path
    ) -> None:
        self.accelerator = make_accelerator(model, config, folder)
        self.device = self.accelerator.device
        self.rank = self.accelerator.process_index
        self.world = self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.model_shards = self.world if self.accelerator.distributed_type == DistributedType.FSDP else 1
        self.raw_model = model
        layers = tuple(getattr(model, "_no_split_modules", ()))
        if config.activation_checkpointing:
            apply_activation_checkpointing(model, check_fn=lambda part: type(part).__name__ in layers)
        # The compiled and the wrapped model share the parameters of the raw one.
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model, optim_config))
        self._gradient_clip = optim_config.gradient_clip

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches that a process works on one after the other."""
        return self.accelerator.gradient_accumulation_steps

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16; ``auto`` has been resolved."""
        return name_of(self.accelerator.mixed_precision)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of matrix products."""
        return DTYPES.get(self.accelerator.mixed_precision, torch.float32)

    @property
    def scaler(self) -> Any:
        """The loss scale of fp16, else None."""
        return self.accelerator.scaler

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """This process's rows of a batch, on its device, in parts for gradient accumulation."""
        parts = shard(batch, self.rank, self.world, self.accumulation_steps)
        return [part.to(self.device) for part in parts]

    @_explained()
    def accumulate(
        self, objective: Objective, batch: Batch, *others: float, carried: Carried | None = None
    ) -> tuple[list[float], Carried | None]:
        """Gradients of the mean loss over a batch, on all processes.

        Args:
            objective: losses of a batch.
            batch: that of the whole run.
            others: numbers to add up over the processes on the way.
            carried: what this process's rows have left, where they go on; None begins anew.

        Returns:
            The loss, the number of counted targets and the other numbers, each summed over all processes; and
            what this process's rows leave, None where they do not go on.

        Raises:
            TrainingError: if another process has died, there is not enough memory, or rows go on but the
                objective knows no state.
        """
        self.optimizer.zero_grad(set_to_none=True)
        micro_batches = self.micro_batches(batch)
        expected = max(int(batch.loss_mask.sum()), 1)
        # Accelerate divides by its number of micro-batches and processes; here all targets count alike.
        weight = self.world * self.accumulation_steps / expected
        losses: list[Tensor] = []
        counts: list[Tensor] = []
        before = [None] * len(micro_batches) if carried is None else carried.parts
        after: list[RowStates] = []
        for number, (part, state) in enumerate(zip(micro_batches, before, strict=True), start=1):
            last = number == len(micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                result, state = losses_and_state(objective, self.model, part, state)
                self.accelerator.backward(result.loss * weight)
                losses.append(result.loss.detach())
                counts.append(result.count)
                if state is not None:
                    after.append(state)
        # Read at the end, since reading a number waits for the device.
        sums = self.all_reduce(sum(map(float, losses)), sum(map(float, counts)), *others)
        if sums[1] not in (0.0, expected):
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            for gradient in gradients:
                gradient.mul_(expected / sums[1])
        return sums, Carried(batch.num_rows, tuple(after)) if after else None

    @_explained()
    def all_reduce(self, *values: float) -> list[float]:
        """Sums over all processes.

        Raises:
            TrainingError: if another process has died.
        """
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        return torch.as_tensor(self.accelerator.reduce(tensor, "sum")).tolist()

    @_explained()
    def clip_gradient(self) -> float:
        """Clip the gradient to the largest norm allowed and return the norm it had."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self._gradient_clip)
        whole = getattr(norm, "full_tensor", None)
        return float(whole() if whole else norm or 0.0)

    def step(self, lr: float) -> None:
        """Update the weights with a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def skip(self) -> None:
        """Drop the gradient; a loss scale that made it overflow is lowered."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler is not None:
            self.scaler.update()

    @_explained()
    def broadcast(self, value: Any) -> Any:
        """The main process's value, on every process."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    @_explained()
    def all_gather(self, value: Any) -> list[Any]:
        """Everybody's values, in the order of the processes."""
        return gather_object([value]) if self.world > 1 else [value]

    def main_process_only(self, action: Callable[[], Result]) -> Result | None:
        """Do something on the main process only; where it fails, all processes fail with the same sentence.

        Raises:
            CheckpointError: if a file can't be read or written.
            TrainingError: if the run can't go on.
        """
        result = None
        failed = None
        if self.is_main:
            try:
                result = action()
            except (serialization.CheckpointError, TrainingError) as error:
                failed = error
        elsewhere = self.broadcast(failed)
        if failed or elsewhere:
            raise failed or elsewhere
        return result

    def start_trackers(self, values: dict[str, Any]) -> None:
        """Begin a record of the run, with what describes it."""
        self.accelerator.init_trackers("fftnet", config=_flat(values))

    def log(self, values: dict[str, Any], step: int) -> None:
        """Send values to the trackers."""
        self.accelerator.log(values, step=step)

    @_explained()
    def barrier(self) -> None:
        """Wait for the other processes, so that none leaves while another still reads from it."""
        self.accelerator.wait_for_everyone()

    @_explained()
    def close(self) -> None:
        """Close the trackers and part from the other processes."""
        self.accelerator.end_training()

    @_explained()
    def weights(self) -> dict[str, Tensor]:
        """Weights as in ``state_dict``, alone."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options)
        return {name: torch.as_tensor(value) for name, value in weights.items()}

    @_explained()
    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights, and the optimizer's tensors, by the names of the parameters, whole, on the CPU.

        They do not depend on the number of processes or on how the model is spread over them. Every process
        must call this, and the main one alone gets them.
        """
        weights, moments = self._tensors(main_process_only=True)
        return weights, {
            f"{OPTIMIZER}{name}.{field}": torch.as_tensor(value)
            for name, values in moments.get("state", {}).items()
            for field, value in values.items()
        }

    @_explained()
    def load_state_dict(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave, on any number of processes.

        Raises:
            CheckpointError: if the optimizer's tensors are of another model.
        """
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        _, current = self._tensors(main_process_only=False)
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

    def _tensors(self, main_process_only: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        # Imported here because it takes half a second, which other commands need not wait for.
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=main_process_only)
        weights, optimizer = get_state_dict(self.model, self.optimizer.optimizer, options=options)
        return {name: torch.as_tensor(value) for name, value in weights.items()}, optimizer


def _flat(values: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Nested values under joined names, those that no tracker takes as text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}{key}.")
        else:
            flat[name + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
