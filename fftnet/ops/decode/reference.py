"""The decode step from the other operators' definitions, at one token; in float64, differentiable."""

import torch
from torch import Tensor

from fftnet.ops.addresses import reference as addresses
from fftnet.ops.causal_mix import HeadParameters
from fftnet.ops.causal_mix import reference as causal_mix
from fftnet.ops.decode.parameters import AddressedParameters
from fftnet.ops.gated_conv import reference as gated_conv
from fftnet.ops.gated_norm import reference as gated_norm
from fftnet.ops.keyed_mix import reference as keyed_mix
from fftnet.ops.prefix_context import reference as prefix_context
from fftnet.ops.short_conv import reference as short_conv


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


def context_step(
    projected: Tensor, mean: Tensor, count: Tensor, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.context_step``; computed in float64 whatever comes in."""
    context, mean_after, total = prefix_context.prefix_context(projected[:, None], mean, count, None, horizon)
    return context[:, 0], mean_after.to(mean.dtype), total


def address_step(
    projected: Tensor,
    raw_filter: Tensor,
    modulation: Tensor,
    clock: Tensor,
    gate: Tensor,
    parameters: AddressedParameters,
    conv_state: Tensor,
    spectrum: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.address_step``; computed in float64 whatever comes in."""
    conv_weight, base_key, base_filter, bias, decay, frequency, norm_weight = parameters
    one_BTC = projected[:, None].double()
    heads, width = norm_weight.shape
    values_BTD, raw_key_BTA, last = short_conv.short_conv(one_BTC, conv_weight, conv_state, heads * width)
    values_BTHd = values_BTD.unflatten(-1, norm_weight.shape)
    key, filter_ = addresses.addresses(
        raw_key_BTA.unflatten(-1, base_key.shape),
        raw_filter[:, None].unflatten(-1, base_key.shape),
        modulation[:, None],
        base_key,
        base_filter,
        bias,
        torch.sqrt(1 - torch.exp(-2 * decay.double())),
        eps,
    )
    mixed_BTHd, after = keyed_mix.keyed_mix(
        values_BTHd, key, filter_, clock[:, None], decay, frequency, spectrum
    )
    gate_BTHd = gate[:, None].unflatten(-1, norm_weight.shape)
    normed_BTHd = gated_norm.gated_norm(mixed_BTHd, gate_BTHd, norm_weight)
    return normed_BTHd[:, 0].flatten(1).to(projected.dtype), last, after.to(spectrum.dtype)
