"""One token at a time: the arithmetic of a causal mixer between its matrix products, in two operators.

``context_step`` is the first, ``delta_step`` or ``address_step`` the second. A backend is a module in this
folder with functions of these names and arguments, without ``backend``. Nothing is registered: autograd
differentiates ``torch`` and ``export``.
``numba`` has no gradients, and runs at inference without ``torch.compile``, which fuses ``torch`` instead.
"""

from typing import NamedTuple

from torch import Tensor, compiler, float32, float64, is_grad_enabled

from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.prefix_context import check_horizon


class AddressedParameters(NamedTuple):
    """Learned numbers of each channel, head and bin of a causal mixer; floating."""

    conv_weight: Tensor
    """Filters of the convolution, (C, W), the newest token's tap last."""
    base_key: Tensor
    """Part of the keys that all tokens share, real and imaginary plane, (H, 2, F)."""
    base_filter: Tensor
    """The paper's base filter, likewise."""
    bias: Tensor
    """modReLU's bias b, (H, F)."""
    decay: Tensor
    """a > 0 per unit of the clock, (H, F)."""
    frequency: Tensor
    """w in radians per unit of the clock, (H, F)."""
    norm_weight: Tensor
    """Weight of the read-out norm, (H, d); (d) for ``delta_step``."""


def _at_inference(sizes: Sizes, x: Tensor, *others: Tensor) -> bool:
    # The kernels have no gradients, and read and write arrays of one dtype.
    if is_grad_enabled() or compiler.is_compiling() or x.device.type != "cpu":
        return False
    dtypes = {tensor.dtype for tensor in (x, *others) if tensor.is_floating_point()}
    return dtypes in ({float32}, {float64})


BACKENDS = Backends(__name__, numba=_at_inference, export=anything)
_CONTEXT_STEP = Signature("context_step", {"projected": "B M", "mean": "B M", "count": "B: int64"})
_ADDRESS_STEP = Signature(
    "address_step",
    {
        "projected": "B C",
        "raw_filter": "B A",
        "modulation": "B H 2 F",
        "clock": "B H",
        "gate": "B D",
        "conv_weight": "C W",
        "base_key": "H 2 F",
        "base_filter": "H 2 F",
        "bias": "H F",
        "decay": "H F",
        "frequency": "H F",
        "norm_weight": "H d",
        "conv_state": "B P C",
        "spectrum": "B H 2 F d",
    },
    # ``projected`` holds the values of all heads, then both planes of the keys of all bins.
    derived={
        "A": lambda H, F: 2 * H * F,
        "D": lambda H, d: H * d,
        "C": lambda H, F, d: H * d + 2 * H * F,
        "P": lambda W: W - 1,
    },
)
_DELTA_STEP = Signature(
    "delta_step",
    {
        "projected": "B C",
        "modulation": "B H 2 F",
        "clock": "B H",
        "erase": "B H",
        "rotation": "B H F",
        "rotation_gate": "B H",
        "conv_weight": "C W",
        "base_key": "H 2 F",
        "base_filter": "H 2 F",
        "bias": "H F",
        "decay": "H F",
        "frequency": "H F",
        "norm_weight": "d",
        "conv_state": "B P C",
        "spectrum": "B H 2 F d",
        "phase": "B H F",
    },
    # ``projected`` holds values and gates of all heads, then both planes of the keys and of the filters.
    derived={"C": lambda H, F, d: 2 * H * d + 4 * H * F, "P": lambda W: W - 1},
)


def context_step(
    projected: Tensor, mean: Tensor, count: Tensor, *, horizon: int | None = None, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``fftnet.ops.prefix_context.prefix_context`` of one token.

    Args:
        projected: the token in the context's projection, (B, M) of any floating dtype.
        mean: mean of the tokens before, (B, M).
        count: int64 number of the tokens before, (B,).
        horizon: number of tokens from which on the mean forgets; None keeps the mean of everything.

    Returns:
        Context (B, 2 M) in the dtype of ``projected``, and the new ``mean`` and ``count``.
    """
    check_horizon("context_step", horizon)
    backend = BACKENDS.select(_CONTEXT_STEP, backend, projected, mean, count)
    return BACKENDS.load(backend).context_step(projected, mean, count, horizon)


def address_step(
    projected: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    clock: Tensor,
    gate: Tensor,
    parameters: AddressedParameters,
    conv_state: Tensor,
    spectrum: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``short_conv``, ``addresses``, ``keyed_mix`` and ``gated_norm`` of one token, in this order.

    Args:
        projected: the token's values, then its raw keys, (B, C) of any floating dtype, C = D + 2 H F.
        raw_filter: the token's own part of the filters, (B, A) with A = 2 H F.
        modulation: the context's part of the filters, (B, H, 2, F).
        clock: time that passes at the token, >= 0, (B, H).
        gate: before its sigmoid, (B, D) with D = H d.
        parameters: of every channel, head and bin; the normalisation g is made of their decay here.
        conv_state: the P = W - 1 projected tokens before, (B, P, C).
        spectrum: real and imaginary plane of the spectrum before, (B, H, 2, F, d).
        eps: magnitude below which modReLU stops normalising.

    Returns:
        The spectrum as it is read, normed and gated, (B, D) in the dtype of ``projected``, and the new
        ``conv_state`` and ``spectrum``.
    """
    token = (projected, raw_filter, modulation, clock, gate)
    backend = BACKENDS.select(_ADDRESS_STEP, backend, *token, *parameters, conv_state, spectrum)
    return BACKENDS.load(backend).address_step(*token, parameters, conv_state, spectrum, eps)


def delta_step(
    projected: Tensor,
    modulation: Tensor,
    clock: Tensor,
    erase: Tensor,
    rotation: Tensor,
    rotation_gate: Tensor,
    parameters: AddressedParameters,
    conv_state: Tensor,
    spectrum: Tensor,
    phase: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``short_conv``, ``addresses``, ``rotary``, ``delta_mix``, gate and ``rms_norm`` of one token.

    Args:
        projected: the token's values and gates, then its raw keys and raw filters, (B, C) of any floating
            dtype, C = 2 H d + 4 H F.
        modulation: the context's part of the filters, (B, H, 2, F).
        clock: time that passes at the token, >= 0, (B, H).
        erase: share of what the key reads that is replaced, (B, H).
        rotation: of every bin before its tanh, (B, H, F).
        rotation_gate: share of it that takes place, before its sigmoid, (B, H).
        parameters: of every channel, head and bin. Keys are brought to unit length.
        conv_state: the P = W - 1 projected tokens before, (B, P, C).
        spectrum: real and imaginary plane of the spectrum before, (B, H, 2, F, d).
        phase: revolutions of every bin before, (B, H, F).
        eps: magnitude below which modReLU stops normalising.

    Returns:
        The spectrum as it is read, gated and normed, (B, H d) in the dtype of ``projected``, and the new
        ``conv_state``, ``spectrum`` and ``phase``.
    """
    token = (projected, modulation, clock, erase, rotation, rotation_gate)
    state = (conv_state, spectrum, phase)
    backend = BACKENDS.select(_DELTA_STEP, backend, *token, *parameters, *state)
    return BACKENDS.load(backend).delta_step(*token, parameters, *state, eps)
