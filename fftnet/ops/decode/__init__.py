"""One token at a time: what the causal mixer does between its matrix products.

Written out in PyTorch, which ``torch.compile`` fuses; on a CPU without gradients in two kernels, because a
call costs more there than its arithmetic.
"""

import functools
import importlib
from types import ModuleType

import torch
from torch import Tensor

from fftnet.ops.dispatch import runs


@functools.cache
def _kernels() -> ModuleType:
    return importlib.import_module("fftnet.ops.decode.numba")


def _fused(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and runs("numba")
    )


def gate_step(
    x_BD: Tensor, projected_BC: Tensor, taps_CW: Tensor, recent_BPC: Tensor, mean_BD: Tensor, count_B: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Context and gated values of one token.

    Args:
        x_BD: the token.
        projected_BC: its keys and values, C = 2 D.
        taps_CW: the convolution's filters, W = P + 1.
        recent_BPC: the last P projected tokens.
        mean_BD: mean of the tokens before.
        count_B: int64 number of the tokens before.

    Returns:
        Context (B, 2 D), values (B, D), and the new ``recent_BPC``, ``mean_BD`` and ``count_B``.
    """
    if _fused(x_BD):
        return _kernels().gate_step(x_BD, projected_BC, taps_CW, recent_BPC, mean_BD, count_B)
    count_B = count_B + 1
    mean_BD = mean_BD + (x_BD - mean_BD) / count_B[:, None]
    context_BC = torch.cat([mean_BD.to(x_BD.dtype), x_BD], dim=-1)
    window_BWC = torch.cat([recent_BPC, projected_BC[:, None].to(recent_BPC.dtype)], dim=1)
    key_BD, value_BD = (window_BWC * taps_CW.T).sum(dim=1).chunk(2, dim=-1)
    return context_BC, (key_BD * value_BD).to(x_BD.dtype), window_BWC[:, 1:], mean_BD, count_B


def mix_step(
    v_BHd: Tensor,
    filter_BHF: Tensor,
    decay_HF: Tensor,
    frequency_HF: Tensor,
    bias_HF: Tensor,
    mixing_HF2: Tensor,
    spectrum_BF2Hd: Tensor,
    *,
    floor: float,
) -> tuple[Tensor, Tensor]:
    """:func:`fftnet.ops.causal_mix.causal_mix` of one token, with the normalisation g applied here.

    Args:
        v_BHd: values.
        filter_BHF: the adaptive filter, without g.
        decay_HF: a > 0 per token.
        frequency_HF: w in radians per token.
        bias_HF: modReLU bias.
        mixing_HF2: real and imaginary part of C.
        spectrum_BF2Hd: the state.
        floor: magnitude below which modReLU stops normalising.

    Returns:
        Mixed values (B, H, d) and the new state.
    """
    if _fused(v_BHd):
        return _kernels().mix_step(
            v_BHd, filter_BHF, decay_HF, frequency_HF, bias_HF, mixing_HF2, spectrum_BF2Hd, floor
        )

    def per_bin(x: Tensor) -> Tensor:
        return x.to(spectrum_BF2Hd.dtype).transpose(-1, -2)[..., None]

    radius, gain = torch.exp(-decay_HF), torch.sqrt(-torch.expm1(-2 * decay_HF))
    lr, li = per_bin(radius * torch.cos(frequency_HF)), per_bin(radius * torch.sin(frequency_HF))
    filter_, bias = per_bin(filter_BHF * gain), per_bin(bias_HF)
    zr, zi = spectrum_BF2Hd.unbind(dim=2)
    zr, zi = lr * zr - li * zi + v_BHd[:, None].to(zr.dtype), lr * zi + li * zr
    square = zr.square() + zi.square()
    is_zero = square == 0
    magnitude = filter_.abs() * torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)
    scale = filter_ * torch.relu(magnitude + bias) / magnitude.clamp(min=floor)
    cr, ci = per_bin(mixing_HF2[..., 0]), per_bin(mixing_HF2[..., 1])
    y_BHd = (scale * (cr * zr - ci * zi)).sum(dim=1)
    return y_BHd.to(v_BHd.dtype), torch.stack([zr, zi], dim=2)
