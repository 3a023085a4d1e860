"""Training from Python: one configuration in, a trained model out."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fftnet.api import RUN_FILE
from fftnet.generation import SamplingConfig, generate
from fftnet.model.config import BackboneConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import write_json
from fftnet.tasks import task_class
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.training.budget import BudgetConfig
from fftnet.training.callbacks import Callbacks, RunMetadata
from fftnet.training.checkpointer import SaveConfig
from fftnet.training.optim import OptimConfig
from fftnet.utils.dataset import DataConfig, training_texts
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer
from fftnet.utils.trainer import TrainConfig, Trainer

__all__ = [
    "AcceleratorConfig",
    "BackboneConfig",
    "BudgetConfig",
    "DataConfig",
    "OptimConfig",
    "RunConfig",
    "SaveConfig",
    "TaskConfig",
    "TrainConfig",
    "TrainingResult",
    "train",
]

SAMPLE_TOKENS = 100
"""Of the text that is shown at every evaluation."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The objective of a run.

    Raises:
        ValueError: if there is no such task.
    """

    task: str = "next_token"
    """Objective: next_token (causal models) or masked_token (bidirectional ones)."""

    def __post_init__(self) -> None:
        task_class(self.task)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run, one configuration for each concern."""

    model: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)
    save: SaveConfig = field(default_factory=SaveConfig)


class TrainingResult(NamedTuple):
    """A finished run."""

    model: nn.Module
    """With its last weights, in evaluation mode."""
    tokenizer: Tokenizer
    history: list[dict[str, Any]]
    """One row for each evaluation: losses, metrics, speed."""
    folder: Path
    """Of the checkpoints, the metrics and the loss curve; ``fftnet.load`` takes it."""


def train(config: RunConfig) -> TrainingResult:
    """Train a model: read the data, make the tokenizer and the model, train to the end of the budget.

        >>> from fftnet.run import BudgetConfig, DataConfig, RunConfig
        >>> config = RunConfig(data=DataConfig(data=["python-docs"]), budget=BudgetConfig(max_steps=360))
        >>> model, tokenizer, history, folder = fftnet.train(config)

    Args:
        config: what is trained, on what, how and how long.

    Raises:
        ValueError: if model, task and data do not fit together.
        UserError: if data can't be read, a checkpoint can't be written, or training can't go on.
    """
    data = config.data
    task = task_class(config.task.task)
    if data.carry_state and not (config.model.causal and hasattr(task, "carry")):
        raise ValueError("carry_state needs a model and a task with a state: a causal one, and next_token")
    tokenizer = load_tokenizer(data.tokenizer, corpus=training_texts(data), vocab_size=data.vocab_size)
    splits = task.load_splits(data, tokenizer, config.model.max_seq_length)
    torch.manual_seed(config.train.seed)
    model = task.build_model(config.model, tokenizer.vocab_size)
    described = {
        "model": asdict(model.config),
        "data": asdict(data),
        "task": asdict(config.task),
    }

    def save_files(directory: Path) -> None:
        model.save_config(directory)
        tokenizer.save(directory)
        write_json(directory / RUN_FILE, described)

    trainer = Trainer(
        model,
        task(tokenizer.token_bytes()),
        splits.train,
        splits.valid,
        train_config=config.train,
        budget_config=config.budget,
        optim_config=config.optim,
        accelerator_config=config.accelerator,
        save_config=config.save,
        metadata=RunMetadata(
            entropy_floor=splits.entropy_floor,
            fingerprint=described | {"tokenizer": tokenizer.fingerprint},
        ),
        callbacks=Callbacks(save_files=save_files, sample=_sampler(model, tokenizer)),
    )
    history = trainer.train()
    return TrainingResult(model.eval(), tokenizer, history, Path(config.save.output_dir))


def _sampler(model: nn.Module, tokenizer: Tokenizer) -> Callable[[dict[str, Tensor]], str] | None:
    if not isinstance(model, FFTNet) or not model.config.causal:
        return None
    config = model.config

    def sample(weights: dict[str, Tensor]) -> str:
        # A copy on the CPU writes, because the model may be compiled or split among processes.
        writer = FFTNet(config).eval()
        writer.load_state_dict(weights)
        sampling = SamplingConfig(max_new_tokens=SAMPLE_TOKENS)
        return generate(writer, [""], sampling, tokenizer=tokenizer).texts[0]

    return sample
