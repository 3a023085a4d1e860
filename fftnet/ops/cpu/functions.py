"""Functions of vectors: exponential, cosine and sine, which LLVM would call for every lane, and modReLU.

Exponential, cosine and sine are Taylor series on a short interval around 0, to which the argument is brought
first. The error is one or two units in the last place of a float32, and below 1e-15 for a float64.
"""

from math import factorial

from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.vector import multiply_add, power_of_two, rint, where

_PER_LN2 = 1.4426950408889634
# ln 2 and pi / 2 in two parts each: n times the first one is exact, so x - n ln 2 loses no digits,
# provided that the compiler does not add up the parts.
_LN2 = 0.693145751953125
_LN2_REST = 1.4286068203094173e-06
_PER_QUARTER = 0.6366197723675814
_QUARTER = 1.5703125
_QUARTER_REST = 0.0004838267948966192
_LARGEST = 87.0  # Exponent: e^87 is about 6e37, near the end of float32.
_SERIES = tuple(1 / factorial(k) for k in range(14))
TINY = 1e-15  # Magnitude below which a number has no direction, so that nothing is divided by 0.


@jit
def exp(x):  # pyright: ignore
    """e^x of every lane; beyond x = 87 and -87 it stays at e^87 and e^-87, about 1e38 and 1e-38."""
    x = where(x <= -_LARGEST, -_LARGEST, where(_LARGEST <= x, _LARGEST, x))  # noqa: SIM300 (vectors know <= only)
    # e^x = 2^n e^r with r = x - n ln 2, so |r| <= 0.35.
    n = rint(x * _PER_LN2)
    r = multiply_add(n, -_LN2_REST, multiply_add(n, -_LN2, x))
    # The sum of r^k / k!, from its last term: a product and a sum a term, in one instruction.
    total = r * _SERIES[13] + _SERIES[12]
    for k in (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0):
        total = total * r + _SERIES[k]
    return total * power_of_two(n)


@jit
def sigmoid(x):  # pyright: ignore
    """1 / (1 + e^-x) of every lane."""
    return 1 / (1 + exp(0 - x))


@jit
def tanh(x):  # pyright: ignore
    """Hyperbolic tangent of every lane, exact to the last place of 1: a small one has fewer digits."""
    return 1 - 2 / (exp(2 * x) + 1)


@jit
def cos_sin(x):  # pyright: ignore
    """Cosine and sine of every lane; no digits are lost up to |x| of some thousands."""
    # x = n pi / 2 + r: a series for r, then n quarter turns.
    n = rint(x * _PER_QUARTER)
    r = multiply_add(n, -_QUARTER_REST, multiply_add(n, -_QUARTER, x))
    square = r * r
    cos = square * (-1 / 306) + 1
    sin = square * (-1 / 272) + 1
    for k in (16, 14, 12, 10, 8, 6, 4, 2):
        cos = cos * square * (-1 / (k * (k - 1))) + 1
        sin = sin * square * (-1 / (k * (k + 1))) + 1
    sin = sin * r
    # n = 1 takes (cos, sin) to (-sin, cos), n = 2 both to their negatives.
    half_turns = rint(n * 0.5 - 0.25)
    is_odd = n - half_turns - half_turns
    parity = half_turns - 2 * rint(half_turns * 0.5)
    sign = 1 - 2 * parity * parity
    return sign * where(is_odd <= 0.5, cos, 0 - sin), sign * where(is_odd <= 0.5, sin, cos)


@jit
def modrelu_scale(magnitude, bias, eps):  # pyright: ignore
    """relu(|z| + b) / max(|z|, eps), of vectors or of numbers in one dtype: maths.md, section 1, step 6."""
    shifted = magnitude + bias
    return where(shifted <= 0, 0, shifted) / where(magnitude <= eps, eps, magnitude)


@jit
def modrelu_slopes(magnitude, per_magnitude, bias, eps):  # pyright: ignore
    """Return the factors of modReLU's gradient: that of b, the scale of z, and |z| d scale / d |z|.

    The first one is 1 / max(|z|, eps), or 0 if modReLU is closed. ``per_magnitude`` is 1 / |z|, or any finite
    number if |z| is close to 0.
    """
    shifted = magnitude + bias
    share = where(eps <= magnitude, per_magnitude, 1 / eps)
    share = where(shifted <= 0, 0, share)
    return share, shifted * share, where(eps <= magnitude, 0 - bias, magnitude) * share
