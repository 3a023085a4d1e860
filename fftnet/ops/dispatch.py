"""Which backend an operator runs on: one rule for all operators.

A backend is a module of that name in the operator's folder:

* ``torch``: plain PyTorch, on any device and of any size; what others fall back to;
* ``numba``: kernels for the CPU;
* ``triton``: kernels for GPUs with CUDA;
* ``reference``: direct sums in float64, slow and obvious, for comparing with;
* ``export``: operations that other runtimes know too, without complex numbers, for exported programs; where
  an operator has no such module, its ``torch`` does it.

``auto`` takes the fastest for the device of the tensors, and ``export`` while ``torch.export`` or
``torch.onnx.export`` traces and within the transforms of ``torch.func``. The environment variable
``FFTNET_BACKEND``, which is read when this file is imported, names another for the whole process,
``use_backend`` for a block of code, and the argument ``backend`` of an operator for one call. An operator
that lacks the one that is named, or can't use it for the tensors at hand, takes ``torch``.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fftnet.errors import UserError
from fftnet.ops.checks import Signature

VARIABLE = "FFTNET_BACKEND"
MOST_REMEMBERED = 1000
"""Calls of one operator whose backend is remembered, by their sizes; then all are forgotten."""
NUMBA_OFF = "NUMBA_DISABLE_JIT"
AUTO = "auto"
TORCH = "torch"
EXPORT = "export"
BACKENDS = [TORCH, "numba", "triton", "reference", EXPORT]
"""Names that may be asked for; a backend that an operator has beside these adds its own."""
MODULES = {TORCH: "eager", "numba": "cpu", "triton": "gpu"}
"""Backend to the name of its modules, if they differ."""
FASTEST = {"cpu": "numba", "cuda": "triton"}
"""Kind of device to its fastest backend."""
PROBES = {"numba": ("numba", "fftnet.ops.cpu.vector"), "triton": ("triton",)}
"""Backend to the modules whose import shows that the package behind it is here, and that it works."""

FIRST_ORDER = (
    "{} on the backend {!r} has first derivatives in reverse mode only; for second derivatives, forward mode "
    f"and torch.func, set {VARIABLE}={EXPORT} or call the model within fftnet.ops.use_backend({EXPORT!r})"
)

_log = logging.getLogger("fftnet")
_named = os.environ.get(VARIABLE) or AUTO
_failures: dict[str, Exception | None] = {}
_told: set[str] = set()


class BackendError(UserError, ValueError):
    """A backend is unknown or can't run here; the message names those that can."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run all operators on the backend ``name`` within the block, in every thread of the process.

    It goes before the environment variable ``FFTNET_BACKEND``, and the innermost block before others. What
    ``torch.compile`` has compiled is compiled anew; an exported program keeps the backend it has.

    Args:
        name: ``auto``, ``torch``, ``numba``, ``triton``, ``reference`` or ``export``.

    Raises:
        ValueError: if there is no such backend, or it can't run here.
    """
    global _named
    _require(name)
    before = _named
    _named = name
    try:
        yield
    finally:
        _named = before


def is_available(backend: str) -> bool:
    """Whether the package behind a backend can be imported, and a device for it is here."""
    return _obstacle(backend) is None


class Backends:
    """The backends of one operator, which is a package with a module for each.

    Args:
        package: the operator's.
        **takes: backend to a function of the operator's tensors that says whether it can take them. Every
            operator has ``torch``, which takes all, and need not list it.
    """

    def __init__(self, package: str, **takes: Callable[..., bool]) -> None:
        self._package = package
        self._takes = {TORCH: anything} | takes
        self._modules: dict[str, ModuleType] = {}
        self._selected: dict[tuple[Any, ...], str] = {}
        BACKENDS.extend(name for name in takes if name not in BACKENDS)

    def available(self) -> list[str]:
        """Those that can run here."""
        return [name for name in self._takes if is_available(name)]

    def select(self, signature: Signature, backend: str | None, *tensors: Tensor | None) -> str:
        """Check the tensors of a call, and find the backend that it runs on.

        Args:
            signature: what the tensors must be.
            backend: the name that was asked for in the call; None for the one that is set around it.
            tensors: the operator's, the first of them on the device that counts.

        Raises:
            ValueError: if a tensor does not fit, there is no such backend, or it can't run here.
        """
        name = backend or _named
        if torch.compiler.is_compiling():
            signature.check(*tensors)
            return self.choose(name, *tensors)
        if _is_transformed():
            signature.check(*tensors)
            return self._transformable(name, *tensors)
        # Most calls are like one before: a decode step feels every microsecond.
        sizes = [None if x is None else (x.shape, x.dtype, x.device) for x in tensors]
        key = (name, signature, torch.is_grad_enabled(), *sizes)
        try:
            return self._selected[key]
        except (KeyError, TypeError):
            pass  # New sizes; or sizes that are symbols, which have no hash.
        signature.check(*tensors)
        selected = self.choose(name, *tensors)
        with suppress(TypeError):
            if len(self._selected) >= MOST_REMEMBERED:
                self._selected.clear()
            self._selected[key] = selected
        return selected

    def choose(self, name: str, *tensors: Tensor | None) -> str:
        """The backend that ``name`` stands for with these tensors, which have been checked.

        Raises:
            ValueError: if there is no such backend, or it can't run here.
        """
        if name == AUTO and torch.compiler.is_exporting():
            name = EXPORT
        if name == AUTO:
            device = tensors[0].device.type  # pyright: ignore[reportOptionalMemberAccess]
            name = FASTEST.get(device, TORCH)
            if name not in self._takes or not _available_or_told(name, device):
                return TORCH
        else:
            _require(name)
        takes = self._takes.get(name)
        return name if takes is not None and takes(*tensors) else TORCH

    def _transformable(self, name: str, *tensors: Tensor | None) -> str:
        """Return the backend for a call within a transform: a registered operator would drop its tangents."""
        name = self.choose(EXPORT if name == AUTO else name, *tensors)
        if name in FASTEST.values() or hasattr(self.load(name), "forward"):
            raise BackendError(FIRST_ORDER.format(self._package.rpartition(".")[2], name))
        return name

    def load(self, backend: str, *tensors: Tensor) -> ModuleType:
        """The module of a backend, for the registered operator: there is no falling back from it.

        Args:
            backend: one of this operator's.
            tensors: which it must be able to take; none, where ``select`` has chosen it.

        Raises:
            ValueError: if the operator has no such backend, it can't run here, or not for these tensors.
        """
        module = self._modules.get(backend)
        if module is None:
            _require(backend)
            if backend not in self._takes:
                raise ValueError(f"{self._package} has no backend {backend!r}")
            module = importlib.import_module(f"{self._package}.{MODULES.get(backend, backend)}")
            self._modules[backend] = module
        if tensors and not (hasattr(module, "forward") and self._takes[backend](*tensors)):
            name = self._package.rpartition(".")[2]
            raise ValueError(f"the registered {name} can't run on the backend {backend!r} with these tensors")
        return module


def anything(*tensors: Tensor | None) -> bool:
    """For a backend that takes all tensors."""
    return True


def on_cpu(x: Tensor, *others: Tensor | None) -> bool:
    """For a backend that takes all tensors on a CPU."""
    return x.device.type == "cpu"


def on_gpu(x: Tensor, *others: Tensor | None) -> bool:
    """For a Triton backend: tensors on a GPU, or on a CPU if Triton interprets its kernels there."""
    return x.device.type == "cuda" or (x.device.type == "cpu" and _triton_interprets())


def _is_transformed() -> bool:
    """Return if a transform of torch.func or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _require(name: str) -> None:
    if name == AUTO:
        return
    if name not in BACKENDS:
        problem = f"unknown backend {name!r}"
    else:
        obstacle = _obstacle(name)
        if obstacle is None:
            return
        problem = f"the backend {name!r} can't run here: {obstacle}"
    choices = [AUTO, *(other for other in BACKENDS if is_available(other))]
    raise BackendError(f"{problem}; choose from {', '.join(choices)}")


def _triton_interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _constant(function: Callable[..., Any]) -> Any:
    # What torch.compiler.assume_constant_result does, without its import of the whole compiler: the function
    # is called while torch.compile traces, and its result written into the graph.
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


@_constant
def _obstacle(backend: str) -> str | None:
    """Why a backend can't run here; tries the import once."""
    if backend not in PROBES:
        return None
    if backend == "triton" and not (torch.cuda.is_available() or _triton_interprets()):
        return "there is no GPU with CUDA"
    if backend not in _failures:
        try:
            for module in PROBES[backend]:
                importlib.import_module(module)
            _failures[backend] = None
        except Exception as failure:  # A package built for another NumPy fails in more ways than ImportError.
            _failures[backend] = failure
    failure = _failures[backend]
    if failure is None:
        # Switched off, Numba runs kernels as plain Python, which has no vectors.
        off = backend == "numba" and sys.modules["numba"].config.DISABLE_JIT
        return f"numba is switched off by {NUMBA_OFF}" if off else None
    if _is_missing(backend, failure):
        return f"{backend} is not installed"
    return f"{backend} is installed, but its import fails ({type(failure).__name__}: {failure})"


def _is_missing(backend: str, failure: Exception) -> bool:
    return isinstance(failure, ModuleNotFoundError) and failure.name == backend


@_constant
def _available_or_told(backend: str, device: str) -> bool:
    """Return if the fastest backend of a device can run; if not, log once what to do about it."""
    obstacle = _obstacle(backend)
    if obstacle is not None and backend not in _told:
        _told.add(backend)
        failure = _failures.get(backend)
        if failure is None:
            level, cure = logging.WARNING, f"unset {NUMBA_OFF}"
        elif _is_missing(backend, failure):
            level, cure = logging.INFO, f"pip install {backend}"
        else:
            level, cure = logging.WARNING, "install versions that fit each other"
        _log.log(
            level,
            "%s: on %s the operators run as plain PyTorch, which is slower; %s, or set %s=%s to leave it so",
            *(obstacle, device, cure, VARIABLE, TORCH),
        )
    return obstacle is None
