"""How an operator and its gradient become known to PyTorch: one way for all of them.

Registered, they are single nodes to ``torch.compile`` and ``torch.export``, with shapes and gradients.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fftnet.ops.checks import Signature
from fftnet.ops.dispatch import FIRST_ORDER, BackendError


def register(
    name: str,
    *,
    signature: Signature,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    saved: Callable[[Sequence[Any], Sequence[Tensor]], Sequence[Tensor]],
    backward_signature: Signature,
    backward: Callable[..., Any],
    fake_backward: Callable[..., Any],
) -> Any:
    """Register ``fftnet::name`` and ``fftnet::name_backward`` and join them.

    All four functions are handed checked, contiguous tensors whose floating ones have one dtype. Their
    annotations are the operator's schema.

    Args:
        name: of the operator.
        signature: its tensors, which are its first arguments; the others are constants.
        forward: computes the outputs, a tuple of tensors that share no memory with the inputs.
        fake: makes empty tensors like the outputs, from tensors without memory.
        saved: picks what backward needs, from the inputs and the outputs.
        backward_signature: tensors of the backward operator: what was saved, then one gradient for each of
            the first outputs. The others take no gradient.
        backward: computes the gradients of the first inputs, from these tensors and the same constants.
        fake_backward: makes empty tensors like the gradients.

    Returns:
        The operator, called with tensors and constants by position.
    """
    operator = torch.library.custom_op(f"fftnet::{name}", _checked(forward, signature), mutates_args=())
    operator.register_fake(_checked(fake, signature))
    adjoint = torch.library.custom_op(
        f"fftnet::{name}_backward", _checked(backward, backward_signature), mutates_args=()
    )
    adjoint.register_fake(_checked(fake_backward, backward_signature))

    def set_up(ctx, inputs, output) -> None:  # pyright: ignore[reportMissingParameterType]
        ctx.save_for_backward(*saved(inputs, output))
        ctx.constants = inputs[len(signature) :]

    def differentiate(ctx, *grads):  # pyright: ignore[reportMissingParameterType]
        tensors = ctx.saved_tensors
        taken = grads[: len(backward_signature) - len(tensors)]
        found = adjoint(*tensors, *taken, *ctx.constants)
        return *found, *[None] * (len(signature) + len(ctx.constants) - len(found))

    def refuse(ctx, *grads) -> None:  # pyright: ignore[reportMissingParameterType]
        raise BackendError(FIRST_ORDER.format(name, ctx.backend))

    def set_up_refusal(ctx, inputs, output) -> None:  # pyright: ignore[reportMissingParameterType]
        ctx.backend = inputs[-1]

    operator.register_autograd(differentiate, setup_context=set_up)
    adjoint.register_autograd(refuse, setup_context=set_up_refusal)
    return operator


def _checked(function: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        tensors = arguments[: len(signature)]
        signature.check(*tensors, one_dtype=True)
        with _full_precision(tensors[0].device.type):
            return function(*(x.contiguous() for x in tensors), *arguments[len(signature) :])

    return run


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Context without autocast, which reaches into operators and would take their products in bfloat16."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
