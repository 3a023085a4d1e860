"""One token at a time: what a causal mixer does between its matrix products, in two operators each.

``context_step`` and ``address_step`` are those of the mixer with addresses, ``gate_step`` and ``mix_step``
those of the one without. These four are the only entries: they check and pick a backend. A backend is a
module in this folder with functions of these names and arguments, ``backend`` left out.

``numba`` has no gradients: a call costs more here than its arithmetic, so it does in two calls what takes
fifty small operations, and is left to inference without ``torch.compile``, which fuses ``torch`` instead.
``export`` does it in fewer operations that other runtimes know.
"""

from torch import Tensor, compiler, float32, float64, is_grad_enabled

from fftnet.ops.causal_mix import HeadParameters
from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.decode import eager, export, reference
from fftnet.ops.decode.parameters import AddressedParameters
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.prefix_context import check_horizon

__all__ = ["BACKENDS", "AddressedParameters", "address_step", "context_step", "gate_step", "mix_step"]


def _at_inference(x: Tensor, *others: Tensor) -> bool:
    if is_grad_enabled() or compiler.is_compiling() or x.device.type != "cpu":
        return False
    dtypes = {tensor.dtype for tensor in (x, *others) if tensor.is_floating_point()}
    return dtypes in ({float32}, {float64})


def _has_addresses(sizes: Sizes) -> str | None:
    numbers = 2 * sizes["H"] * sizes["F"]
    width = sizes["H"] * sizes["d"]
    for name, letter, expected in (
        ("raw_filter", "A", numbers),
        ("gate", "D", width),
        ("projected", "C", width + numbers),
    ):
        if sizes[letter] != expected:
            return f"{name} must have {letter} = {expected} channels, got {sizes[letter]}"
    return None


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_at_inference,
    reference=anything,
    export=anything,
)
_MODULES = {"torch": eager, "reference": reference, "export": export}
_GATE_STEP = Signature(
    "gate_step",
    {
        "x": "B D",
        "projected": "B C",
        "conv_weight": "C W",
        "conv_state": "B P C",
        "mean": "B D",
        "count": "B: int64",
    },
    derived={"C": lambda sizes: 2 * sizes["D"], "P": lambda sizes: sizes["W"] - 1},
)
_MIX_STEP = Signature(
    "mix_step",
    {
        "values": "B H d",
        "filter_": "B H F",
        "decay": "H F",
        "frequency": "H F",
        "bias": "H F",
        "readout": "H F 2",
        "state": "B F 2 H d",
    },
)
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
    derived={"P": lambda sizes: sizes["W"] - 1},
    rule=_has_addresses,
)


def gate_step(
    x: Tensor,
    projected: Tensor,
    conv_weight: Tensor,
    conv_state: Tensor,
    mean: Tensor,
    count: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Context and gated values of one token.

    Args:
        x: the token, (B, D) of any floating dtype.
        projected: its keys and values, (B, C) with C = 2 D.
        conv_weight: the convolution's filters, (C, W), the newest token's tap last.
        conv_state: the P = W - 1 projected tokens before, (B, P, C).
        mean: mean of the tokens before, (B, D).
        count: int64 number of the tokens before, (B,).
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Context (B, 2 D) and values (B, D) in the dtype of ``x``, and the new ``conv_state``, ``mean`` and
        ``count``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_GATE_STEP, backend, x, projected, conv_weight, conv_state, mean, count)
    module = _MODULES.get(backend) or BACKENDS.load(backend)
    return module.gate_step(x, projected, conv_weight, conv_state, mean, count)


def mix_step(
    values: Tensor,
    filter_: Tensor,
    parameters: HeadParameters,
    state: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """``fftnet.ops.causal_mix.causal_mix`` of one token, with the normalisation g applied here.

    Args:
        values: v, (B, H, d) of any floating dtype.
        filter_: the adaptive filter, without g, (B, H, F).
        parameters: of every head and bin, with decay > 0.
        state: real and imaginary plane of the spectrum, (B, F, 2, H, d).
        eps: magnitude below which modReLU stops normalising.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Mixed values (B, H, d) in the dtype of ``values``, and the new state.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    backend = BACKENDS.select(_MIX_STEP, backend, values, filter_, *parameters, state)
    module = _MODULES.get(backend) or BACKENDS.load(backend)
    return module.mix_step(values, filter_, parameters, state, eps)


def context_step(
    projected: Tensor,
    mean: Tensor,
    count: Tensor,
    *,
    horizon: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``fftnet.ops.prefix_context.prefix_context`` of one token.

    Args:
        projected: the token in the context's projection, (B, M) of any floating dtype.
        mean: mean of the tokens before, (B, M).
        count: int64 number of the tokens before, (B,).
        horizon: from that many tokens on the mean forgets; None keeps the mean of everything.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Context (B, 2 M) in the dtype of ``projected``, and the new ``mean`` and ``count``.

    Raises:
        ValueError: if a tensor does not fit the others, the horizon is below 1, or the backend is unknown or
            can't run here.
    """
    check_horizon("context_step", horizon)
    backend = BACKENDS.select(_CONTEXT_STEP, backend, projected, mean, count)
    module = _MODULES.get(backend) or BACKENDS.load(backend)
    return module.context_step(projected, mean, count, horizon)


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
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        The spectrum as it is read, normed and gated, (B, D) in the dtype of ``projected``, and the new
        ``conv_state`` and ``spectrum``.

    Raises:
        ValueError: if a tensor does not fit the others, or the backend is unknown or can't run here.
    """
    token = (projected, raw_filter, modulation, clock, gate)
    backend = BACKENDS.select(_ADDRESS_STEP, backend, *token, *parameters, conv_state, spectrum)
    module = _MODULES.get(backend) or BACKENDS.load(backend)
    return module.address_step(*token, parameters, conv_state, spectrum, eps)
