"""Sums of outer products, read token by token: the inner loop of a recurrence with keys.

See ``fftnet.ops.cpu`` for how to read kernels. Here a matrix of rows of channels stays in registers.
"""

from numba import types
from numba.core import cgutils

from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.cpu.compile import FASTMATH, jit
from fftnet.ops.cpu.vector import Vector, intrinsic, load_at, pointer, repeat, store_at

ROWS = VECTOR_WIDTH  # Rows in registers at a time: 8 rows of 32 float32 are half of AVX-512's registers.


@intrinsic
def _accumulate_tile(context, matrix, writes, inputs, reads, out, row, channel, lanes):  # pyright: ignore
    """``accumulate`` for ROWS rows of ``len(lanes)`` channels, from ``matrix[row, channel]`` on.

    Instructions by hand: Numba would keep an array of ROWS vectors in memory.
    """
    vector = Vector(matrix.dtype, lanes.count)

    def generate(context, builder, signature, values):  # pyright: ignore
        wide = context.get_value_type(vector)
        row, channel = (context.cast(builder, values[i], signature.args[i], types.intp) for i in (5, 6))
        zero = context.get_constant(types.intp, 0)

        def address(argument: int, *index):  # pyright: ignore
            return pointer(context, builder, signature.args[argument], values[argument], list(index))

        def neighbours(argument: int, token):  # pyright: ignore
            first = address(argument, token, row)
            for n in range(ROWS):
                yield repeat(builder, builder.load(builder.gep(first, [zero.type(n)])), wide)

        # S stays in variables of LLVM, which become registers, because nobody takes their address.
        places = [address(0, builder.add(row, zero.type(n)), channel) for n in range(ROWS)]
        held = [cgutils.alloca_once_value(builder, load_at(builder, place, wide)) for place in places]
        shape = context.make_array(signature.args[1])(context, builder, values[1]).shape
        with cgutils.for_range(builder, builder.extract_value(shape, 0)) as loop:
            # One token: x and the sum for y are vectors of channels, a write or a read is one number a row.
            x = load_at(builder, address(2, loop.index, channel), wide)
            place = address(4, loop.index, channel)
            total = load_at(builder, place, wide)
            tokens = (held, neighbours(1, loop.index), neighbours(3, loop.index))
            for register, write, read in zip(*tokens, strict=True):
                added = builder.fmul(write, x, flags=FASTMATH)
                state = builder.fadd(builder.load(register), added, flags=FASTMATH)
                total = builder.fadd(total, builder.fmul(read, state, flags=FASTMATH), flags=FASTMATH)
                builder.store(state, register)
            store_at(builder, place, total)
        for place, register in zip(places, held, strict=True):
            store_at(builder, place, builder.load(register))
        return context.get_dummy_value()

    return types.void(matrix, writes, inputs, reads, out, row, channel, lanes), generate


@jit
def accumulate(matrix, writes, inputs, reads, out, lanes):  # pyright: ignore
    """At each token ``S += writes inputs^T``, then ``out += S^T reads``.

    S is ``matrix``, (rows, channels): rows are a multiple of ROWS, channels of the lanes. Writes and reads
    are (tokens, rows), inputs and out (tokens, channels), and out overlaps none of the others. Views with a
    negative step along the tokens walk backwards in time.
    """
    rows, channels = matrix.shape
    # All tokens for one tile before the next tile: S is read and written once, from registers.
    for c in range(0, channels, len(lanes)):
        for r in range(0, rows, ROWS):
            _accumulate_tile(matrix, writes, inputs, reads, out, r, c, lanes)
