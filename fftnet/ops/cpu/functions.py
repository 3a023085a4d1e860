"""Exponential functions, cosine and sine of vectors: LLVM would call the C library for every lane.

Exponential, cosine and sine are Taylor series on a short interval around 0, to which the argument is brought
first; the error is one or two units in the last place of a float32, and below 1e-15 for a float64.
"""

from math import factorial

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.vector import multiply_add, power_of_two, rint, where

_PER_LN2 = 1.4426950408889634
# ln 2 and pi / 2 in two parts each: n times the first one is exact, so x - n ln 2 loses no digits;
# as long as the compiler does not add up the parts.
_LN2 = 0.693145751953125
_LN2_REST = 1.4286068203094173e-06
_PER_QUARTER = 0.6366197723675814
_QUARTER = 1.5703125
_QUARTER_REST = 0.0004838267948966192
_LARGEST = 87.0
"""e^87 is about 6e37, near the end of float32."""
_SERIES = tuple(1 / factorial(k) for k in range(14))


@jit
def exp(x):  # pyright: ignore
    """e^x of every lane; beyond x = 87 and -87 it stays at e^87 and e^-87, about 1e38 and 1e-38."""
    x = where(x <= -_LARGEST, -_LARGEST, where(_LARGEST <= x, _LARGEST, x))  # noqa: SIM300 (vectors know <= only)
    n = rint(x * _PER_LN2)
    r = multiply_add(n, -_LN2_REST, multiply_add(n, -_LN2, x))
    # The sum of r^k / k!, |r| <= 0.35, from its last term: a product and a sum a term, in one instruction.
    sum_ = r * _SERIES[13] + _SERIES[12]
    for k in (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0):
        sum_ = sum_ * r + _SERIES[k]
    return sum_ * power_of_two(n)


@jit
def sigmoid(x):  # pyright: ignore
    """1 / (1 + e^-x) of every lane."""
    return 1 / (1 + exp(0 - x))


@jit
def tanh(x):  # pyright: ignore
    """The hyperbolic tangent of every lane, exact to the last place of 1: a small one has fewer digits."""
    return 1 - 2 / (exp(2 * x) + 1)


@jit
def cos_sin(x):  # pyright: ignore
    """Cosine and sine of every lane; of |x| up to some thousands without loss of digits."""
    n = rint(x * _PER_QUARTER)
    r = multiply_add(n, -_QUARTER_REST, multiply_add(n, -_QUARTER, x))
    square = r * r
    cos = square * (-1 / 306) + 1
    sin = square * (-1 / 272) + 1
    for k in (16, 14, 12, 10, 8, 6, 4, 2):
        cos = cos * square * (-1 / (k * (k - 1))) + 1
        sin = sin * square * (-1 / (k * (k + 1))) + 1
    sin = sin * r
    # By quarter turns: n = 1 takes (cos, sin) to (-sin, cos), n = 2 both to their negatives.
    half = rint(n * 0.5 - 0.25)
    odd = n - half - half
    turned = half - 2 * rint(half * 0.5)
    sign = 1 - 2 * turned * turned
    return sign * where(odd <= 0.5, cos, 0 - sin), sign * where(odd <= 0.5, sin, cos)
