"""The decode step from the other operators' definitions, at one token; in float64, differentiable."""

import torch
from torch import Tensor

from fftnet.ops.causal_mix import HeadParameters
from fftnet.ops.causal_mix import reference as causal_mix
from fftnet.ops.gated_conv import reference as gated_conv
from fftnet.ops.prefix_context import reference as prefix_context


def gate_step(
    x: Tensor, projected: Tensor, conv_weight: Tensor, conv_state: Tensor, mean: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.gate_step``; computed in float64 whatever comes in."""
    context, mean_after, total = prefix_context.prefix_context(x[:, None], mean, count, None, None)
    values, new_state = gated_conv.gated_conv(projected[:, None], conv_weight, conv_state)
    return context[:, 0], values[:, 0].to(x.dtype), new_state, mean_after.to(mean.dtype), total


def mix_step(
    values: Tensor, filter_: Tensor, parameters: HeadParameters, state: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.decode.mix_step``; computed in float64 whatever comes in."""
    gain_HF = torch.sqrt(1 - torch.exp(-2 * parameters.decay.double()))
    adapted_BTHF = (filter_.double() * gain_HF)[:, None]
    mixed, last = causal_mix.causal_mix(values[:, None], adapted_BTHF, parameters, state, eps)
    return mixed[:, 0], last.to(state.dtype)
