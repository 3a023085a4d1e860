"""The convolution and the input gate before the prefix transform, fused on a CPU."""

import importlib
from types import ModuleType

import torch
from torch import Tensor

from fftnet.ops import streaming
from fftnet.ops.prefix import pick_backend
from fftnet.ops.spectral import compute_dtype

GROUP = 8
"""The CPU kernels handle keys and values in whole groups of so many channels."""


def _kernels() -> ModuleType:
    return importlib.import_module("fftnet.ops.gate_numba")


def gated_conv(x_BTC: Tensor, taps_CW: Tensor, last_BPC: Tensor) -> tuple[Tensor, Tensor]:
    """Keys times values, both causally convolved: ``k(t) v(t)`` with ``[k, v] = causal_conv(x)``.

    Args:
        x_BTC: keys, then values, C = 2 D of any floating dtype; T >= 1.
        taps_CW: one filter of width W for each channel, the newest token's tap last.
        last_BPC: the P = W - 1 tokens before the first.

    Returns:
        Gated values (B, T, D) and the last P tokens for the call that continues.
    """
    if not _fused(x_BTC):
        convolved_BTC, last_BPC = streaming.causal_conv(x_BTC, taps_CW, last_BPC)
        key_BTD, value_BTD = convolved_BTC.chunk(2, dim=-1)
        return key_BTD * value_BTD, last_BPC
    dtype, past = compute_dtype(x_BTC), last_BPC.shape[1]
    x, taps, last = (tensor.to(dtype).contiguous() for tensor in (x_BTC, taps_CW, last_BPC))
    values_BTD = _gate(x, taps, last).to(torch.promote_types(x_BTC.dtype, taps_CW.dtype))
    recent = x_BTC[:, max(x_BTC.shape[1] - past, 0) :].to(last_BPC.dtype)
    return values_BTD, torch.cat([last_BPC[:, recent.shape[1] :], recent], dim=1)


def _fused(x_BTC: Tensor) -> bool:
    whole_groups = x_BTC.shape[2] % (2 * GROUP) == 0
    return x_BTC.device.type == "cpu" and whole_groups and pick_backend(x_BTC.device) == "numba"


@torch.library.custom_op("fftnet::gated_conv", mutates_args=())
def _gate(x: Tensor, taps: Tensor, last: Tensor) -> Tensor:
    return _kernels().forward(x, taps, last)


@_gate.register_fake
def _(x, taps, last):  # pyright: ignore
    return x.new_empty((x.shape[0], x.shape[1], x.shape[2] // 2))


@torch.library.custom_op("fftnet::gated_conv_backward", mutates_args=())
def _gate_backward(grad_y: Tensor, x: Tensor, taps: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels().backward(grad_y.contiguous(), x, taps, last)


@_gate_backward.register_fake
def _(grad_y, x, taps, last):  # pyright: ignore
    return torch.empty_like(x), torch.empty_like(taps), torch.empty_like(last)


def _setup_context(ctx, inputs, output) -> None:  # pyright: ignore
    ctx.save_for_backward(*inputs)


def _autograd(ctx, grad_y):  # pyright: ignore
    return _gate_backward(grad_y, *ctx.saved_tensors)


_gate.register_autograd(_autograd, setup_context=_setup_context)
