"""Inspection of a trained model: filters, frequencies, spectra and weights of its mixers on a text.

``inspect_mixer`` has a function for each kind of mixer; ``@inspect_mixer.register`` on a function of a mixer
and its input tokens adds one.
"""

import math
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor, nn

from fftnet.evaluation.documents import PositionLoss, evaluate_documents
from fftnet.metrics.averages import evaluation_mode
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.mixers.addressed_spectral import AddressedSpectralMixer, AddressedSpectralView
from fftnet.model.mixers.attention import RotaryAttention
from fftnet.model.mixers.delta_spectral import DeltaSpectralMixer, DeltaSpectralView
from fftnet.model.mixers.spectral import SpectralMixer
from fftnet.ops.delta_mix import delta_mix
from fftnet.ops.numerics import interpolate_anchors, to_planes


@dataclass(frozen=True, kw_only=True)
class MixerNumbers:
    """Numbers of a mixer of H heads and F bins on a text of T tokens; None if its kind has no such number.

    They are on the CPU: complex filters as complex128, everything else as float64.
    """

    base_filter: Tensor | None = None
    """(H, F), real or complex: part of the read filter that does not depend on the text."""
    filter: Tensor | None = None
    """(T, H, F), real or complex: read filter of every token; (1, H, F) if the whole text has one."""
    frequency: Tensor | None = None
    """(H, F), turns per token, signed; on a learned clock, by its mean over the text."""
    time_scale: Tensor | None = None
    """(H, F), tokens after which a written value has faded to 1 / e; on a learned clock, by its mean."""
    spectrum: Tensor | None = None
    """(T, H, F), magnitude of the spectrum of every prefix, averaged over the channels of a head."""
    weights: Tensor | None = None
    """(H, T, T), weight of every token's value (last axis) in the output of each token."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Numbers of all layers of a model on a text of T tokens."""

    tokens: Tensor
    """int64 (T,), the text, read from a fresh state."""
    mixers: tuple[str, ...]
    """Name of the mixer of every layer."""
    layers: tuple[MixerNumbers, ...]
    """Numbers of every layer."""


@dataclass(frozen=True, kw_only=True)
class LossByPosition:
    """Losses of one text, in nats per token."""

    carried: list[PositionLoss]
    """Losses by position, in ranges of doubling length; the state is carried from the first token on."""
    fresh: float
    """Average with a fresh state at the beginning of every training window."""


@torch.no_grad()
def inspect_tokens(model: FFTNet, tokens: Tensor) -> Inspection:
    """Read a text, int64 ids (T,), from a fresh state and inspect mixers; takes H T^2 numbers a layer."""
    # Hooks record the input of each mixer, which the model does not return.
    seen: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        layer.get_submodule("mixer").register_forward_pre_hook(
            lambda mixer, arguments: seen.append((mixer, arguments[0]))
        )
        for layer in model.backbone.layers
    ]
    with evaluation_mode(model):
        try:
            logits_1TV = model(tokens[None].to(model.embedding.weight.device))
        finally:
            for hook in hooks:
                hook.remove()
        if not torch.isfinite(logits_1TV).all():
            raise ValueError("what the model computes is not finite: its weights are damaged")
        layers = tuple(inspect_mixer(mixer, x_1TD) for mixer, x_1TD in seen)
    return Inspection(tokens=tokens.cpu(), mixers=tuple(model.config.layer_mixers), layers=layers)


def loss_by_position(model: FFTNet, tokens: Tensor) -> LossByPosition:
    """Return the losses of a causal model on a text, int64 ids (T,), except its first token."""
    ids = tokens.numpy()
    last = len(ids) - 1
    carried = evaluate_documents(model, ids, np.array([0]), np.array([last + 1]))
    # Each window is a document, which starts without a state.
    window = model.config.max_seq_length
    starts = np.arange(0, last, window)
    fresh = evaluate_documents(model, ids, starts, np.minimum(starts + window, last) + 1)
    return LossByPosition(carried=carried.by_position, fresh=fresh.loss)


@singledispatch
def inspect_mixer(mixer: nn.Module, x: Tensor) -> MixerNumbers:
    """Return the numbers of a mixer on input tokens (1, T, D); none for a kind without a function."""
    return MixerNumbers()


@inspect_mixer.register
def _addressed(mixer: AddressedSpectralMixer, x: Tensor) -> MixerNumbers:
    view = mixer.inspect(x)
    decay_HF, frequency_HF = (_wide(part) for part in mixer.transform())
    clock_TH = _wide(view.clock[0])
    rate_HF = torch.complex(-decay_HF, frequency_HF)
    weights = _weights(_wide(view.filter[0]), _wide(view.key[0]), clock_TH.cumsum(dim=0), rate_HF)
    return _keyed_numbers(mixer, view, weights)


@inspect_mixer.register
def _delta(mixer: DeltaSpectralMixer, x: Tensor) -> MixerNumbers:
    view = mixer.inspect(x)
    # The read-out is linear in what is written: a one at one token gives the weights of that token.
    tokens = x.shape[1]
    unit_1THT = torch.eye(tokens, dtype=torch.float64)[None, :, None].expand(1, -1, mixer.num_heads, -1)
    key, filter_ = (to_planes(_wide(part).cpu(), 3) for part in (view.key, view.filter))
    erase, clock, decay, frequency = map(_wide, (view.erase, view.clock, *mixer.transform()))
    state = torch.zeros(1, mixer.num_heads, 2, mixer.num_bins, tokens, dtype=torch.float64)
    mixed_1THT, _ = delta_mix(unit_1THT, key, filter_, erase, clock, decay, frequency, state)
    return _keyed_numbers(mixer, view, mixed_1THT[0].transpose(0, 1))


def _keyed_numbers(
    mixer: AddressedSpectralMixer | DeltaSpectralMixer,
    view: AddressedSpectralView | DeltaSpectralView,
    weights_HTT: Tensor,
) -> MixerNumbers:
    decay_HF, frequency_HF = (_wide(part) for part in mixer.transform())
    base_filter, _ = mixer.filter(view.context[:, :1])
    # The clock advances by a learned step per token; rates are given at its mean pace.
    pace_H1 = _wide(view.clock[0]).mean(dim=0)[:, None]
    return MixerNumbers(
        base_filter=torch.complex(*_wide(base_filter).unbind(dim=1)),
        filter=_wide(view.filter[0]),
        frequency=frequency_HF * pace_H1 / math.tau,
        time_scale=1 / (decay_HF * pace_H1),
        spectrum=_wide(view.spectrum[0].abs().mean(dim=-1)),
        weights=weights_HTT,
    )


@inspect_mixer.register
def _spectral(mixer: SpectralMixer, x: Tensor) -> MixerNumbers:
    # The whole text has one filter; there are no prefixes, and so no spectra of them.
    filter_1HF = _wide(mixer.inspect(x).filter)
    bins = filter_1HF.shape[2]
    frequency_F = torch.arange(bins, dtype=torch.float64) / x.shape[1]
    return MixerNumbers(
        base_filter=interpolate_anchors(_wide(mixer.filter.base_filter), bins),
        filter=filter_1HF,
        frequency=frequency_F.expand(mixer.num_heads, -1),
    )


@inspect_mixer.register
def _attention(mixer: RotaryAttention, x: Tensor) -> MixerNumbers:
    return MixerNumbers(weights=_wide(mixer.inspect(x).weights[0]))


def _weights(reads_THF: Tensor, writes_THF: Tensor, time_TH: Tensor, rate_HF: Tensor) -> Tensor:
    """Return ``Re sum_f reads_f(t) exp((s(t) - s(j)) rate_f) writes_f(j)`` for j <= t, (H, T, T)."""
    time_HT = time_TH.T
    past_HTT = torch.ones(len(time_HT), len(time_TH), len(time_TH), dtype=torch.bool).tril()
    # The age of later tokens is negative: exp would overflow, so that it is set to 0 first.
    age_HTT = (time_HT[..., None] - time_HT[:, None]).masked_fill(~past_HTT, 0.0)
    weights_HTT = torch.zeros_like(age_HTT)
    # One bin at a time: all of them together would take F times the memory.
    for reads_TH, writes_TH, rate_H in zip(
        reads_THF.unbind(dim=2), writes_THF.unbind(dim=2), rate_HF.unbind(dim=1), strict=True
    ):
        kernel_HTT = torch.exp(age_HTT * rate_H[:, None, None])
        weights_HTT += (reads_TH.T[..., None] * kernel_HTT * writes_TH.T[:, None]).real
    return weights_HTT * past_HTT


def _wide(x: Tensor) -> Tensor:
    """Return a tensor on the CPU in double precision."""
    return x.detach().cpu().to(torch.complex128 if x.is_complex() else torch.float64)
