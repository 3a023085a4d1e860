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

_BYTES = {ir.FloatType: 4, ir.DoubleType: 8}
"""LLVM type to its size. Vectors are read and written wherever a number may lie."""


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


def intrinsic_of(function: Callable[..., Any]) -> Any:
    """Numba's ``intrinsic``: the function types a call and generates its instructions."""
    # Typed as Any, because a call leaves out the first argument of the function that types it.
    return intrinsic(function)


def _vectors(context: Any, builder: Any, vector: Vector, kinds: Any, values: Any) -> list[Any]:
    """The values with every scalar repeated in all lanes of a vector."""
    wide = context.get_value_type(vector)
    result = []
    for kind, value in zip(kinds, values, strict=True):
        if not isinstance(kind, Vector):
            value = in_all_lanes(builder, context.cast(builder, value, kind, vector.element), wide)
        result.append(value)
    return result


def in_all_lanes(builder: Any, scalar: Any, wide: Any) -> Any:
    """A vector of the LLVM type ``wide`` with the same number in all lanes."""
    index = ir.IntType(32)
    # Into lane 0, and from there (index 0, once for each lane) into all.
    vector = builder.insert_element(ir.Constant(wide, ir.Undefined), scalar, ir.Constant(index, 0))
    return builder.shuffle_vector(
        vector, vector, ir.Constant(ir.VectorType(index, wide.count), [0] * wide.count)
    )


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call a function that LLVM has for vectors; its full name ends in the type, such as ``v8f32``."""
    wide = values[-1].type
    suffix = f"v{wide.count}{'f32' if isinstance(wide.element, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(result, [value.type for value in values])
    function = builder.module.declare_intrinsic(f"{name}.{suffix}", fnty=kind)
    return builder.call(function, values, fastmath=FASTMATH)


def load_at(builder: Any, data: Any, offset: Any, wide: Any) -> Any:
    """Read a vector ``offset`` numbers behind the address ``data``; nothing checks the bounds."""
    address = builder.bitcast(builder.gep(data, [offset]), wide.as_pointer())
    return builder.load(address, align=_BYTES[type(wide.element)])


def store_at(builder: Any, data: Any, offset: Any, value: Any) -> None:
    """Write a vector there."""
    address = builder.bitcast(builder.gep(data, [offset]), value.type.as_pointer())
    builder.store(value, address, align=_BYTES[type(value.type.element)])


def _define(operation: Callable[..., Any], instruction: str) -> None:
    """Make a Python operator work on vectors, by one instruction of LLVM."""

    @intrinsic_of
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


@intrinsic_of
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


@intrinsic_of
def where(context, mask, yes, no):  # pyright: ignore
    """Lane by lane ``yes if mask else no``; of ``a <= b``, hence ``no`` where either is NaN."""
    vector = yes if isinstance(yes, Vector) else no

    def generate(context, builder, signature, values):  # pyright: ignore
        mask, *both = values
        return builder.select(mask, *_vectors(context, builder, vector, signature.args[1:], both))

    return vector(mask, yes, no), generate


@intrinsic_of
def sqrt(context, x):  # pyright: ignore
    """The square root of every lane."""

    def generate(context, builder, signature, values):  # pyright: ignore
        return _call(builder, "llvm.sqrt", values[0].type, *values)

    return x(x), generate


@intrinsic_of
def multiply_add(context, x, factor, summand):  # pyright: ignore
    """``x * factor + summand``, rounded once and never reordered."""

    def generate(context, builder, signature, values):  # pyright: ignore
        return _call(
            builder, "llvm.fma", values[0].type, *_vectors(context, builder, x, signature.args, values)
        )

    return x(x, factor, summand), generate


@intrinsic_of
def rint(context, x):  # pyright: ignore
    """The nearest whole number of every lane."""

    def generate(context, builder, signature, values):  # pyright: ignore
        return _call(builder, "llvm.rint", values[0].type, *values)

    return x(x), generate


@intrinsic_of
def power_of_two(context, n):  # pyright: ignore
    """2^n of whole numbers n between -126 and 127, put together from the bits of a float."""
    bits = n.element.bitwidth
    mantissa, bias = {32: (23, 127), 64: (52, 1023)}[bits]

    def generate(context, builder, signature, values):  # pyright: ignore
        whole = ir.VectorType(ir.IntType(bits), n.lanes)
        exponent = builder.add(builder.fptosi(values[0], whole), ir.Constant(whole, [bias] * n.lanes))
        shifted = builder.shl(exponent, ir.Constant(whole, [mantissa] * n.lanes))
        return builder.bitcast(shifted, values[0].type)

    return n(n), generate


@intrinsic_of
def sum_lanes(context, x):  # pyright: ignore
    """The sum of all lanes, a scalar."""

    def generate(context, builder, signature, values):  # pyright: ignore
        element = values[0].type.element
        return _call(builder, "llvm.vector.reduce.fadd", element, ir.Constant(element, 0.0), *values)

    return x.element(x), generate


@intrinsic_of
def load(context, array, offset, lanes):  # pyright: ignore
    """``len(lanes)`` neighbouring numbers of a contiguous array, beginning ``offset`` after its first."""
    if array.layout != "C":
        return None  # Numba then says that there is no such function: offsets count contiguous numbers.
    vector = Vector(array.dtype, lanes.count)

    def generate(context, builder, signature, values):  # pyright: ignore
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return load_at(builder, data, values[1], context.get_value_type(vector))

    return vector(array, offset, lanes), generate


@intrinsic_of
def store(context, array, offset, value):  # pyright: ignore
    """Write the lanes of ``value`` to a contiguous array, beginning ``offset`` after its first."""
    if array.layout != "C":
        return None

    def generate(context, builder, signature, values):  # pyright: ignore
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        store_at(builder, data, values[1], values[2])
        return context.get_dummy_value()

    return types.void(array, offset, value), generate
