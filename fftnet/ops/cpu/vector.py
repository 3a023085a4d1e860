"""Vectors for Numba: neighbouring channels as one value, held in the processor's registers.

Why not plain loops over channels? In a recurrence they take four times as long. Two arrays may share memory,
as far as the compiler can tell (LLVM calls it aliasing): a write to the output could change the state that
the next token continues from, so it writes every state to memory and reads it back, token by token. A value
of a vector type has no address, so nothing can change it from outside: it stays in registers over the whole
loop. LLVM splits a vector into whatever registers the processor has.

For the kernels, this file adds to Numba a type, ``Vector``, and functions on it. Between vectors, and
between a vector and a scalar, ``+ - * / <=`` work as usual, lane by lane.

Each function below is written in two steps, as Numba asks for it: the outer one gets the types of the
arguments and returns the type of the result, the inner one gets a builder and emits the LLVM instructions for
the values.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from fftnet.ops.cpu.compile import FASTMATH


class Vector(types.Type):
    """Numba type of ``lanes`` channels, each of the Numba type ``element``, held in registers."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """Tells Numba that a Vector is a vector of LLVM, which has one instruction for all lanes."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _intrinsic(function: Callable[..., Any]) -> Any:
    # Typed as Any, because a call leaves out the first argument of the function that types it.
    return intrinsic(function)


def _vectors(context: Any, builder: Any, vector: Vector, kinds: Any, values: Any) -> list[Any]:
    """The values with every scalar repeated in all lanes of a vector."""
    wide = context.get_value_type(vector)
    index = ir.IntType(32)
    everywhere = ir.Constant(ir.VectorType(index, vector.lanes), [0] * vector.lanes)
    result = []
    for kind, value in zip(kinds, values, strict=True):
        if not isinstance(kind, Vector):
            # Into lane 0, and from there (index 0, `lanes` times) into all.
            scalar = context.cast(builder, value, kind, vector.element)
            value = builder.insert_element(ir.Constant(wide, ir.Undefined), scalar, ir.Constant(index, 0))
            value = builder.shuffle_vector(value, value, everywhere)
        result.append(value)
    return result


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call a function that LLVM has for vectors; its full name ends in the type, such as ``v8f32``."""
    wide = values[-1].type
    suffix = f"v{wide.count}{'f32' if isinstance(wide.element, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(result, [value.type for value in values])
    function = builder.module.declare_intrinsic(f"{name}.{suffix}", fnty=kind)
    return builder.call(function, values, fastmath=FASTMATH)


def _address(context: Any, builder: Any, kinds: Any, values: Any, wide: Any) -> Any:
    """The address of the element values[1] numbers after an array's first; nothing checks the bounds."""
    data = context.make_array(kinds[0])(context, builder, values[0]).data
    return builder.bitcast(builder.gep(data, [values[1]]), wide.as_pointer())


def _define(operation: Callable[..., Any], instruction: str) -> None:
    """Make a Python operator work on vectors, by one instruction of LLVM."""

    @_intrinsic
    def combine(context, a, b):  # pyright: ignore
        vector = a if isinstance(a, Vector) else b

        def generate(context, builder, signature, values):  # pyright: ignore
            both = _vectors(context, builder, vector, signature.args, values)
            return getattr(builder, instruction)(*both, flags=FASTMATH)

        return vector(a, b), generate

    @overload(operation)
    def _(a, b):  # pyright: ignore
        if isinstance(a, Vector) or isinstance(b, Vector):
            return lambda a, b: combine(a, b)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@_intrinsic
def _at_most(context, a, b):  # pyright: ignore
    vector = a if isinstance(a, Vector) else b

    def generate(context, builder, signature, values):  # pyright: ignore
        # "Ordered": false where either is NaN.
        return builder.fcmp_ordered("<=", *_vectors(context, builder, vector, signature.args, values))

    return Vector(types.boolean, vector.lanes)(a, b), generate


@overload(operator.le)
def _(a, b):  # pyright: ignore
    if isinstance(a, Vector) or isinstance(b, Vector):
        return lambda a, b: _at_most(a, b)


@_intrinsic
def where(context, mask, yes, no):  # pyright: ignore
    """Lane by lane ``yes if mask else no``; of ``a <= b``, hence ``no`` where either is NaN."""
    vector = yes if isinstance(yes, Vector) else no

    def generate(context, builder, signature, values):  # pyright: ignore
        mask, *both = values
        return builder.select(mask, *_vectors(context, builder, vector, signature.args[1:], both))

    return vector(mask, yes, no), generate


@_intrinsic
def sqrt(context, x):  # pyright: ignore
    """The square root of every lane."""

    def generate(context, builder, signature, values):  # pyright: ignore
        return _call(builder, "llvm.sqrt", values[0].type, *values)

    return x(x), generate


@_intrinsic
def sum_lanes(context, x):  # pyright: ignore
    """The sum of all lanes, a scalar."""

    def generate(context, builder, signature, values):  # pyright: ignore
        element = values[0].type.element
        return _call(builder, "llvm.vector.reduce.fadd", element, ir.Constant(element, 0.0), *values)

    return x.element(x), generate


@_intrinsic
def load(context, array, offset, lanes):  # pyright: ignore
    """``len(lanes)`` neighbouring numbers of a contiguous array, beginning ``offset`` after its first."""
    if array.layout != "C":
        return None  # Numba then says that there is no such function: offsets count contiguous numbers.
    vector = Vector(array.dtype, lanes.count)

    def generate(context, builder, signature, values):  # pyright: ignore
        wide = context.get_value_type(vector)
        address = _address(context, builder, signature.args, values, wide)
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return vector(array, offset, lanes), generate


@_intrinsic
def store(context, array, offset, value):  # pyright: ignore
    """Write the lanes of ``value`` to a contiguous array, beginning ``offset`` after its first."""
    if array.layout != "C":
        return None

    def generate(context, builder, signature, values):  # pyright: ignore
        address = _address(context, builder, signature.args, values, values[2].type)
        builder.store(values[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, offset, value), generate
