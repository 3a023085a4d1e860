"""Write keys and read filters of the causal mixers (docs/maths.md, section 3, steps 2 and 5)."""

from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import Backends, anything, on_cpu
from fftnet.ops.registration import RegisteredOperator

BACKENDS = Backends(__name__, numba=on_cpu, reference=anything)
_operator = RegisteredOperator(
    BACKENDS,
    Signature(
        "addresses",
        {
            "raw_key": "B T H 2 F",
            "raw_filter": "B T H 2 F",
            "modulation": "B T H 2 F",
            "base_key": "H 2 F",
            "base_filter": "H 2 F",
            "bias": "H F",
            "gain": "H F",
        },
    ),
    outputs={"key": "B T H 2 F", "filter_": "B T H 2 F"},
    constants={"eps": "float"},
)


def addresses(
    raw_key: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    base_key: Tensor,
    base_filter: Tensor,
    bias: Tensor,
    gain: Tensor,
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Write keys and read filters, complex numbers as real and imaginary plane.

    With ``|u|_F = sqrt(mean_k |u_k|^2)``, the size of a head's F numbers:
    ``key_k = gain_k (base_key_k + raw_key_k / |raw_key|_F)`` and
    ``filter_k = modReLU(base_filter_k + tanh(modulation_k) + raw_filter_k / |raw_filter|_F; bias_k)``.

    Args:
        raw_key: the token's own part of the keys, (B, T, H, 2, F).
        raw_filter: the token's own part of the filters, likewise.
        modulation: the context's part of the filters, likewise; tanh is taken of each number.
        base_key: the part of the keys that all tokens share, (H, 2, F).
        base_filter: the paper's base filter, (H, 2, F).
        bias: of modReLU, (H, F).
        gain: normalisation g of the prefix transform, (H, F).
        eps: magnitude below which modReLU stops normalising.

    Returns:
        Keys and filters (B, T, H, 2, F) in the dtype of ``raw_key``.
    """
    tensors = (raw_key, raw_filter, modulation, base_key, base_filter, bias, gain)
    key, filter_ = _operator(*tensors, eps, backend=backend)
    return key.to(raw_key.dtype), filter_.to(raw_key.dtype)
