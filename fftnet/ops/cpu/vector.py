"""Vectors for Numba: neighbouring channels as one value, held in the processor's registers.

Plain loops over channels take four times as long in a recurrence: as far as the compiler can tell, two arrays
may share memory (aliasing), so the state goes to memory and back at every token. A value of a vector type has
no address, so it stays in registers over the whole loop.

This file adds to Numba a type, ``Vector``, and functions on it. Between vectors, and between a vector and a
number, ``+ - * / <=`` work lane by lane. Numba defines such functions in two steps: the outer one gets the
types of the arguments and returns the type of the result, the inner one emits LLVM instructions.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

from fftnet.ops.cpu.compile import FASTMATH

# Typed as Any, because a call leaves out the first argument of the function that types it.
intrinsic: Any = extending.intrinsic


class Vector(types.Type):
    """Numba type of ``lanes`` channels, each of the Numba type ``element``, held in registers."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """Representation of a Vector as a vector of LLVM, which has one instruction for all lanes."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def repeat(builder: Any, number: Any, wide: Any) -> Any:
    """Return a vector of the LLVM type ``wide`` with the same number in all lanes."""
    index = ir.IntType(32)
    # Into lane 0, and from there (index 0, once for each lane) into all.
    vector = builder.insert_element(ir.Constant(wide, ir.Undefined), number, ir.Constant(index, 0))
    lanes = ir.Constant(ir.VectorType(index, wide.count), [0] * wide.count)
    return builder.shuffle_vector(vector, vector, lanes)


def _convert(context: Any, builder: Any, result: Any, kinds: Any, values: Any) -> list[Any]:
    """Cast numbers to the type ``result``, and repeat them in all lanes if it is a vector."""
    converted = []
    for kind, value in zip(kinds, values, strict=True):
        if not isinstance(kind, Vector):
            value = context.cast(builder, value, kind, getattr(result, "element", result))
            if isinstance(result, Vector):
                value = repeat(builder, value, context.get_value_type(result))
        converted.append(value)
    return converted


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call a function that LLVM has for vectors; its full name ends in the type, such as ``v8f32``."""
    wide = values[-1].type
    suffix = f"v{wide.count}{'f32' if isinstance(wide.element, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(result, [value.type for value in values])
    function = builder.module.declare_intrinsic(f"{name}.{suffix}", fnty=kind)
    return builder.call(function, values, fastmath=FASTMATH)


def pointer(context: Any, builder: Any, array: Any, value: Any, index: list[Any]) -> Any:
    """Return the address of ``array[index]``; nothing checks the bounds."""
    view = context.make_array(array)(context, builder, value)
    return cgutils.get_item_pointer(context, builder, array, view, index)


def load_at(builder: Any, address: Any, wide: Any) -> Any:
    """Read a vector from the address of its first number."""
    # Aligned like one number, since a vector may begin at any of them.
    align = 4 if isinstance(wide.element, ir.FloatType) else 8
    return builder.load(builder.bitcast(address, wide.as_pointer()), align=align)


def store_at(builder: Any, address: Any, value: Any) -> None:
    """Write a vector to the address of its first number."""
    align = 4 if isinstance(value.type.element, ir.FloatType) else 8
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=align)


def _define(operation: Callable[..., Any], instruction: str) -> None:
    """Make a Python operator work on vectors, by one instruction of LLVM."""

    @intrinsic
    def combine(context, a, b):  # pyright: ignore
        vector = a if isinstance(a, Vector) else b
        compares = operation is operator.le
        result = Vector(types.boolean, vector.lanes) if compares else vector

        def generate(context, builder, signature, values):  # pyright: ignore
            both = _convert(context, builder, vector, signature.args, values)
            if compares:
                # "Ordered": false if either is NaN.
                return builder.fcmp_ordered(instruction, *both)
            return getattr(builder, instruction)(*both, flags=FASTMATH)

        return result(a, b), generate

    # For other types the function returns None, and Numba uses its own implementation.
    @overload(operation)
    def _(a, b):  # pyright: ignore
        if isinstance(a, Vector) or isinstance(b, Vector):
            return lambda a, b: combine(a, b)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
_define(operator.le, "<=")


@intrinsic
def where(context, mask, yes, no):  # pyright: ignore
    """``yes if mask else no``, lane by lane; between two numbers in the type of ``no``.

    ``a <= b`` is false if either is NaN, so ``no`` is taken then.
    """
    result = yes if isinstance(yes, Vector) else no

    def generate(context, builder, signature, values):  # pyright: ignore
        both = _convert(context, builder, result, signature.args[1:], values[1:])
        return builder.select(values[0], *both)

    return result(mask, yes, no), generate


def _function(name: str) -> Any:
    """Return a function of one vector that LLVM has under a name."""

    @intrinsic
    def function(context, x):  # pyright: ignore
        def generate(context, builder, signature, values):  # pyright: ignore
            return _call(builder, name, values[0].type, *values)

        return x(x), generate

    return function


sqrt = _function("llvm.sqrt")
rint = _function("llvm.rint")
"""Nearest whole number of every lane."""


@intrinsic
def multiply_add(context, x, factor, summand):  # pyright: ignore
    """``x * factor + summand``, rounded once and never reordered."""

    def generate(context, builder, signature, values):  # pyright: ignore
        return _call(
            builder, "llvm.fma", values[0].type, *_convert(context, builder, x, signature.args, values)
        )

    return x(x, factor, summand), generate


@intrinsic
def power_of_two(context, n):  # pyright: ignore
    """2^n of whole numbers n between -126 and 127, put together from the bits of a float."""
    bits = n.element.bitwidth
    mantissa, bias = {32: (23, 127), 64: (52, 1023)}[bits]

    def generate(context, builder, signature, values):  # pyright: ignore
        # A float of the mantissa 1 is its exponent plus the bias, shifted behind the bits of the mantissa.
        whole = ir.VectorType(ir.IntType(bits), n.lanes)
        exponent = builder.add(builder.fptosi(values[0], whole), ir.Constant(whole, [bias] * n.lanes))
        shifted = builder.shl(exponent, ir.Constant(whole, [mantissa] * n.lanes))
        return builder.bitcast(shifted, values[0].type)

    return n(n), generate


@intrinsic
def sum_lanes(context, x):  # pyright: ignore
    """Return the sum of all lanes, a number."""

    def generate(context, builder, signature, values):  # pyright: ignore
        element = values[0].type.element
        # The sum starts from 0; FASTMATH lets LLVM add pairs of lanes instead of one after the other.
        return _call(builder, "llvm.vector.reduce.fadd", element, ir.Constant(element, 0.0), *values)

    return x.element(x), generate


def _item(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Return the address of ``array[index]`` in a call of ``load`` or ``store``."""
    # A tuple of numbers, or one number for an array of one dimension.
    kinds = getattr(signature.args[1], "types", None)
    index = [values[1]] if kinds is None else cgutils.unpack_tuple(builder, values[1])
    kinds = kinds or [signature.args[1]]
    whole = [context.cast(builder, i, kind, types.intp) for i, kind in zip(index, kinds, strict=True)]
    return pointer(context, builder, signature.args[0], values[0], whole)


@intrinsic
def load(context, array, index, lanes):  # pyright: ignore
    """Read ``len(lanes)`` neighbouring numbers of a contiguous array, beginning with ``array[index]``."""
    if array.layout != "C":
        return None  # Numba then reports that no such function exists: the last numbers must be neighbours.
    vector = Vector(array.dtype, lanes.count)

    def generate(context, builder, signature, values):  # pyright: ignore
        address = _item(context, builder, signature, values)
        return load_at(builder, address, context.get_value_type(vector))

    return vector(array, index, lanes), generate


@intrinsic
def store(context, array, index, value):  # pyright: ignore
    """Write the lanes of ``value`` to a contiguous array, beginning with ``array[index]``."""
    if array.layout != "C":
        return None

    def generate(context, builder, signature, values):  # pyright: ignore
        store_at(builder, _item(context, builder, signature, values), values[2])
        return context.get_dummy_value()

    return types.void(array, index, value), generate
