"""Vectors for Numba: a group of channels as one value, held in registers.

Numba's own loops over channels take four times as long in a recurrence: LLVM can't rule out that writing
the output changes the state, so it keeps nothing in registers from one token to the next. With a vector type
there is nothing to prove. LLVM splits a group into whatever registers the processor has.

Between vectors, and between a vector and a scalar, ``+ - * /`` work as usual.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from fftnet.ops.cpu.threads import FASTMATH


class Vector(types.Type):
    """Numba type of a group of ``lanes`` channels, each of Numba type ``element``, held in registers."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.element).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _intrinsic(function: Callable[..., Any]) -> Any:
    # Typed as Any, because a call leaves out the first argument of the function that types it.
    return intrinsic(function)


def _vectors(context: Any, builder: Any, vector: Vector, kinds: Any, values: Any) -> list[Any]:
    """The values with every scalar repeated in all lanes of a vector."""
    wide, index = context.get_value_type(vector), ir.IntType(32)
    everywhere = ir.Constant(ir.VectorType(index, vector.lanes), [0] * vector.lanes)
    result = []
    for kind, value in zip(kinds, values, strict=True):
        if not isinstance(kind, Vector):
            scalar = context.cast(builder, value, kind, vector.element)
            value = builder.insert_element(ir.Constant(wide, ir.Undefined), scalar, ir.Constant(index, 0))
            value = builder.shuffle_vector(value, value, everywhere)
        result.append(value)
    return result


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    wide = values[-1].type
    suffix = f"v{wide.count}{'f32' if isinstance(wide.element, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(result, [value.type for value in values])
    function = builder.module.declare_intrinsic(f"{name}.{suffix}", fnty=kind)
    return builder.call(function, values, fastmath=FASTMATH)


def _address(context: Any, builder: Any, kinds: Any, values: Any, wide: Any) -> Any:
    data = context.make_array(kinds[0])(context, builder, values[0]).data
    return builder.bitcast(builder.gep(data, [values[1]]), wide.as_pointer())


def _define(operation: Callable[..., Any], instruction: str) -> None:
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
def choose(context, a, b, yes, no):  # pyright: ignore
    """Lane by lane ``yes if a <= b else no``, hence ``no`` where either is NaN."""
    vector = next(kind for kind in (a, b, yes, no) if isinstance(kind, Vector))

    def generate(context, builder, signature, values):  # pyright: ignore
        a, b, yes, no = _vectors(context, builder, vector, signature.args, values)
        return builder.select(builder.fcmp_ordered("<=", a, b), yes, no)

    return vector(a, b, yes, no), generate


@_intrinsic
def root(context, x):  # pyright: ignore
    """The square root of every lane."""

    def generate(context, builder, signature, values):  # pyright: ignore
        return _call(builder, "llvm.sqrt", values[0].type, *values)

    return x(x), generate


@_intrinsic
def total(context, x):  # pyright: ignore
    """The sum of all lanes, a scalar."""

    def generate(context, builder, signature, values):  # pyright: ignore
        element = values[0].type.element
        return _call(builder, "llvm.vector.reduce.fadd", element, ir.Constant(element, 0.0), *values)

    return x.element(x), generate


@_intrinsic
def load(context, array, index, group):  # pyright: ignore
    """``len(group)`` channels of a contiguous array, ``index`` counted from its beginning."""
    vector = Vector(array.dtype, group.count)

    def generate(context, builder, signature, values):  # pyright: ignore
        wide = context.get_value_type(vector)
        address = _address(context, builder, signature.args, values, wide)
        return builder.load(address, align=array.dtype.bitwidth // 8)

    return vector(array, index, group), generate


@_intrinsic
def store(context, array, index, value):  # pyright: ignore
    """Write the lanes of ``value`` to a contiguous array from ``index`` on, counted from its beginning."""

    def generate(context, builder, signature, values):  # pyright: ignore
        address = _address(context, builder, signature.args, values, values[2].type)
        builder.store(values[2], address, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), generate
