"""The causal context: the running mean of the prefix beside the token itself, fused on a CPU."""

import importlib
from types import ModuleType

import torch
from torch import Tensor

from fftnet.ops import streaming
from fftnet.ops.dispatch import fuses
from fftnet.ops.numerics import compute_dtype


def prefix_context(
    x_BTD: Tensor, mean_BD: Tensor, count_B: Tensor, counted_BT: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`fftnet.ops.streaming.prefix_mean` beside the tokens.

    Args:
        x_BTD: tokens of any floating dtype, T >= 1.
        mean_BD: mean of the tokens before.
        count_B: int64 number of tokens before.
        counted_BT: boolean; a False token is left out of the mean. None counts all.

    Returns:
        Context (B, T, 2 D) in the dtype of ``x_BTD``, then mean and count after the last token.

    Raises:
        ValueError: if T is 0.
    """
    narrow = x_BTD.dtype != compute_dtype(x_BTD)
    if counted_BT is not None or narrow or x_BTD.shape[1] == 0 or not fuses(x_BTD, x_BTD.shape[2]):
        means_BTD, mean_BD, count_B = streaming.prefix_mean(x_BTD, mean_BD, count_B, counted_BT)
        return torch.cat([means_BTD, x_BTD], dim=-1), mean_BD, count_B
    context_BTC, mean_BD = _context(x_BTD.contiguous(), mean_BD.to(x_BTD.dtype).contiguous(), count_B)
    return context_BTC, mean_BD, count_B + x_BTD.shape[1]


def _kernels() -> ModuleType:
    return importlib.import_module("fftnet.ops.prefix_context.numba")


@torch.library.custom_op("fftnet::prefix_context", mutates_args=())
def _context(x: Tensor, mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    return _kernels().forward(x, mean, count)


@_context.register_fake
def _(x, mean, count):  # pyright: ignore
    return x.new_empty((x.shape[0], x.shape[1], 2 * x.shape[2])), torch.empty_like(mean)


@torch.library.custom_op("fftnet::prefix_context_backward", mutates_args=())
def _context_backward(grad: Tensor, grad_mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    return _kernels().backward(grad.contiguous(), grad_mean.contiguous(), count)


@_context_backward.register_fake
def _(grad, grad_mean, count):  # pyright: ignore
    grad_x = grad.new_empty((grad.shape[0], grad.shape[1], grad.shape[2] // 2))
    return grad_x, torch.empty_like(grad_mean, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:  # pyright: ignore
    ctx.save_for_backward(inputs[2])


def _autograd(ctx, grad, grad_mean):  # pyright: ignore
    return *_context_backward(grad, grad_mean, *ctx.saved_tensors), None


_context.register_autograd(_autograd, setup_context=_setup_context)
