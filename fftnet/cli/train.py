"""``fftnet train``: flags for ``fftnet.train``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fftnet.cli.flags import UsageError, parse
from fftnet.errors import UserError
from fftnet.model.config import BackboneConfig
from fftnet.model.mixers import MIXERS
from fftnet.run import RunConfig, TaskConfig, train
from fftnet.start import StartConfig, flag_defaults
from fftnet.tasks import TASKS, model_defaults
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.training.budget import BudgetConfig
from fftnet.training.checkpointer import SaveConfig
from fftnet.training.config import TrainConfig
from fftnet.training.memory import keep_freed_memory
from fftnet.training.optim import OptimConfig
from fftnet.utils.dataset import DataConfig

CONFIGS = {
    "model": BackboneConfig,
    "data": DataConfig,
    "task": TaskConfig,
    "start": StartConfig,
    "optim": OptimConfig,
    "budget": BudgetConfig,
    "train": TrainConfig,
    "accelerator": AcceleratorConfig,
    "save": SaveConfig,
}
"""Field of ``fftnet.run.RunConfig`` to the class whose fields are the flags."""


def run(argv: Sequence[str]) -> None:
    """Train a model on text and write checkpoints, a loss curve and metrics."""
    groups = {name: kind.Config for table in (MIXERS, TASKS) for name, kind in table.items()}
    without = ("mixer_configs", "settings")
    configs, given = parse(
        "train",
        argv,
        tuple(CONFIGS.values()),
        groups=groups,
        without=without,
        defaults=_defaults,
    )
    parts = dict(zip(CONFIGS, configs, strict=True))
    task = parts["task"].task
    used = set(parts["model"].layer_mixers)
    for name in given.keys() - used - {task}:
        if given[name] != groups[name]():
            why = (
                "that task is not run, see --task"
                if name in TASKS
                else "no layer has that mixer, see --mixers"
            )
            raise UsageError(f"settings of --{name} change nothing: {why}")
    try:
        parts["model"] = replace(parts["model"], mixer_configs={name: given[name] for name in used})
        parts["task"] = replace(parts["task"], settings=given[task])
        keep_freed_memory()
        train(RunConfig(**parts))
    except UserError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _defaults(values: Any) -> dict[str, Any]:
    """Of flags whose defaults depend on the values of others."""
    found = model_defaults(values.task)
    return found if values.init_from is None else found | flag_defaults(values.init_from)
