"""A step of training on all processes of a run; it does not depend on how its batch is split."""

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
from fftnet.training.accelerator import PRECISIONS, AcceleratorConfig, TrainingError, make_accelerator
from fftnet.training.optim import OptimConfig, make_optimizer
from fftnet.training.sharding import Carried, losses_and_state, shard

OPTIMIZER = "state."
"""Prefix of the names of the optimizer's tensors."""
Result = TypeVar("Result")


@contextmanager
def _explained() -> Iterator[None]:
    """Explain PyTorch's errors about lost processes and memory in a sentence."""
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
                "another process of this run has ended: see its message, and continue with --resume auto"
            ) from error
        raise


class Distributed:
    """The processes of a run, with the model and the optimizer that they share.

    Every method that communicates raises TrainingError if another process has died. ``_no_split_modules`` of
    the model names the classes of its layers; ``folder`` is the output of trackers that write files.
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
        # A precision of the launcher that we have no name for, such as fp8, keeps Accelerate's.
        names = {theirs: name for name, theirs in PRECISIONS.items()}
        self.precision = names.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision)
        self.raw_model = model
        layers = tuple(getattr(model, "_no_split_modules", ()))
        if config.activation_checkpointing:
            apply_activation_checkpointing(model, check_fn=lambda part: type(part).__name__ in layers)
        # The compiled and the wrapped model share the parameters of the raw one.
        optimizer = make_optimizer(model, optim_config, self.model_shards)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self._gradient_clip = optim_config.gradient_clip

    @property
    def accumulation_steps(self) -> int:
        """Number of micro-batches per process, which Accelerate shares among all runs of a Python process."""
        return self.accelerator.gradient_accumulation_steps

    @property
    def scaler(self) -> Any:
        """Gradient scaler of fp16, else None."""
        return self.accelerator.scaler

    @_explained()
    def accumulate(
        self, objective: Objective, batch: Batch, *others: float, carried: Carried | None = None
    ) -> tuple[list[float], Carried | None]:
        """Compute the gradient of the mean loss over a batch of the whole run, on all processes.

        Return the loss, the number of counted targets and the other numbers, each summed over all processes
        in one communication; and the states of this process's rows for the next step, None if rows do not
        continue. ``carried`` are those of the step before, None if rows start afresh.
        """
        self.optimizer.zero_grad(set_to_none=True)
        micro_batches = shard(batch, self.rank, self.world, self.accumulation_steps)
        expected = max(int(batch.loss_mask.sum()), 1)
        # Accelerate divides by the number of micro-batches and processes. Here all targets count alike: the
        # step does not depend on how its batch is split.
        weight = self.world * self.accumulation_steps / expected
        losses: list[Tensor] = []
        counts: list[Tensor] = []
        before = [None] * len(micro_batches) if carried is None else carried.parts
        after: list[RowStates] = []
        for number, (part, state) in enumerate(zip(micro_batches, before, strict=True), start=1):
            last = number == len(micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                result, state = losses_and_state(objective, self.model, part.to(self.device), state)
                self.accelerator.backward(result.loss * weight)
                losses.append(result.loss.detach())
                counts.append(result.count)
                if state is not None:
                    after.append(state)
        # Numbers are read after the last micro-batch, because reading one waits for the device.
        sums = self.all_reduce(sum(map(float, losses)), sum(map(float, counts)), *others)
        if sums[1] not in (0.0, expected):
            # The objective counted other targets than loss_mask says, such as masked tokens.
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(expected / sums[1])
        return sums, Carried(batch.num_rows, tuple(after)) if after else None

    @_explained()
    def all_reduce(self, *values: float) -> list[float]:
        """Return sums over all processes."""
        if self.world == 1:
            return list(values)
        # float32 can't count more than 16 million tokens exactly.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        return torch.as_tensor(self.accelerator.reduce(tensor, "sum")).tolist()

    @_explained()
    def clip_gradient(self) -> float:
        """Clip the gradient to the maximum norm and return the norm before."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self._gradient_clip)
        # The norm of a sharded gradient is a DTensor.
        whole = getattr(norm, "full_tensor", None)
        return float(whole() if whole else norm or 0.0)

    def step(self, lr: float) -> None:
        """Update the weights with a learning rate."""
        for group in self.optimizer.param_groups:
            # A schedule of PyTorch counts steps; ours depends on the budget, which may be minutes.
            group["lr"] = lr
        self.optimizer.step()

    def skip(self) -> None:
        """Drop the gradient, and lower the loss scale if the gradient overflowed."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler is not None:
            self.scaler.update()

    @_explained()
    def broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process."""
        return broadcast_object_list([value])[0] if self.world > 1 else value

    @_explained()
    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in the order of ranks."""
        return gather_object([value]) if self.world > 1 else [value]

    def main_process_only(self, action: Callable[[], Result]) -> Result | None:
        """Call a function on the main process; if it fails, all processes raise the same error."""
        result = failed = None
        if self.is_main:
            try:
                result = action()
            except (serialization.CheckpointError, TrainingError) as error:
                failed = error
        # The other processes wait here, and must not continue without the main process.
        elsewhere = self.broadcast(failed)
        if failed or elsewhere:
            raise failed or elsewhere
        return result

    def start_trackers(self, values: dict[str, Any]) -> None:
        """Start the trackers with the settings of the run."""
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
        """Close the trackers and the connection to the other processes."""
        self.accelerator.end_training()

    @_explained()
    def weights(self) -> dict[str, Tensor]:
        """Return the whole weights on the CPU."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return _tensors(get_model_state_dict(self.model, options=options))

    @_explained()
    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weights and the optimizer's tensors, whole, on the CPU.

        They do not depend on the number of processes or the strategy. Every process must call this; only the
        main process gets them.
        """
        weights, optimizer = self._state(cpu_offload=True)
        return weights, {
            f"{OPTIMIZER}{name}.{field}": torch.as_tensor(value)
            for name, values in optimizer.get("state", {}).items()
            for field, value in values.items()
        }

    @_explained()
    def load_state_dict(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Load the result of ``state_dict``, on any number of processes."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        _, current = self._state(cpu_offload=False)
        state = current["state"]
        wanted = {f"{OPTIMIZER}{name}.{field}" for name, values in state.items() for field in values}
        # set_state_dict would ignore missing and extra tensors.
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

    def _state(self, cpu_offload: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        # Imported here because it takes half a second, which other commands need not spend.
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=cpu_offload)
        weights, optimizer = get_state_dict(self.model, self.optimizer.optimizer, options=options)
        return _tensors(weights), optimizer


def _tensors(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in weights.items()}


def _flat(values: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Flatten nested values under joined names; values that trackers do not accept become text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}{key}.")
        else:
            flat[name + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
