"""Configuration of a training run: its parts, and the flags of ``fftnet train`` sorted into them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fftnet.api.start import StartConfig, flag_defaults
from fftnet.errors import suggestion
from fftnet.fields import check_fields, documented
from fftnet.model.config import BackboneConfig
from fftnet.model.mixers import MIXERS
from fftnet.tasks import TASKS, find_task, model_defaults
from fftnet.training.accelerator import AcceleratorConfig
from fftnet.training.config import BudgetConfig, TrainConfig
from fftnet.training.optim import OptimConfig
from fftnet.training.run_folder import SaveConfig
from fftnet.utils.dataset import DataConfig


@documented
@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Training task and its settings.

    Raises:
        ValueError: if there is no such task, or the settings belong to another one.
    """

    task: str = field(default="next_token", metadata={"choices": lambda: TASKS})
    """Training task: next_token (causal models), masked_token (bidirectional models), classification (of
    texts) or image_classification."""
    settings: Any = None
    """Settings of the task, an instance of its ``Config`` (None: the defaults)."""

    def __post_init__(self) -> None:
        own = find_task(self.task, TASKS).Config
        if self.settings is None:
            object.__setattr__(self, "settings", own())
        if not isinstance(self.settings, own):
            raise ValueError(f"settings of {self.task} must be of {own.__name__}, got {self.settings!r}")

    def described(self) -> dict[str, Any]:
        """Return the part that a checkpoint stores."""
        settings = asdict(self.settings)
        return {"task": self.task} | ({"settings": settings} if settings else {})


@documented
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run, one configuration for each concern.

    Raises:
        ValueError: if a field has the wrong class, as in all configurations, or a value that is not allowed.
    """

    model: BackboneConfig = field(default_factory=BackboneConfig)
    """Sizes, mixers and sequence length of the model."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training data, tokenizer, splits and batches."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """Task with its settings."""
    start: StartConfig = field(default_factory=StartConfig)
    """Checkpoint whose weights a run starts from."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and learning-rate schedule."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Limits on epochs, steps, tokens and minutes."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Evaluations, logging and safeguards."""
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)
    """Device, precision and processes."""
    save: SaveConfig = field(default_factory=SaveConfig)
    """Output folder, checkpoints and resuming."""

    def __post_init__(self) -> None:
        check_fields(self)


PARTS: dict[str, Any] = {part.name: part.default_factory for part in fields(RunConfig)}
"""Field of ``RunConfig`` to its class. The fields of these classes are the flags of ``fftnet train``."""
GROUPS: dict[str, Any] = {name: kind.Config for table in (MIXERS, TASKS) for name, kind in table.items()}
"""Mixer or task to the class of its settings. Their flags are ``--name.field``."""
NOT_FLAGS = ("mixer_configs", "settings")
"""Fields that are not flags: they hold the settings of mixers and of the task."""


def default_flags(task: str, init_from: str | Path | None) -> dict[str, Any]:
    """Return the flags whose defaults depend on the task or on the checkpoint that a run starts from."""
    found = model_defaults(task)
    return found if init_from is None else found | flag_defaults(init_from)


def assemble(parts: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """Join the parts of a run, by names in ``PARTS``, with settings for all names in ``GROUPS``.

    Raises:
        ValueError: if settings that are not the defaults belong to a mixer or a task that is not used.
    """
    # Settings that no mixer or task of this run uses are mistakes of the user, unless they are the defaults.
    task, used = parts["task"].task, set(parts["model"].layer_mixers)
    for name, values in settings.items():
        if name not in {*used, task} and values != GROUPS[name]():
            why = "that is not the --task" if name in TASKS else "no layer has that mixer, see --mixers"
            raise ValueError(f"settings of --{name} change nothing: {why}")
    model = replace(parts["model"], mixer_configs={name: settings[name] for name in used})
    return RunConfig(**{**parts, "model": model, "task": replace(parts["task"], settings=settings[task])})


def configure(**flags: Any) -> RunConfig:
    """Return the configuration of a run from the flags of ``fftnet train`` as keywords.

        >>> configure(data="my.txt", d_model=64, max_steps=200, addressed_spectral={"num_bins": 8})

    Args:
        **flags: fields of the classes in ``PARTS``; settings of a mixer or a task as a dictionary.

    Raises:
        TypeError: if there is no such flag.
        ValueError: if a value is out of range, or flags do not fit together.
    """
    given = dict(_flat(flags))
    given = default_flags(given.get("task", TaskConfig().task), given.get("init_from")) | given
    parts = {name: _take(given, kind) for name, kind in PARTS.items()}
    settings = {name: _take(given, kind, f"{name}.") for name, kind in GROUPS.items()}
    for name in given:
        raise TypeError(f"train() got an unexpected keyword {name!r}{suggestion(name, _known())}")
    return assemble(parts, settings)


def _known() -> Iterator[str]:
    """Yield the names of all flags and groups."""
    yield from GROUPS
    kinds = [("", kind) for kind in PARTS.values()] + [(f"{name}.", kind) for name, kind in GROUPS.items()]
    for prefix, kind in kinds:
        yield from (f"{prefix}{own.name}" for own in fields(kind) if own.name not in NOT_FLAGS)


def _flat(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield flags with the settings of mixers and tasks by field, as ``name.field``."""
    for name, value in flags.items():
        if name not in GROUPS:
            yield name, value
            continue
        values = asdict(value) if isinstance(value, GROUPS[name]) else value
        if not isinstance(values, Mapping):
            raise ValueError(f"{name} must be a dictionary of settings, got {value!r}")
        yield from ((f"{name}.{field}", each) for field, each in values.items())


def _take(given: dict[str, Any], kind: Any, prefix: str = "") -> Any:
    """Make a configuration from flags, and remove them from ``given``."""
    values = {}
    for own in fields(kind):
        name = f"{prefix}{own.name}"
        if name in given and name not in NOT_FLAGS:
            value = given.pop(name)
            # `resume=True` is the flag --resume without a value.
            values[own.name] = own.metadata["alone"] if value is True and "alone" in own.metadata else value
    return kind(**values)
