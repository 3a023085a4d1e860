"""FFTNet: token mixing by an adaptive spectral filter instead of self-attention.

Names are imported when they are first used, so that ``import fftnet`` is fast. It sets one environment
variable, the wait policy of PyTorch's threads, if PyTorch is not loaded yet.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fftnet.wait_policy import set_wait_policy

if TYPE_CHECKING:
    # `as` marks the names as public for type checkers.
    from fftnet.api.evaluate import EvaluationConfig as EvaluationConfig
    from fftnet.api.evaluate import evaluate as evaluate
    from fftnet.api.generate import generate as generate
    from fftnet.api.load import load as load
    from fftnet.api.predict import load_classifier as load_classifier
    from fftnet.api.run_config import RunConfig as RunConfig
    from fftnet.api.run_config import TaskConfig as TaskConfig
    from fftnet.api.sampling import SamplingConfig as SamplingConfig
    from fftnet.api.start import StartConfig as StartConfig
    from fftnet.api.train import train as train
    from fftnet.model.config import BackboneConfig as BackboneConfig
    from fftnet.model.config import FFTNetConfig as FFTNetConfig
    from fftnet.model.fftnet_layer import FFTNetLayer as FFTNetLayer
    from fftnet.model.fftnet_model import FFTNet as FFTNet
    from fftnet.model.mixers.addressed_spectral import AddressedSpectralMixer as AddressedSpectralMixer
    from fftnet.model.mixers.spectral import SpectralMixer as SpectralMixer
    from fftnet.testing import assert_causal as assert_causal
    from fftnet.training.accelerator import AcceleratorConfig as AcceleratorConfig
    from fftnet.training.config import BudgetConfig as BudgetConfig
    from fftnet.training.config import TrainConfig as TrainConfig
    from fftnet.training.optim import OptimConfig as OptimConfig
    from fftnet.training.run_folder import SaveConfig as SaveConfig
    from fftnet.utils.dataset import DataConfig as DataConfig
    from fftnet.utils.tokenizer import load_tokenizer as load_tokenizer

_HOMES = {
    "AcceleratorConfig": "fftnet.training.accelerator",
    "AddressedSpectralMixer": "fftnet.model.mixers.addressed_spectral",
    "BackboneConfig": "fftnet.model.config",
    "BudgetConfig": "fftnet.training.config",
    "DataConfig": "fftnet.utils.dataset",
    "EvaluationConfig": "fftnet.api.evaluate",
    "FFTNet": "fftnet.model.fftnet_model",
    "FFTNetConfig": "fftnet.model.config",
    "FFTNetLayer": "fftnet.model.fftnet_layer",
    "OptimConfig": "fftnet.training.optim",
    "RunConfig": "fftnet.api.run_config",
    "SamplingConfig": "fftnet.api.sampling",
    "SaveConfig": "fftnet.training.run_folder",
    "SpectralMixer": "fftnet.model.mixers.spectral",
    "StartConfig": "fftnet.api.start",
    "TaskConfig": "fftnet.api.run_config",
    "TrainConfig": "fftnet.training.config",
    "assert_causal": "fftnet.testing",
    "evaluate": "fftnet.api.evaluate",
    "generate": "fftnet.api.generate",
    "load": "fftnet.api.load",
    "load_classifier": "fftnet.api.predict",
    "load_tokenizer": "fftnet.utils.tokenizer",
    "train": "fftnet.api.train",
}
"""Public name to the module that defines it."""
__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]

set_wait_policy()

try:
    __version__ = version("fftnet")
except PackageNotFoundError:
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fftnet' has no attribute {name!r}")
    # The next access finds the name in the module, without this function.
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
