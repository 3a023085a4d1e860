"""Training from Python: one configuration in, a trained model out. The command line is flags over this."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fftnet.api import RUN_FILE
from fftnet.generation import SamplingConfig, generate
from fftnet.model.config import BackboneConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import write_json
from fftnet.tasks import TASKS
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.training.budget import BudgetConfig
from fftnet.training.checkpointer import CheckpointConfig
from fftnet.training.optim import OptimConfig
from fftnet.utils.dataset import DataConfig, training_texts
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer
from fftnet.utils.trainer import RunMetadata, TrainConfig, Trainer

SAMPLE_TOKENS = 100


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is learned.

    Raises:
        ValueError: if there is no such task.
    """

    task: str = "next_token"
    """Objective: next_token (causal models) or masked_token (bidirectional ones)."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; choose from {', '.join(TASKS)}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything about a training run, one configuration for each concern."""

    model: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)


class TrainingResult(NamedTuple):
    """A finished run."""

    model: torch.nn.Module
    """With the last weights, in evaluation mode."""
    tokenizer: Tokenizer
    history: list[dict[str, Any]]
    """One row an evaluation: losses, metrics, speed."""
    folder: Path
    """Where checkpoints, metrics and the loss curve are; :func:`fftnet.load` takes it."""


def train(config: RunConfig) -> TrainingResult:
    """Train a model: read the data, learn a tokenizer if asked, build the model, run to the end of the budget.

        >>> from fftnet.run import RunConfig
        >>> result = train(RunConfig(data=DataConfig(data=["python-docs"]), budget=BudgetConfig(max_steps=100)))

    Raises:
        ValueError: if model, task and data do not fit together.
        UserError: if data can't be read, a checkpoint not be written, or training not go on; see
            :mod:`fftnet.errors`.
    """
    data, task = config.data, TASKS[config.task.task]
    tokenizer = load_tokenizer(data.tokenizer, corpus=training_texts(data), vocab_size=data.vocab_size)
    splits = task.load_splits(data, tokenizer, config.model.max_seq_length)
    torch.manual_seed(config.train.seed)
    model = task.build_model(config.model, tokenizer.vocab_size)
    settings = {
        "model": asdict(model.config),
        "data": asdict(data),
        "task": asdict(config.task),
    }

    def save_model_files(directory: Path) -> None:
        model.save_config(directory)
        tokenizer.save(directory)
        write_json(directory / RUN_FILE, settings)

    trainer = Trainer(
        model,
        task(token_bytes=tokenizer.token_bytes()),
        splits.train,
        splits.valid,
        train_config=config.train,
        budget_config=config.budget,
        optim_config=config.optim,
        accelerator_config=config.accelerator,
        checkpoint_config=config.checkpoints,
        metadata=RunMetadata(
            entropy_floor=splits.entropy_floor,
            save_extras=save_model_files,
            fingerprint=settings | {"tokenizer": tokenizer.fingerprint},
            sample=_sampler(model, tokenizer),
        ),
    )
    history = trainer.train()
    return TrainingResult(model.eval(), tokenizer, history, Path(config.checkpoints.output_dir))
