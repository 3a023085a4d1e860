"""Every operator with every kind of wrong tensor, on memory that reports each access past its end.

Each array that a kernel gets is copied to the end of a page of memory, and the page behind it must not be
touched: the first number read or written past the end of an array ends the process (SIGSEGV).

Run as a program with the name of a backend, it calls all operators, each in another process, with and
without the checks, and prints the results as JSON.
"""

import ctypes
import functools
import importlib
import json
import mmap
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from operators import ADDRESSES, OPERATORS, SAME_CHECKS, Operator, registered_backends
from torch import Tensor

from fftnet.ops.checks import Signature

FREE = {
    ("prefix_context", "x", 1),
    ("short_conv", "x", 1),
    ("spectral_mix", "x", 1),
    ("rms_norm", "x", 0),
    ("rms_norm", "x", 1),
    ("prefix_context_backward", "grad_context", 1),
    ("spectral_mix_backward", "grad_mixed", 1),
}
"""Operator, argument and dimension that no other tensor fixes, so that another size may be right."""

_pages: list[mmap.mmap] = []


def guarded(array: np.ndarray) -> np.ndarray:
    """Return a copy that ends where a page ends; the next page must not be touched."""
    page = mmap.PAGESIZE
    room = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, room + page)
    _pages.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + room), ctypes.c_size_t(page), 0) != 0:
        raise OSError("mprotect failed")
    copy = np.ndarray(array.shape, array.dtype, buffer=memory, offset=room - array.nbytes)
    copy[...] = array
    return copy


def call_guarded(function: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Call a function with guarded copies of all tensors, also in tuples, and copy back their numbers."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def copy(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(copy, x))
        if isinstance(x, Tensor):
            pairs.append((x, torch.from_numpy(guarded(x.numpy()))))
            return pairs[-1][1]
        return x

    function(*map(copy, arguments), **options)
    for original, changed in pairs:
        original.copy_(changed)


def guard_numba() -> None:
    """Guard the tensors of all kernels that run on threads."""
    from fftnet.ops.cpu.threads import Threads

    run = Threads.run

    def guarded_run(self: Threads, kernel: Any, items: int, work: int, *arguments: Any) -> None:
        call_guarded(functools.partial(run, self, kernel, items, work), *arguments)

    Threads.run = guarded_run


class GuardedKernel:
    """A Triton kernel, interpreted on the CPU, whose tensors are guarded."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(call_guarded, self.kernel[grid])


def guard_triton() -> None:
    """Guard the tensors of all kernels that are launched."""
    from fftnet.ops.gpu import scan
    from fftnet.ops.keyed_mix import triton_kernels

    scan._carry = GuardedKernel(scan._carry)
    for name in ("_ends", "_read", "_match"):
        setattr(triton_kernels, name, GuardedKernel(getattr(triton_kernels, name)))


GUARDS = {"numba": guard_numba, "triton": guard_triton}
SMALL = {"length": 5, "heads": 2, "bins": 2, "taps": 3}


def entries(operator: Operator, backend: str) -> Iterator[tuple[str, Callable[..., Any], dict[str, Tensor]]]:
    """Yield name, function and inputs of an operator, and of its registered forward and backward."""
    # The kernels of addresses take whole vectors of bins.
    inputs = operator.make(**SMALL | ({"bins": 8} if operator is ADDRESSES else {}))
    yield operator.name, lambda *x: operator.call(*x, backend=backend), inputs
    if backend not in registered_backends(operator):
        return
    constants = (*(operator.constants or ()), backend)
    forward = getattr(torch.ops.fftnet, operator.name)
    yield f"torch.ops.{operator.name}", lambda *x: forward(*x, *constants), inputs
    outputs = forward(*inputs.values(), *constants)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    registered = importlib.import_module(f"fftnet.ops.{operator.name}")._operator
    named = dict(zip(registered.names, (*inputs.values(), *outputs), strict=True))
    # The tensors that autograd saves, with outputs instead of their gradients.
    saved = {name: named[name] for name in registered.saved}
    saved |= {f"grad_{name}": named[name].clone() for name in registered.outputs}
    backward = getattr(torch.ops.fftnet, f"{operator.name}_backward")
    yield f"{operator.name}_backward", lambda *x: backward(*x, *constants), saved


def wrong(x: Tensor, strict: bool) -> Iterator[tuple[str, int | None, Tensor]]:
    """Yield tensors that are wrong in one way, each with a description and the dimension that changed.

    With ``strict``, another floating dtype is wrong, too.
    """
    for dim, size in enumerate(x.shape):
        yield f"dimension {dim} too small", dim, x.narrow(dim, 0, size - 1).contiguous()
        yield f"dimension {dim} too large", dim, torch.cat([x, x.narrow(dim, 0, 1)], dim=dim)
        yield f"dimension {dim} missing", None, x.select(dim, 0).contiguous()
    yield "a dimension too many", None, x[None]
    yield "on another device", None, x.to("meta")
    if x.is_floating_point():
        yield "an integer", None, x.long()
        yield "complex", None, x.to(torch.complex128)
        if strict:
            yield "another floating dtype", None, x.float()
    else:
        yield "another integer", None, x.to(torch.int32)
        yield "floating", None, x.double()


def walk(operator: Operator, backend: str) -> list[str]:
    """Call the operator with each argument wrong in each way; list calls without a clear ValueError."""
    problems = []
    for name, call, inputs in entries(operator, backend):
        for argument, right in inputs.items():
            for words, dim, bad in wrong(right, strict=name != operator.name):
                tensors = inputs | {argument: bad}
                outcome = _outcome(call, tensors)
                free = (name.removeprefix("torch.ops."), argument, dim) in FREE
                if free and not isinstance(outcome, str):
                    if name == operator.name:
                        expected = operator.call(*tensors.values(), backend="reference")
                        torch.testing.assert_close(outcome, expected, rtol=1e-9, atol=1e-9)
                    continue
                if outcome != "refused":
                    told = outcome if isinstance(outcome, str) else "accepted"
                    problems.append(f"{name}: {argument}, {words}: {told}")
        problems += _compare_strided(name, call, inputs)
    return problems


def _outcome(call: Callable[..., Any], tensors: dict[str, Tensor]) -> Any:
    try:
        return call(*tensors.values())
    except ValueError as refusal:
        return "refused" if ":" in str(refusal) or "needs" in str(refusal) else f"unclear: {refusal}"
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"


def _compare_strided(name: str, call: Callable[..., Any], inputs: dict[str, Tensor]) -> list[str]:
    """Return a problem unless tensors that are not contiguous give the right result."""
    strided = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in inputs.values()]
    try:
        torch.testing.assert_close(call(*strided), call(*inputs.values()), rtol=1e-9, atol=1e-9)
    except Exception as difference:
        return [f"{name}, not contiguous: {difference}"]
    return []


def unchecked(self: Signature, *tensors: Tensor | None, one_dtype: bool = False, known: Any = None) -> Any:
    """Bind the letters of a signature without comparing anything; a replacement of ``Signature.check``."""
    sizes: dict[Any, int] = dict(known or {})
    for (_, letters, *_), x in zip(self._rows, tensors, strict=True):
        sizes |= dict(zip(letters, () if x is None else x.shape, strict=False)) | sizes
    return sizes | {letter: self.size(letter, sizes) for letter in self.derived}


def walk_unchecked(operator: Operator, backend: str) -> list[str]:
    """Walk without the checks, in a process that ends afterwards."""
    Signature.check = unchecked
    return walk(operator, backend)


def in_child(function: Callable[..., list[str]], *arguments: Any) -> dict[str, Any]:
    """Return the exit status of another process that calls the function, and the problems it found."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(function(*arguments)))
    child.start()
    writer.close()
    try:
        problems = reader.recv()
    except EOFError:
        problems = []
    child.join()
    return {"exit": child.exitcode, "problems": problems}


def main(backend: str) -> None:
    """Walk through all operators that have the backend and print a JSON object."""
    torch.set_grad_enabled(False)
    GUARDS[backend]()
    report = {}
    for operator in OPERATORS:
        if backend not in operator.backends.available() or operator in SAME_CHECKS:
            continue
        # Kernels are compiled here, before the processes for the walks are made.
        for _, call, inputs in entries(operator, backend):
            call(*inputs.values())
        report[operator.name] = {
            "checked": in_child(walk, operator, backend),
            "unchecked": in_child(walk_unchecked, operator, backend),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
