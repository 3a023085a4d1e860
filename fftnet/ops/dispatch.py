"""The backends of the operators, and the rule that chooses one of them.

A backend is a module in the operator's folder; ``fftnet.ops.registration`` has the contract of its functions:

* ``torch`` (``eager.py``): plain PyTorch, on any device and of any size; the fallback of all others;
* ``numba`` (``cpu.py``): kernels for the CPU;
* ``triton`` (``gpu.py``): kernels for GPUs with CUDA;
* ``reference``: direct sums in float64, slow and obvious, as ground truth;
* ``export``: operations that other runtimes know too, without complex numbers, for exported programs.

``auto`` is the fastest for the device of the tensors, and ``export`` while ``torch.export`` or
``torch.onnx.export`` traces and within the transforms of ``torch.func``. The environment variable
``FFTNET_BACKEND``, read at import, sets a backend for the process, ``use_backend`` for a block of code, and
the argument ``backend`` for one call. An operator that lacks it or can't use it here runs on ``torch``.
"""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fftnet.errors import UserError
from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.cpu import VECTOR_WIDTH

VARIABLE = "FFTNET_BACKEND"
MAX_REMEMBERED = 1000  # Calls of different sizes that an operator remembers before it forgets all.
NUMBA_OFF = "NUMBA_DISABLE_JIT"
AUTO = "auto"
TORCH = "torch"
REFERENCE = "reference"
EXPORT = "export"
BACKENDS = [TORCH, "numba", "triton", REFERENCE, EXPORT]
"""Names of backends; an operator with another one adds its name."""
PORTABLE = (TORCH, REFERENCE, EXPORT)  # Backends whose modules import no package but PyTorch.
MODULES = {TORCH: "eager", "numba": "cpu", "triton": "gpu"}
"""Backend to the name of its modules, if they differ."""
FASTEST = {"cpu": "numba", "cuda": "triton"}  # Kind of device to its fastest backend.
PROBES = {"numba": ("numba", "fftnet.ops.cpu.vector"), "triton": ("triton",)}
"""Backend to the modules whose import shows that the package behind it is installed and works."""

FIRST_ORDER = (
    "{} on the backend {!r} has first derivatives in reverse mode only; for second derivatives, forward mode "
    f"and torch.func, set {VARIABLE}={EXPORT} or call the model within fftnet.ops.use_backend({EXPORT!r})"
)

_log = logging.getLogger("fftnet")
_named = os.environ.get(VARIABLE) or AUTO
_failures: dict[str, Exception | None] = {}
_told: set[str] = set()
_defined: dict[tuple[str, str, str], bool] = {}


class BackendError(UserError, ValueError):
    """A backend is unknown or can't run here; the message names the available ones."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run all operators on the backend ``name`` within the block, in every thread of the process.

    It overrides the environment variable ``FFTNET_BACKEND``, and the innermost block counts. Code compiled by
    ``torch.compile`` is compiled again; an exported program keeps its backend.

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


class Backends:
    """The backends of one operator, which is a package with a module for each.

    Args:
        package: the operator's.
        **takes: backend to a function that tells if it can run a call, from the sizes of all letters and the
            tensors. Every operator has ``torch``, which takes all and is not listed.
    """

    def __init__(self, package: str, **takes: Callable[..., bool]) -> None:
        self._package = package
        self._takes = {TORCH: anything} | takes
        self._remembered: dict[tuple[Any, ...], Any] = {}
        BACKENDS.extend(name for name in takes if name not in BACKENDS)
        # These modules are imported now, since torch.compile can't trace an import.
        self._modules = {name: _import(package, name) for name in self._takes if name in PORTABLE}

    def available(self) -> list[str]:
        """Return the names of the backends that can run here."""
        return [name for name in self._takes if _obstacle(name) is None]

    def select(
        self, signature: Signature, backend: str | None, *tensors: Tensor | None, known: Sizes | None = None
    ) -> str:
        """Check the tensors of a call and return its backend; ``known`` are sizes given apart from them."""
        name = backend or _named
        if torch.compiler.is_compiling():
            return self.choose(name, signature.check(*tensors, known=known), *tensors)
        if _is_transformed():
            return self._transformable(name, signature.check(*tensors, known=known), *tensors)
        return self.remember(
            (name, signature, torch.is_grad_enabled(), *(known or {}).values()),
            tensors,
            lambda: self.choose(name, signature.check(*tensors, known=known), *tensors),
        )

    def remember(
        self, key: tuple[Any, ...], tensors: Sequence[Tensor | None], find: Callable[[], Any]
    ) -> Any:
        """Return ``find()``, remembered for the key and the sizes, dtypes and devices of the tensors."""
        # Tensors like earlier ones are not compared with a signature again: a decode step is that short.
        key = (*key, *[None if x is None else (x.shape, x.dtype, x.device) for x in tensors])
        try:
            return self._remembered[key]
        except (KeyError, TypeError):
            pass  # New sizes; or sizes that are symbols, which have no hash.
        found = find()
        with suppress(TypeError):
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def choose(self, name: str, sizes: Sizes, *tensors: Tensor | None) -> str:
        """Return the backend that ``name`` stands for with these tensors, which have been checked."""
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
        return name if takes is not None and takes(sizes, *tensors) else TORCH

    def _transformable(self, name: str, sizes: Sizes, *tensors: Tensor | None) -> str:
        """Return the backend for a call within a transform: a registered operator would drop its tangents."""
        name = self.choose(EXPORT if name == AUTO else name, sizes, *tensors)
        if name in FASTEST.values() or hasattr(self.load(name), "forward"):
            raise BackendError(FIRST_ORDER.format(self._package.rpartition(".")[2], name))
        return name

    def load(self, backend: str) -> ModuleType:
        """Return the module of a backend, or raise ValueError if it is missing or can't run here."""
        module = self._modules.get(backend)
        if module is None:
            _require(backend)
            if backend not in self._takes:
                raise ValueError(f"{self._package} has no backend {backend!r}")
            module = self._modules[backend] = _import(self._package, backend)
        return module

    def portable(self, backend: str, function: str) -> Callable[..., Any] | None:
        """Return the function of this name in a backend's module; None if the backend is registered."""
        if backend not in PORTABLE and not _defines(self._package, backend, function):
            return None
        return getattr(self.load(backend), function, None)

    def require(self, backend: str, sizes: Sizes, *tensors: Tensor) -> None:
        """Refuse tensors that a registered backend can't take: the registered operator has no fallback."""
        if not (hasattr(self.load(backend), "forward") and self._takes[backend](sizes, *tensors)):
            name = self._package.rpartition(".")[2]
            raise ValueError(f"the registered {name} can't run on the backend {backend!r} with these tensors")


def anything(sizes: Sizes, *tensors: Tensor | None) -> bool:
    """Accept all tensors, for ``Backends``."""
    return True


def on_cpu(sizes: Sizes, x: Tensor, *others: Tensor | None) -> bool:
    """Accept all tensors on a CPU, for ``Backends``."""
    return x.device.type == "cpu"


def on_gpu(sizes: Sizes, x: Tensor, *others: Tensor | None) -> bool:
    """Accept tensors on a GPU, or on a CPU if Triton interprets its kernels there, for ``Backends``."""
    return x.device.type == "cuda" or (x.device.type == "cpu" and _triton_interprets())


def whole_vectors(*letters: str) -> Callable[..., bool]:
    """Accept tensors on a CPU whose ``letters`` are multiples of a vector's width, for ``Backends``."""

    def takes(sizes: Sizes, x: Tensor, *others: Tensor | None) -> bool:
        return x.device.type == "cpu" and all(sizes[letter] % VECTOR_WIDTH == 0 for letter in letters)

    return takes


def _is_transformed() -> bool:
    """Return if a transform of torch.func or forward-mode differentiation is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _import(package: str, backend: str) -> ModuleType:
    return importlib.import_module(f"{package}.{MODULES.get(backend, backend)}")


def _require(name: str) -> None:
    """Refuse a backend that is unknown or can't run here."""
    obstacle = _obstacle(name)
    if name == AUTO or (name in BACKENDS and obstacle is None):
        return
    problem = f"the backend {name!r} can't run here: {obstacle}" if obstacle else f"unknown backend {name!r}"
    choices = [AUTO, *(other for other in BACKENDS if _obstacle(other) is None)]
    raise BackendError(f"{problem}; choose from {', '.join(choices)}")


def _triton_interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _constant(function: Callable[..., Any]) -> Any:
    # torch.compiler.assume_constant_result without its import of the whole compiler: the function is called
    # while torch.compile traces, and its result is written into the graph.
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


@_constant
def _defines(package: str, backend: str, function: str) -> bool:
    """Return if the module of a backend has a function of this name, also while torch.compile traces."""
    key = (package, backend, function)
    if key not in _defined:
        _defined[key] = hasattr(_import(package, backend), function)
    return _defined[key]


@_constant
def _obstacle(backend: str) -> str | None:
    """Return why a backend can't run here, or None."""
    found = _diagnose(backend)
    return None if found is None else found[0]


def _diagnose(backend: str) -> tuple[str, str] | None:
    """Return why a backend can't run here and how to fix that, or None; tries the import once."""
    if backend not in PROBES:
        return None
    if backend == "triton" and not (torch.cuda.is_available() or _triton_interprets()):
        return "there is no GPU with CUDA", "use a GPU"
    if backend not in _failures:
        try:
            for module in PROBES[backend]:
                importlib.import_module(module)
            _failures[backend] = None
        except Exception as failure:  # A package built for another NumPy fails in more ways than ImportError.
            _failures[backend] = failure
    failure = _failures[backend]
    if failure is None:
        # With its compiler disabled, Numba runs kernels as plain Python, which has no vectors.
        off = backend == "numba" and sys.modules["numba"].config.DISABLE_JIT
        return (f"numba is switched off by {NUMBA_OFF}", f"unset {NUMBA_OFF}") if off else None
    if isinstance(failure, ModuleNotFoundError) and failure.name == backend:
        return f"{backend} is not installed", f"pip install {backend}"
    problem = f"{backend} is installed, but its import fails ({type(failure).__name__}: {failure})"
    return problem, "install versions that fit each other"


@_constant
def _available_or_told(backend: str, device: str) -> bool:
    """Return if the fastest backend of a device can run; if not, log once how to fix that."""
    found = _diagnose(backend)
    if found is not None and backend not in _told:
        _told.add(backend)
        # A package that is not installed may be left out on purpose; all else is a mistake.
        _log.log(
            logging.INFO if found[1].startswith("pip install") else logging.WARNING,
            "%s: on %s the operators run as plain PyTorch, which is slower; %s, or set %s=%s to leave it so",
            *(found[0], device, found[1], VARIABLE, TORCH),
        )
    return found is None
