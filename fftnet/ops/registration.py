"""Operators with kernels of their own, registered with PyTorch: the contract of a backend, in one place.

Registered, an operator is a single node to ``torch.compile`` and ``torch.export``, with output shapes and a
gradient. A backend is a module in its folder (``fftnet.ops.dispatch``) of one of two kinds. Both get the
operator's tensors in the order of its ``Signature``, all floating ones in one dtype, then the constants.

* A portable one has a function with the operator's name, which returns the outputs. Autograd differentiates
  it, so it also has second derivatives, forward mode and the transforms of ``torch.func``.
* Any other has two functions on contiguous tensors. ``forward`` returns the outputs, then the residuals:
  intermediate results that only backward needs. ``backward`` takes the ``saved`` tensors, a gradient for each
  output and the constants, and returns the gradients of the floating inputs. No result may share memory with
  an argument.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fftnet.ops.checks import Dimension, Signature, parse
from fftnet.ops.dispatch import FIRST_ORDER, BackendError, Backends
from fftnet.ops.numerics import compute_dtype


class RegisteredOperator:
    """``torch.ops.fftnet.NAME`` with its gradient, and the choice between it and the portable backends.

    Args:
        backends: of the operator.
        signature: its tensors, which are its first arguments. A letter may be derived from ``BLOCK``, the
            constant of this name in the backend's module.
        outputs: output to its shape in letters.
        residuals: likewise, for what ``forward`` returns after the outputs. A dimension that is a product
            (``"B N*F"``) is flattened between ``forward`` and ``backward``.
        saved: the inputs, outputs and residuals that ``backward`` takes; None: all inputs.
        constants: constant to its type in the schema, such as ``"float"``. A letter after the type
            (``"int D"``) means that the constant is the size of that letter.
    """

    def __init__(
        self,
        backends: Backends,
        signature: Signature,
        *,
        outputs: Mapping[str, str],
        residuals: Mapping[str, str] | None = None,
        saved: Sequence[str] | None = None,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        constants = constants or {}
        self._backends = backends
        self._signature = signature
        self._constants = [f"{kind.split()[0]} {name}" for name, kind in constants.items()]
        self._letters = [kind.partition(" ")[2] for kind in constants.values()]
        self.outputs = list(outputs)
        inputs = signature.arguments
        results = {**outputs, **(residuals or {})}
        self.names = [*inputs, *results]
        self.saved = list(inputs) if saved is None else saved
        self._is_floating = [parse(shape)[1] is None for shape in inputs.values()]
        floating = [shape for shape in inputs.values() if parse(shape)[1] is None]
        # The arguments of backward have the shapes of what they stand for, in the same letters.
        adjoint = Signature(
            f"{signature.operator}_backward",
            {name: {**inputs, **results}[name] for name in self.saved}
            | {f"grad_{name}": shape for name, shape in outputs.items()},
            derived=signature.derived,
            rule=signature.rule,
        )
        operator = self._define(signature, list(results.values()), "forward")
        self._adjoint = self._define(adjoint, floating, "backward")
        # The backward operator refuses to be differentiated, with a message that names the way out.
        operator.register_autograd(self._differentiate, setup_context=self._save)
        self._adjoint.register_autograd(self._refuse, setup_context=_save_backend)
        self._operator = getattr(torch.ops.fftnet, signature.operator).default

    def __call__(self, *arguments: Any, backend: str | None) -> Any:
        """Check the tensors, choose a backend and run it in float32, or in float64 for float64 tensors."""
        tensors, constants = self._split(arguments)
        name = self._backends.select(self._signature, backend, *tensors, known=self._known(constants))
        portable = self._backends.portable(name, self._signature.operator)
        if portable is None:
            return self.run(name, *arguments)
        dtype = compute_dtype(tensors[0])
        with _full_precision(tensors[0].device.type):
            return portable(*(x.to(dtype) for x in tensors), *constants)

    def run(self, backend: str, *arguments: Any) -> Any:
        """Run the registered operator on a backend that ``Backends.select`` has chosen."""
        tensors, constants = self._split(arguments)
        # Cast here and not in the kernels, so that autograd casts the gradients back.
        dtype = compute_dtype(tensors[0])
        wide = [(x.to(dtype) if x.is_floating_point() else x).contiguous() for x in tensors]
        found = _as_tuple(self._operator(*wide, *constants, backend))[: len(self.outputs)]
        return found[0] if len(found) == 1 else found

    def _split(self, arguments: Sequence[Any]) -> tuple[Sequence[Tensor], Sequence[Any]]:
        count = len(self._signature)
        return arguments[:count], arguments[count:]

    def _known(self, constants: Sequence[Any]) -> dict[str, int]:
        return {letter: x for letter, x in zip(self._letters, constants, strict=True) if letter}

    def _define(self, signature: Signature, results: Sequence[str], function: str) -> Any:
        """Register an operator that runs ``function`` of a backend's module, with its output shapes."""
        count = len(signature)
        rows = [parse(shape)[0] for shape in signature.arguments.values()]
        products = {n: factors for n, row in enumerate(rows) if len(factors := _factors(row)) > len(row)}
        shapes = [parse(shape)[0] for shape in results]

        def prepare(arguments: Sequence[Any]) -> tuple[Any, dict[Any, int]]:
            # Anyone can call a registered operator, and kernels trust the shapes that they get.
            tensors, rest = arguments[:count], arguments[count:]
            return self._backends.remember((function, *rest), tensors, lambda: check(tensors, *rest))

        def check(tensors: Sequence[Tensor], *rest: Any) -> tuple[Any, dict[Any, int]]:
            *constants, backend = rest
            module = self._backends.load(backend)
            known = self._known(constants)
            if hasattr(module, "BLOCK"):
                known["BLOCK"] = module.BLOCK
            sizes = signature.check(*tensors, one_dtype=True, known=known)
            self._backends.require(backend, sizes, *tensors)
            return module, sizes

        def compute(*arguments: Any) -> Any:
            module, sizes = prepare(arguments)
            tensors = [x.contiguous() for x in arguments[:count]]
            for place, factors in products.items():
                tensors[place] = tensors[place].view([signature.size(x, sizes) for x in factors])
            with _full_precision(tensors[0].device.type):
                found = _as_tuple(getattr(module, function)(*tensors, *arguments[count:-1]))
            # Residuals become flat: torch.compile makes another graph if one of their dimensions is 1, as the
            # number of blocks of a short text is.
            pairs = zip(found, shapes, strict=True)
            made = [(y.flatten(1) if y.ndim > len(shape) else y).contiguous() for y, shape in pairs]
            return made[0] if len(made) == 1 else tuple(made)

        def allocate(*arguments: Any) -> Any:
            _, sizes = prepare(arguments)
            # All floating tensors have one dtype, and so have the results.
            like = next(x for x in arguments if x.is_floating_point())
            empty = [like.new_empty([signature.size(x, sizes) for x in shape]) for shape in shapes]
            return empty[0] if len(empty) == 1 else tuple(empty)

        taken = [*(f"Tensor {name}" for name in signature.arguments), *self._constants, "str backend"]
        schema = f"({', '.join(taken)}) -> ({', '.join(['Tensor'] * len(shapes))})"
        name = f"fftnet::{signature.operator}"
        operator = torch.library.custom_op(name, compute, mutates_args=(), schema=schema)
        operator.register_fake(allocate)
        return operator

    def _save(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        tensors, ctx.constants = self._split(inputs)
        values = dict(zip(self.names, (*tensors, *_as_tuple(output)), strict=True))
        ctx.save_for_backward(*(values[name] for name in self.saved))

    def _differentiate(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = self._adjoint(*ctx.saved_tensors, *grads[: len(self.outputs)], *ctx.constants)
        found = iter(_as_tuple(gradients))
        of_tensors = [next(found) if floating else None for floating in self._is_floating]
        return *of_tensors, *[None] * len(ctx.constants)

    def _refuse(self, ctx: Any, *grads: Tensor) -> None:
        raise BackendError(FIRST_ORDER.format(self._signature.operator, ctx.backend))


def _save_backend(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    ctx.backend = inputs[-1]


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def _factors(row: Sequence[Dimension]) -> list[Dimension]:
    return [x for dimension in row for x in (dimension if isinstance(dimension, tuple) else (dimension,))]


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Context without autocast, which would take the products within an operator in bfloat16."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
