"""Base class of all models: their files, and the initialization of their weights."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fftnet import serialization
from fftnet.fields import check_config
from fftnet.model.exchange import (
    LANGUAGE,
    LIBRARY_FIELDS,
    Family,
    architecture_of,
    labels_from_file,
    labels_to_file,
    native_names,
)
from fftnet.model.heads import CLASS_FIELDS
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE, CheckpointError

Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """Model that is built from one configuration and saved as ``config.json`` and ``model.safetensors``.

    A subclass names its dataclass in ``config_class`` and takes an instance as its only argument.
    """

    config_class: ClassVar[type[Any]]
    family: ClassVar[Family] = LANGUAGE
    """Model type in ``config.json``, and classes of Transformers."""
    other_names: ClassVar[tuple[str, ...]] = ()
    """Names in ``config.json``, besides that of the class, that mean this model."""
    head_prefixes: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the weights that belong to the classes of a classifier."""
    # Read by PyTorch and Accelerate when several devices share a model: layers are never split.
    _no_split_modules = ("FFTNetLayer",)

    def __init__(self, config: Any) -> None:
        super().__init__()
        check_config("config", config, self.config_class)
        self.config = config

    @property
    def architecture(self) -> str:
        """Name of this model in ``config.json``."""
        return type(self).__name__

    def num_parameters(self) -> int:
        """Return the number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``directory``; errors are CheckpointErrors."""
        self.save_config(directory)
        serialization.write_tensors(Path(directory) / WEIGHTS_FILE, self.state_dict())

    def save_config(self, directory: str | Path) -> None:
        """Write ``config.json``, and the module that leads Transformers to ``fftnet.hf``, without weights."""
        kind: dict[str, Any] = {"model_type": self.family.model_type, "architectures": [self.architecture]}
        # Models of users have no class in fftnet.hf, so the library must not be led there.
        known = self.architecture in self.other_names
        if known:
            kind["auto_map"] = self.family.auto_map
        values = kind | labels_to_file(asdict(self.config))
        serialization.write_json(Path(directory) / CONFIG_FILE, values)
        if known:
            self.family.write_shim(Path(directory))

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path) -> Model:
        """Load a folder of ``save_pretrained``, here or in ``fftnet.hf``, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: naming the file that is missing, damaged, of another model or of another shape.
        """
        config = cls.read_config(directory)
        path = Path(directory) / WEIGHTS_FILE
        # Counted before the model is built: see at_most.
        numbers = serialization.stored_numbers(path)
        try:
            with at_most(numbers):
                model = cls(config)
        # PyTorch reports sizes that overflow and memory that is not there as a RuntimeError.
        except (TypeError, ValueError, RuntimeError) as error:
            raise _not_a_model(Path(directory) / CONFIG_FILE, error) from error
        serialization.load_weights(model, path, native_names)
        return model.eval()

    @classmethod
    def read_config(cls, directory: str | Path) -> Any:
        """Return the ``config_class`` instance of a checkpoint; errors are those of ``from_pretrained``."""
        path = Path(directory) / CONFIG_FILE
        values = serialization.read_json(path)
        name = architecture_of(values, path) or cls.__name__
        known = {field.name for field in fields(cls.config_class)}
        try:
            values = labels_from_file(values) if known.issuperset(CLASS_FIELDS) else values
            cls._check_kind(path, values, name)
            values = {field: value for field, value in values.items() if field not in LIBRARY_FIELDS}
            unknown = sorted(set(values) - known)
            if unknown:
                listed = ", ".join(unknown[:10]) + ", ..." * (len(unknown) > 10)
                raise CheckpointError(f"{path} holds fields that this version does not know: {listed}")
            return cls.config_class(**values)
        except (TypeError, ValueError) as error:
            raise _not_a_model(path, error) from error

    @classmethod
    def _check_kind(cls, path: Path, values: dict[str, Any], architecture: str) -> None:
        """Refuse the ``config.json`` of another kind of model."""
        expected = cls.family.model_type
        model_type = values.get("model_type", expected)
        if model_type != expected:
            raise CheckpointError(f"{path} is that of a model of type {model_type!r}, not {expected!r}")
        name = cls.__name__
        if architecture not in (name, *cls.other_names):
            raise CheckpointError(
                f"{path} is that of {[architecture]}, not of {name}: load it with that class"
            )
        if values.get("tie_word_embeddings") is False:
            raise CheckpointError(
                f"{path} is that of a head with separate weights, which {name} does not have: load it with "
                f"fftnet.hf.{architecture}"
            )


def _not_a_model(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} does not describe a model: {error}")


@contextmanager
def at_most(numbers: int, *, on_meta: bool = False) -> Iterator[None]:
    """Refuse to create parameters, in this thread, with far more numbers than the file of the weights has.

    A damaged configuration may ask for any size. A parameter takes no memory before it is initialized, and it
    is counted earlier. Models that are only somewhat larger pass: ``load_weights`` names the difference. With
    ``on_meta``, only parameters on the meta device are counted.
    """
    total = 0
    most = 2 * numbers + 2**20
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        # The hook sees all modules of the process, also those that other threads create.
        if parameter is None or threading.get_ident() != thread or on_meta > parameter.is_meta:
            return
        total += parameter.numel()
        if total > most:
            raise ValueError(
                f"a model with {name} of shape {tuple(parameter.shape)} is larger than the {numbers:,} "
                f"numbers in {WEIGHTS_FILE}"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def reset_parameters(model: nn.Module) -> None:
    """Initialize all parameters of a model again.

    For a model that was built on the meta device: ``model.to_empty(device=...)``, then this.
    """
    # Parts before the whole, as they are built: a mixer initializes one part from another.
    for module in reversed(list(model.modules())):
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
