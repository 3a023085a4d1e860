"""The base class of models with different heads: their files, and the start values of their weights."""

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
from fftnet.model.exchange import LANGUAGE, LIBRARY_FIELDS, Family, architecture_of, native_names
from fftnet.model.labels import FIELDS, from_file, to_file
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE, CheckpointError

Model = TypeVar("Model", bound="PretrainedModel")

SLACK = 2**20
"""Numbers by which a model may always be larger than its file of weights before it is built in full."""


class PretrainedModel(nn.Module):
    """A model that is built from one configuration and saved as ``config.json`` and ``model.safetensors``.

    A subclass names its dataclass in ``config_class`` and takes an instance as its only argument.
    """

    config_class: ClassVar[type[Any]]
    family: ClassVar[Family] = LANGUAGE
    """Whose model types ``config.json`` names."""
    other_names: ClassVar[tuple[str, ...]] = ()
    """Names beside the class's own under which ``config.json`` may call this model."""
    head_prefixes: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights that belong to the classes it tells apart."""
    # Where several devices split the model: PyTorch's and Hugging Face's name for "never inside these".
    _no_split_modules = ("FFTNetLayer",)

    def __init__(self, config: Any) -> None:
        super().__init__()
        check_config("config", config, self.config_class)
        self.config = config

    @property
    def architecture(self) -> str:
        """Name under which ``config.json`` calls this model."""
        return type(self).__name__

    def num_parameters(self) -> int:
        """Learned numbers in the model."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``directory``.

        Raises:
            CheckpointError: if the folder can't be written.
        """
        self.save_config(directory)
        serialization.write_tensors(Path(directory) / WEIGHTS_FILE, self.state_dict())

    def save_config(self, directory: str | Path) -> None:
        """Write ``config.json`` and what leads Transformers to ``fftnet.hf``, for a trainer that writes the
        weights itself.

        Raises:
            CheckpointError: if the folder can't be written.
        """
        kind: dict[str, Any] = {"model_type": self.family.model_type, "architectures": [self.architecture]}
        known = self.architecture in self.other_names
        if known:
            kind["auto_map"] = self.family.auto_map
        serialization.write_json(Path(directory) / CONFIG_FILE, kind | to_file(asdict(self.config)))
        if known:
            self.family.write_shim(Path(directory))

    @classmethod
    def from_pretrained(cls: type[Model], directory: str | Path) -> Model:
        """Read what ``save_pretrained`` wrote, here or in ``fftnet.hf``, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: naming the file that is missing, damaged, of another model or of another shape.
        """
        config = cls.read_config(directory)
        path = Path(directory) / WEIGHTS_FILE
        numbers = serialization.stored_numbers(path)
        try:
            with at_most(numbers):
                model = cls(config)
        # PyTorch reports sizes that overflow and memory that is not there as a RuntimeError.
        except (TypeError, ValueError, RuntimeError) as error:
            described = Path(directory) / CONFIG_FILE
            raise CheckpointError(f"{described} does not describe a model: {error}") from error
        serialization.load_weights(model, path, native_names)
        return model.eval()

    @classmethod
    def read_config(cls, directory: str | Path) -> Any:
        """The configuration of a checkpoint, an instance of ``config_class``.

        Raises:
            CheckpointError: naming the file that is missing, damaged or of another model.
        """
        path = Path(directory) / CONFIG_FILE
        values = serialization.read_json(path)
        architecture_of(values, path)
        known = {field.name for field in fields(cls.config_class)}
        try:
            values = from_file(values) if known.issuperset(FIELDS) else values
        except ValueError as error:
            raise CheckpointError(f"{path} does not describe a model: {error}") from error
        _check_kind(path, values, cls.family, (cls.__name__, *cls.other_names))
        unknown = sorted(set(values) - known)
        if unknown:
            listed = ", ".join(unknown[:10]) + ", ..." * (len(unknown) > 10)
            raise CheckpointError(f"{path} holds fields that this version does not know: {listed}")
        try:
            return cls.config_class(**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} does not describe a model: {error}") from error


@contextmanager
def at_most(numbers: int, *, on_meta: bool = False) -> Iterator[None]:
    """Refuse parameters made in this thread that have far more numbers than ``numbers`` in total.

    A configuration may ask for any size. A parameter takes no memory before it gets its start values, and it
    is counted earlier. Models that are only somewhat larger pass: ``load_weights`` names what differs.

    Args:
        numbers: numbers in the file of the weights.
        on_meta: count the parameters on the meta device only.

    Raises:
        ValueError: naming the parameter and its shape.
    """
    total = 0
    most = 2 * numbers + SLACK
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
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


def _check_kind(path: Path, values: dict[str, Any], family: Family, names: tuple[str, ...]) -> None:
    """Take what names the model and what is the library's out of the fields, and refuse another model."""
    model_type = values.get("model_type", family.model_type)
    if model_type != family.model_type:
        raise CheckpointError(f"{path} is that of a model of type {model_type!r}, not {family.model_type!r}")
    architecture = architecture_of(values, path) or names[0]
    if architecture not in names:
        raise CheckpointError(
            f"{path} is that of {[architecture]}, not of {names[0]}: load it with that class"
        )
    if values.get("tie_word_embeddings") is False:
        raise CheckpointError(
            f"{path} is that of a head with weights of its own, which {names[0]} has not: load it with "
            f"fftnet.hf.{architecture}"
        )
    for field in LIBRARY_FIELDS & values.keys():
        del values[field]


def reset_parameters(model: nn.Module) -> None:
    """Give all parameters of a model new start values, each part its own.

    For a model that was built on the meta device: ``model.to_empty(device=...)``, then this.
    """
    # Parts before the whole, as they are built: a mixer may start one part like another.
    for module in reversed(list(model.modules())):
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
