"""The convolution and the input gate before the prefix transform, fused on a CPU."""

import importlib
from types import ModuleType

import torch
from torch import Tensor

from fftnet.ops import streaming
from fftnet.ops.dispatch import fuses
from fftnet.ops.numerics import compute_dtype


def _kernels() -> ModuleType:
    return importlib.import_module("fftnet.ops.gated_conv.numba")


def gated_conv(x_BTC: Tensor, taps_CW: Tensor, last_BPC: Tensor) -> tuple[Tensor, Tensor]:
    """Keys times values, both causally convolved: ``k(t) v(t)`` with ``[k, v] = causal_conv(x)``.

    Args:
        x_BTC: keys, then values, C = 2 D of any floating dtype; T >= 1.
        taps_CW: one filter of width W for each channel, the newest token's tap last.
        last_BPC: the P = W - 1 tokens before the first.

    Returns:
        Gated values (B, T, D) and the last P tokens for the call that continues.
    """
    if not fuses(x_BTC, x_BTC.shape[2] // 2):
        convolved_BTC, last_BPC = streaming.causal_conv(x_BTC, taps_CW, last_BPC)
        key_BTD, value_BTD = convolved_BTC.chunk(2, dim=-1)
        return key_BTD * value_BTD, last_BPC
    dtype = compute_dtype(x_BTC)
    values_BTD, recent_BPC = _gate(*(x.to(dtype).contiguous() for x in (x_BTC, taps_CW, last_BPC)))
    values_BTD = values_BTD.to(torch.promote_types(x_BTC.dtype, taps_CW.dtype))
    return values_BTD, recent_BPC.to(last_BPC.dtype)


@torch.library.custom_op("fftnet::gated_conv", mutates_args=())
def _gate(x: Tensor, taps: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    tokens, past = x.shape[1], last.shape[1]
    recent = torch.cat([last[:, tokens:], x[:, max(tokens - past, 0) :]], dim=1)
    return _kernels().forward(x, taps, last), recent


@_gate.register_fake
def _(x, taps, last):  # pyright: ignore
    return x.new_empty((x.shape[0], x.shape[1], x.shape[2] // 2)), torch.empty_like(last)


@torch.library.custom_op("fftnet::gated_conv_backward", mutates_args=())
def _gate_backward(
    grad_y: Tensor, grad_recent: Tensor, x: Tensor, taps: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_taps, grad_last = _kernels().backward(grad_y.contiguous(), x, taps, last)
    tokens, past = x.shape[1], last.shape[1]
    carried = max(past - tokens, 0)
    grad_last[:, tokens:] += grad_recent[:, :carried]
    grad_x[:, max(tokens - past, 0) :] += grad_recent[:, carried:]
    return grad_x, grad_taps, grad_last


@_gate_backward.register_fake
def _(grad_y, grad_recent, x, taps, last):  # pyright: ignore
    return torch.empty_like(x), torch.empty_like(taps), torch.empty_like(last)


def _setup_context(ctx, inputs, output) -> None:  # pyright: ignore
    ctx.save_for_backward(*inputs)


def _autograd(ctx, grad_y, grad_recent):  # pyright: ignore
    return _gate_backward(grad_y, grad_recent, *ctx.saved_tensors)


_gate.register_autograd(_autograd, setup_context=_setup_context)
