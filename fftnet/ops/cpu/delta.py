"""Delta rule, token by token: the inner loop of a recurrence whose writes depend on what they find.

See ``fftnet.ops.cpu`` for how to read kernels. All rows of a matrix stay in registers, as far as there are
enough, because a token must read every row before it writes one. ``rows`` is a tuple as long as the number
of rows: the compiler knows it from the type.
"""

from numba import types
from numba.core import cgutils

from fftnet.ops.cpu.compile import FASTMATH, jit
from fftnet.ops.cpu.vector import Vector, intrinsic, load_at, pointer, repeat, store_at

SUMS = 4  # Partial sums of a read-out: one sum would wait for itself at every row.


class _Tile:
    """Instructions for ``rows`` rows of ``lanes`` channels of a matrix, held in variables of LLVM."""

    def __init__(self, context, builder, signature, values, rows, lanes):  # pyright: ignore
        self.context = context
        self.builder = builder
        self.signature = signature
        self.values = values
        self.rows = rows
        self.wide = context.get_value_type(Vector(signature.args[0].dtype, lanes))
        self.zero = context.get_constant(types.intp, 0)

    def address(self, argument, *index):  # pyright: ignore
        """Return the address of an element of an argument."""
        kind, value = self.signature.args[argument], self.values[argument]
        return pointer(self.context, self.builder, kind, value, list(index))

    def numbers(self, argument, token):  # pyright: ignore
        """Yield the number of every row at a token, in all lanes."""
        first = self.address(argument, token, self.zero)
        for n in range(self.rows):
            place = self.builder.gep(first, [self.zero.type(n)])
            yield repeat(self.builder, self.builder.load(place), self.wide)

    def hold(self, channel):  # pyright: ignore
        """Load the tile that begins at a channel of argument 0."""
        self.places = [self.address(0, self.zero.type(n), channel) for n in range(self.rows)]
        start = [load_at(self.builder, place, self.wide) for place in self.places]
        self.held = [cgutils.alloca_once_value(self.builder, x) for x in start]

    def release(self):  # pyright: ignore
        """Store the tile."""
        for place, register in zip(self.places, self.held, strict=True):
            store_at(self.builder, place, self.builder.load(register))

    def read(self, argument, token):  # pyright: ignore
        """Return the sum of the rows, each times its number."""
        builder = self.builder
        sums = [None] * SUMS
        for n, number in enumerate(self.numbers(argument, token)):
            term = builder.fmul(number, builder.load(self.held[n]), flags=FASTMATH)
            sums[n % SUMS] = term if sums[n % SUMS] is None else self.add(sums[n % SUMS], term)
        while len(sums) > 1:
            sums = [self.add(*sums[:2]), *sums[2:]][::-1]
        return sums[0]

    def write(self, argument, token, x):  # pyright: ignore
        """Add the vector x to every row, times the number of the row."""
        for n, number in enumerate(self.numbers(argument, token)):
            added = self.builder.fmul(number, x, flags=FASTMATH)
            self.builder.store(self.add(self.builder.load(self.held[n]), added), self.held[n])

    def add(self, x, y):  # pyright: ignore
        """Return the sum of two vectors."""
        return self.builder.fadd(x, y, flags=FASTMATH)


@intrinsic
def _delta_tile(  # pyright: ignore
    context, matrix, keys, erase, strength, values, reads, out, written, channel, rows, lanes
):
    """``delta`` for ``len(lanes)`` channels from ``channel`` on."""

    def generate(context, builder, signature, arguments):  # pyright: ignore
        tile = _Tile(context, builder, signature, arguments, rows.count, lanes.count)
        channel = context.cast(builder, arguments[8], signature.args[8], types.intp)
        tile.hold(channel)
        shape = context.make_array(signature.args[1])(context, builder, arguments[1]).shape
        with cgutils.for_range(builder, builder.extract_value(shape, 0)) as loop:
            t = loop.index
            found = tile.read(2, t)
            b = repeat(builder, builder.load(tile.address(3, t)), tile.wide)
            value = load_at(builder, tile.address(4, t, channel), tile.wide)
            new = builder.fsub(value, builder.fmul(b, found, flags=FASTMATH), flags=FASTMATH)
            tile.write(1, t, new)
            store_at(builder, tile.address(7, t, channel), new)
            store_at(builder, tile.address(6, t, channel), tile.read(5, t))
        tile.release()
        return context.get_dummy_value()

    arguments = (matrix, keys, erase, strength, values, reads, out, written, channel, rows, lanes)
    return types.void(*arguments), generate


@jit
def delta(matrix, keys, erase, strength, values, reads, out, written, rows, lanes):  # pyright: ignore
    """At each token ``u = v - b S^T erase``, ``S += key u^T``, ``out = S^T read``; u goes to ``written``.

    S is ``matrix``, (rows, channels); the channels are a multiple of the lanes. Keys, erase and reads are
    (tokens, rows), strength b (tokens), values, out and written (tokens, channels).
    """
    for c in range(0, matrix.shape[1], len(lanes)):
        _delta_tile(matrix, keys, erase, strength, values, reads, out, written, c, rows, lanes)


@intrinsic
def _adjoint_tile(context, matrix, writes, inputs, reads, erase, out, channel, rows, lanes):  # pyright: ignore
    """``delta_adjoint`` for ``len(lanes)`` channels from ``channel`` on."""

    def generate(context, builder, signature, arguments):  # pyright: ignore
        tile = _Tile(context, builder, signature, arguments, rows.count, lanes.count)
        channel = context.cast(builder, arguments[6], signature.args[6], types.intp)
        tile.hold(channel)
        shape = context.make_array(signature.args[1])(context, builder, arguments[1]).shape
        with cgutils.for_range(builder, builder.extract_value(shape, 0)) as loop:
            t = loop.index
            tile.write(1, t, load_at(builder, tile.address(2, t, channel), tile.wide))
            found = tile.read(3, t)
            store_at(builder, tile.address(5, t, channel), found)
            tile.write(4, t, found)
        tile.release()
        return context.get_dummy_value()

    return types.void(matrix, writes, inputs, reads, erase, out, channel, rows, lanes), generate


@jit
def delta_adjoint(matrix, writes, inputs, reads, erase, out, rows, lanes):  # pyright: ignore
    """At each token ``S += write input^T``, ``out = S^T read``, ``S += erase out^T``, as for ``delta``."""
    for c in range(0, matrix.shape[1], len(lanes)):
        _adjoint_tile(matrix, writes, inputs, reads, erase, out, c, rows, lanes)
