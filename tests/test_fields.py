"""Fields of configurations: declared types, finite numbers, ranges, and docstrings at run time."""

import ast
import math
import pydoc
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import fftnet
from fftnet import AcceleratorConfig, BudgetConfig, OptimConfig, SaveConfig, TrainConfig
from fftnet.api.evaluate import EvaluationConfig
from fftnet.api.generate import SamplingConfig
from fftnet.api.run_config import PARTS
from fftnet.cli.inspect import InspectionConfig
from fftnet.data.images.processor import ImageProcessor
from fftnet.export import ExportConfig
from fftnet.fields import check_fields, check_range, documented, field_docstrings
from fftnet.model import BackboneConfig, FFTNetConfig, SequenceClassifierConfig, ViTConfig
from fftnet.model.heads import check_class_names
from fftnet.model.mixers.addressed_spectral import AddressedSpectralConfig
from fftnet.model.mixers.delta_spectral import DeltaSpectralConfig
from fftnet.model.mixers.spectral import SpectralConfig
from fftnet.tasks.classification import ClassificationConfig
from fftnet.tasks.image_classification import ImageClassificationConfig

CONFIGS: dict[type[Any], dict[str, Any]] = {
    FFTNetConfig: {"vocab_size": 11},
    SequenceClassifierConfig: {"vocab_size": 11},
    ViTConfig: {"num_classes": 3},
    SpectralConfig: {},
    AddressedSpectralConfig: {},
    DeltaSpectralConfig: {},
    OptimConfig: {},
    BudgetConfig: {},
    TrainConfig: {},
    SaveConfig: {},
    AcceleratorConfig: {},
    SamplingConfig: {},
    ExportConfig: {},
    EvaluationConfig: {},
    InspectionConfig: {"prompt": "a"},
    ClassificationConfig: {},
    ImageClassificationConfig: {},
    ImageProcessor: {"size": 8, "mean": (0.5,), "std": (0.5,)},
}
"""Configuration class to values for its fields without a default."""
LISTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "mixers": (lambda value: BackboneConfig(mixers=value).mixers, "attention"),
    "trackers": (lambda value: AcceleratorConfig(trackers=value).trackers, "none"),
    "valid_data": (lambda value: ClassificationConfig(valid_data=value).valid_data, "v.csv"),
    "test_data": (lambda value: ClassificationConfig(test_data=value).test_data, "t.csv"),
    "augmentation": (lambda value: ImageClassificationConfig(augmentation=value).augmentation, "flip"),
    "class_names": (lambda value: check_class_names(value, 1), "cat"),
}
"""Name of a list field to a function that sets it and returns it, and a value."""
NO_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, True, "3", [3], 10**400, 1j]
NUMERIC = [
    (config, field.name, kind)
    for config in CONFIGS
    for field in fields(config)
    for kind in (int, float)
    if kind is field.type or kind in get_args(field.type)
    if field.name not in ("mean", "std")
]


@pytest.mark.parametrize(
    ("config", "name", "kind"), NUMERIC, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_numeric_field_refuses_other_values(config: type, name: str, kind: type) -> None:
    for value in NO_NUMBERS + ([2.5, 256.0, 1e30, 10**30] if kind is int else []):
        with pytest.raises(
            ValueError, match=rf"^{name} must be a (whole number of 64 bits|finite number)( or None)?, got "
        ):
            config(**CONFIGS[config] | {name: value})


@pytest.mark.parametrize(
    ("config", "name", "value", "limit"),
    [
        (FFTNetConfig, "d_model", 10**12, "at most 1048576"),
        (FFTNetConfig, "num_layers", 10**9, "at most 4096"),
        (FFTNetConfig, "vocab_size", 10**12, "at most 16777216"),
        (FFTNetConfig, "ffn_dim", 10**12, "at most 16777216 or left out"),
        (FFTNetConfig, "max_seq_length", 10**12, "at most 1073741824"),
        (ViTConfig, "image_size", 10**12, "at most 8192"),
        (ViTConfig, "num_classes", 10**12, "at most 1048576"),
        (AddressedSpectralConfig, "num_bins", 10**12, "at most 1048576"),
        (AddressedSpectralConfig, "context_horizon", 10**18, "at most 9007199254740992"),
        (AddressedSpectralConfig, "longest_scale", 1e30, "at most 9007199254740992"),
        (AddressedSpectralConfig, "longest_scale", 1.0, "at least 2"),
        (DeltaSpectralConfig, "conv_size", 1, "at least 2"),
        (OptimConfig, "weight_decay", -0.1, "0 or more"),
        (OptimConfig, "gradient_clip", 0.0, "above 0"),
        (ExportConfig, "block_length", 10**12, "at most 1048576"),
        (ExportConfig, "encoder_length", 0, "at least 1 or left out"),
        (ImageProcessor, "size", 10**9, "at most 8192"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_limit(
    config: type, name: str, value: float, limit: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} must be {limit}, got {value}")):
        config(**CONFIGS[config] | {name: value})


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (FFTNetConfig, {"mixer_configs": [1]}, r"mixer_configs must be a dictionary, got \[1\]$"),
        (FFTNetConfig, {"causal": 1}, r"causal must be True or False, got 1$"),
        (FFTNetConfig, {"causal": "yes"}, r"causal must be True or False, got 'yes'$"),
        (ViTConfig, {"pooling": None}, r"pooling must be a string, got None$"),
        (SaveConfig, {"output_dir": 3}, r"output_dir must be a string, got 3$"),
        (ImageProcessor, {"mean": (0.5, math.nan)}, r"mean must be a list of numbers, got"),
        (SamplingConfig, {"seed": "x" * 1000}, r"seed must be a whole number of 64 bits, got 'x{79}\.\.\.$"),
    ],
)
def test_other_fields_refuse_other_types(config: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**CONFIGS[config] | values)


@pytest.mark.parametrize("name", LISTS)
def test_a_string_for_a_list_is_one_item(name: str) -> None:
    read_back, value = LISTS[name]
    assert list(read_back(value)) == [value]
    assert read_back([value]) == read_back(value)
    for wrong in (5, {value: 1}, [5]):
        with pytest.raises(ValueError, match=f"{name} must be a string or a list of strings, got "):
            read_back(wrong)


def test_numbers_of_numpy_become_python_numbers() -> None:
    config = FFTNetConfig(vocab_size=np.int64(11), d_model=np.int32(8), dropout=np.float32(0.5))  # pyright: ignore
    assert [type(value) for value in (config.vocab_size, config.d_model, config.dropout)] == [int, int, float]
    assert config == FFTNetConfig(vocab_size=11, d_model=8, dropout=0.5)


def test_an_integer_passes_for_a_float_a_list_for_a_tuple_and_anything_for_any() -> None:
    @dataclass(frozen=True)
    class Config:
        rate: float = 1
        names: tuple[str, ...] = ()
        extra: Any = None
        limit: int | None = None

    for config in (Config(), Config(names=["a"], extra=object()), Config(rate=2**62, limit=-3)):  # pyright: ignore
        check_fields(config)
        assert isinstance(config.names, tuple)
    check_range(Config(), 0, 1, "limit", "rate")


def config_classes() -> list[type]:
    """Return every class of the package whose name ends in ``Config``, and the data of fftnet evaluate."""
    package = Path(fftnet.__file__).parent
    found = []
    # The classes in hf/ inherit fields of Transformers.
    for path in sorted({*package.rglob("*.py")} - {*package.glob("hf/*")}):
        definitions = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.name for node in definitions if isinstance(node, ast.ClassDef)]
        if names := [name for name in names if name.endswith("Config") or name == "MeasuredData"]:
            module = import_module(".".join(path.relative_to(package.parent).with_suffix("").parts))
            found += [getattr(module, name) for name in names]
    return found


def test_help_shows_every_field_with_its_docstring() -> None:
    classes = config_classes()
    assert {*PARTS.values(), *CONFIGS} - {ImageProcessor} <= {*classes}
    for config in classes:
        shown = " ".join(pydoc.plain(pydoc.render_doc(config)).replace("|", " ").split())
        for field in fields(config):
            docstring = " ".join(field_docstrings(config)[field.name].replace("|", " ").split())
            assert f" {field.name}: {docstring}" in shown, (config, field)


def test_help_without_a_source_shows_the_docstring_of_the_class() -> None:
    definition = "class Made:\n    'A class.'\n    size: int = 1\n    'Width.'"
    names: dict[str, Any] = {"__name__": "typed_in"}
    exec(definition, names)
    assert documented(dataclass(names["Made"])).__doc__ == "A class."
