"""``fftnet train``: flags for :func:`fftnet.train`."""

from collections.abc import Sequence
from dataclasses import replace

from fftnet.cli.flags import UsageError, parse
from fftnet.model.config import BackboneConfig
from fftnet.model.mixers import MIXERS
from fftnet.run import RunConfig, TaskConfig, train
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.training.budget import BudgetConfig
from fftnet.training.checkpointer import CheckpointConfig
from fftnet.training.optim import OptimConfig
from fftnet.utils.dataset import DataConfig
from fftnet.utils.trainer import TrainConfig

CONFIGS = (
    BackboneConfig,
    DataConfig,
    TaskConfig,
    OptimConfig,
    BudgetConfig,
    TrainConfig,
    AcceleratorConfig,
    CheckpointConfig,
)


def run(argv: Sequence[str]) -> None:
    """Train a model on text and write checkpoints, a loss curve and metrics."""
    mixer_configs = {name: mixer.Config for name, mixer in MIXERS.items()}
    configs, groups = parse(
        "train", run.__doc__, argv, CONFIGS, groups=mixer_configs, without=("mixer_configs",)
    )
    model, *others = configs
    for name, config in groups.items():
        if name not in model.layer_mixers and config != mixer_configs[name]():
            raise UsageError(f"--{name} settings change nothing: no layer has that mixer, see --mixers")
    used = {name: groups[name] for name in model.layer_mixers}
    try:
        train(RunConfig(**dict(zip(_FIELDS, (replace(model, mixer_configs=used), *others), strict=True))))
    except ValueError as error:
        raise UsageError(str(error)) from error


_FIELDS = ("model", "data", "task", "optim", "budget", "train", "accelerator", "checkpoints")
