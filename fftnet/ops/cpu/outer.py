"""Sums of outer products, read token by token: the inner loop of a recurrence with keys.

See ``fftnet.ops.cpu`` for how to read kernels. Here a matrix of rows of channels stays in registers.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types

from fftnet.ops.cpu.compile import FASTMATH, jit
from fftnet.ops.cpu.vector import Vector, in_all_lanes, intrinsic_of, load_at, store_at

ROWS = (0,) * 8
"""Rows in registers at a time, told like the lanes: 8 rows of 32 float32 are half of AVX-512's registers."""
ONE_ROW = (0,)


class Numbers(NamedTuple):
    """Where the numbers of the first row or token lie, and how far it is to the next one."""

    array: Any
    offset: int
    step: int


@intrinsic_of
def _tile(context, matrix, writes, inputs, reads, out, tokens, lanes, rows):  # pyright: ignore
    """``accumulate`` for ``len(rows)`` rows of ``len(lanes)`` channels.

    Numba's own code has no number of variables that depends on a parameter, hence the instructions by hand.
    """
    vector = Vector(matrix.types[0].dtype, lanes.count)

    def generate(context, builder, signature, values):  # pyright: ignore
        wide = context.get_value_type(vector)
        whole = context.get_value_type(types.intp)

        def numbers(n: int) -> tuple[Any, Any, Any]:
            kinds = signature.args[n].types
            array, offset, step = (builder.extract_value(values[n], i) for i in range(3))
            data = context.make_array(kinds[0])(context, builder, array).data
            offset = context.cast(builder, offset, kinds[1], types.intp)
            return data, offset, context.cast(builder, step, kinds[2], types.intp)

        matrix_data, address, row_step = numbers(0)
        data, offsets, steps = zip(*(numbers(n) for n in range(1, 5)), strict=True)
        count = context.cast(builder, values[5], signature.args[5], types.intp)
        addresses = [address]
        for _ in range(rows.count - 1):
            addresses.append(builder.add(addresses[-1], row_step))
        loaded = [load_at(builder, matrix_data, address, wide) for address in addresses]
        before = builder.block
        loop = builder.append_basic_block("tokens")
        body = builder.append_basic_block("token")
        after = builder.append_basic_block("done")
        builder.branch(loop)

        # What changes from token to token: its number, four offsets and the rows.
        builder.position_at_end(loop)
        firsts = [ir.Constant(whole, 0), *offsets, *loaded]
        now = [builder.phi(first.type) for first in firsts]
        for phi, first in zip(now, firsts, strict=True):
            phi.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<", now[0], count), body, after)

        builder.position_at_end(body)
        write_at, input_at, read_at, out_at = now[1:5]
        x = load_at(builder, data[1], input_at, wide)
        total = load_at(builder, data[3], out_at, wide)
        following = [builder.add(now[0], ir.Constant(whole, 1))]
        following += [builder.add(at, step) for at, step in zip(now[1:5], steps, strict=True)]
        for n, row in enumerate(now[5:]):
            index = ir.Constant(whole, n)
            write = builder.load(builder.gep(data[0], [builder.add(write_at, index)]))
            read = builder.load(builder.gep(data[2], [builder.add(read_at, index)]))
            added = builder.fmul(in_all_lanes(builder, write, wide), x, flags=FASTMATH)
            row = builder.fadd(row, added, flags=FASTMATH)
            seen = builder.fmul(in_all_lanes(builder, read, wide), row, flags=FASTMATH)
            total = builder.fadd(total, seen, flags=FASTMATH)
            following.append(row)
        store_at(builder, data[3], out_at, total)
        for phi, value in zip(now, following, strict=True):
            phi.add_incoming(value, body)
        builder.branch(loop)

        builder.position_at_end(after)
        for address, row in zip(addresses, now[5:], strict=True):
            store_at(builder, matrix_data, address, row)
        return context.get_dummy_value()

    return types.void(matrix, writes, inputs, reads, out, tokens, lanes, rows), generate


@jit
def accumulate(matrix, writes, inputs, reads, out, tokens, rows, channels, lanes):  # pyright: ignore
    """At each token ``S += writes inputs^T``, then ``out += S^T reads``.

    Args:
        matrix: S, ``rows`` x ``channels``; this and the next four are ``Numbers``.
        writes: one number a row of S, at each token.
        inputs: one number a channel, at each token.
        reads: one number a row of S, at each token.
        out: one number a channel, at each token; must not overlap the others.
        tokens: how many; where the steps are negative, they are walked backwards.
        rows: of S.
        channels: of S, a multiple of the lanes.
        lanes: see ``fftnet.ops.cpu.compile.LANES``.
    """
    for c in range(0, channels, len(lanes)):
        r = 0
        while r < rows:
            tile = (
                (matrix[0], matrix[1] + r * matrix[2] + c, matrix[2]),
                (writes[0], writes[1] + r, writes[2]),
                (inputs[0], inputs[1] + c, inputs[2]),
                (reads[0], reads[1] + r, reads[2]),
                (out[0], out[1] + c, out[2]),
            )
            if r + len(ROWS) <= rows:
                _tile(tile[0], tile[1], tile[2], tile[3], tile[4], tokens, lanes, ROWS)
                r += len(ROWS)
            else:
                _tile(tile[0], tile[1], tile[2], tile[3], tile[4], tokens, lanes, ONE_ROW)
                r += 1
