"""FFTNet (causal) with a gated delta rule: tokens erase what their keys read (docs/maths.md, section 4)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.fields import MAX_COUNT, MAX_SIZE, check_fields, check_range, documented
from fftnet.model.checks import check_input, head_dim
from fftnet.model.components import (
    Clock,
    EraseStrength,
    ModReLU,
    PrefixContext,
    PrefixFourierTransform,
    ReadFilter,
    Rotation,
    WriteKey,
)
from fftnet.model.mixers.base import SteppingMixer, device_of, packed
from fftnet.ops import decode
from fftnet.ops.addresses import addresses
from fftnet.ops.addresses.export import read_filter
from fftnet.ops.convolution import state_after
from fftnet.ops.delta_mix import delta_mix
from fftnet.ops.delta_mix.reference import delta_spectrum
from fftnet.ops.numerics import NORM_EPS, compute_dtype, for_products
from fftnet.ops.rms_norm import rms_norm
from fftnet.ops.rotary import rotary
from fftnet.ops.short_conv import short_conv

EPS = 0.03
"""Magnitude below which modReLU does not normalize a filter."""
SHORTEST_SCALE = 2.0
"""Initial time scale of the fastest bin, in tokens."""
TIME_STEP = 0.01
"""Initial time step of every token, so small that the softplus of the clock is nearly an exponential: a token
can slow its head down, or make it forget, by orders of magnitude."""


@documented
@dataclass(frozen=True, kw_only=True)
class DeltaSpectralConfig:
    """Configuration of the mixer of FFTNet (causal) with a delta rule."""

    expand: int = 4
    """Width of the values as a multiple of d_model; wide values with few bins are best for text."""
    num_bins: int = 4
    """Number of frequencies per head: the number of items that a head can store grows with it."""
    tracking: bool = False
    """Let tokens turn the bins and erase up to twice what they read: the layer tracks states such as a
    permutation or a parity better, and recalls less."""
    longest_scale: float = 512.0
    """Initial time scale of the slowest bin, in tokens: about the training window. A slower bin would reach
    values on long texts that it never had in training."""
    context_dim: int = 32
    """Width of the context and of the hidden layer of the modulation's MLP."""
    context_horizon: int = 256
    """Effective window of the context's running mean, in tokens."""
    conv_size: int = 4
    """Width of the short convolution of all projections, in tokens; at least 2, so that a key sees the token
    before."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "expand", "num_bins", "context_dim")
        check_range(self, 1, MAX_COUNT, "context_horizon")
        check_range(self, 2, MAX_SIZE, "conv_size")
        check_range(self, SHORTEST_SCALE, MAX_COUNT, "longest_scale")


class DeltaSpectralState(NamedTuple):
    """State of the mixer: O(F E D) numbers, independent of the number of tokens read.

    Floating tensors are float32 (float64 in a model of float64), also in models of 16 bits.
    """

    spectrum: Tensor
    """(B, H, 2, F, d), real and imaginary plane of the keyed spectrum of the prefix."""
    mean: Tensor
    """(B, M), running mean of the context's projection of the tokens."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of tokens read."""
    conv_state: Tensor
    """(B, conv_size - 1, 2 E D + 4 H F), the last projected values and gates, keys and filters."""
    phase: Tensor
    """(B, H, F), revolutions by which the tokens read have turned each bin, between -0.5 and 0.5."""

    common = ("count",)


class DeltaSpectralView(NamedTuple):
    """Intermediate results of the mixer for every prefix."""

    context: Tensor
    """(B, T, 2 M), running mean and projected token."""
    values: Tensor
    """(B, T, H, d), values times the erase strength: what a token writes into an empty memory."""
    key: Tensor
    """Complex (B, T, H, F), write keys of unit length."""
    filter: Tensor
    """Complex (B, T, H, F), read filters."""
    clock: Tensor
    """(B, T, H), time step of each token."""
    erase: Tensor
    """(B, T, H), erase strength of each token."""
    spectrum: Tensor
    """Complex (B, T, H, F, d), the prefix transform of what was written."""
    mixed: Tensor
    """(B, T, H, d), read-out of the spectrum."""
    output: Tensor
    """(B, T, D), output of the mixer: the gated, normed and projected read-out."""


class _Streams(NamedTuple):
    """Inputs of the recurrence and of the read-out, for every token."""

    values: Tensor
    gate: Tensor
    key: Tensor
    filter: Tensor
    erase: Tensor
    clock: Tensor


class DeltaSpectralMixer(SteppingMixer):
    """Values under write keys, prefix transform with a delta rule, read filter, gate and norm.

    Exactly causal. Cost O(T F E D) for a text and O(F E D) for a decode step.
    """

    Config = DeltaSpectralConfig

    def __init__(self, d_model: int, num_heads: int = 8, config: DeltaSpectralConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        config = config or DeltaSpectralConfig()
        self.inner_dim = config.expand * d_model
        self.head_dim = config.expand * head_dim(d_model, num_heads)
        self.num_bins = config.num_bins
        bins = config.num_bins
        address_dim = 2 * num_heads * bins
        channels = 2 * (self.inner_dim + address_dim)
        # Values, gates, raw keys, raw filters: one product, one convolution.
        self.project_in = nn.Linear(d_model, channels, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(channels, config.conv_size))
        self.project_context = nn.Linear(d_model, config.context_dim, bias=False)
        self.context = PrefixContext(config.context_horizon)
        self.key = WriteKey(num_heads, bins)
        self.filter = ReadFilter(2 * config.context_dim, config.context_dim, num_heads, bins)
        self.activation = ModReLU(num_heads, bins, initial_bias=0.0, eps=EPS)
        self.clock = Clock(d_model, num_heads, TIME_STEP)
        self.erase = EraseStrength(d_model, num_heads, 2.0 if config.tracking else 1.0)
        self.rotation = Rotation(d_model, num_heads, bins) if config.tracking else None
        # Scales in units of the clock, whose time steps are small.
        scales = (SHORTEST_SCALE * TIME_STEP, config.longest_scale * TIME_STEP)
        self.transform = PrefixFourierTransform(num_heads, bins, *scales)
        self.norm_weight = nn.Parameter(torch.empty(self.head_dim))
        self.project_out = nn.Linear(self.inner_dim, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize matched filters and keys; the parts reset their own parameters."""
        nn.init.ones_(self.norm_weight)
        wide = 2 * self.inner_dim
        _, keys, filters = self.project_in.weight.split(self._widths())
        # The filters' projection is the complex conjugate of the keys': a token reads what a token like it
        # has written (in signal processing, a matched filter).
        planes = keys.view(self.num_heads, 2, self.num_bins, self.d_model)
        filters.copy_(torch.stack([planes[:, 0], -planes[:, 1]], dim=1).reshape(filters.shape))
        # Values, gates and filters: near the identity. Keys: the token and the previous one with about equal
        # weight, so that the value of a token is also written under the address of the token before.
        opened, keys, filters = self.conv_weight.split(self._widths())
        opened.uniform_(-0.5, 0.5)
        self.conv_weight[wide:].uniform_(-0.1, 0.1)
        opened[:, -1] += 1.0
        keys[:, -2:] += 0.7
        filters[:, -1] += 1.4

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> DeltaSpectralState:
        """Return the state before the first token, on a device (None: that of the weights)."""
        weight = self.project_in.weight
        device = device or device_of(weight)
        shape = (batch_size, self.num_heads, 2, self.num_bins, self.head_dim)
        # float32 also in models of 16 bits: sums over thousands of tokens would lose what each token adds.
        dtype = compute_dtype(weight)
        spectrum = torch.zeros(shape, dtype=dtype, device=device)
        context_dim = self.project_context.out_features
        mean, count = self.context.init_state(batch_size, context_dim, dtype, device)
        past = self.conv_weight.shape[1] - 1
        conv_state = spectrum.new_zeros(batch_size, past, weight.shape[0])
        phase = spectrum.new_zeros(batch_size, self.num_heads, self.num_bins)
        return DeltaSpectralState(spectrum, mean, count, conv_state, phase)

    def inspect(self, x: Tensor) -> DeltaSpectralView:
        """Compute ``forward`` step by step, as ``SpectralMixer.inspect``, with a spectrum for every token."""
        check_input(x, self.d_model, None)
        state = self.init_state(x.shape[0], x.device)
        context, _, _ = self.context(self.project_context(x), state.mean, state.count)
        streams, _, _ = self._streams(x, context, None, state)
        decay, frequency = self.transform()
        key_BTHF, filter_BTHF = (torch.complex(*s.unbind(dim=3)) for s in (streams.key, streams.filter))
        spectrum = delta_spectrum(
            streams.values, streams.key, streams.erase, streams.clock, decay, frequency, state.spectrum
        )
        mixed = (filter_BTHF[..., None] * spectrum).real.sum(dim=3).to(streams.values.dtype)
        length_BTH = _square(streams.key).sqrt()
        values = streams.values * length_BTH[..., None]
        erase = streams.erase * length_BTH.square()
        key_BTHF = key_BTHF / length_BTH[..., None]
        output = self._finish(mixed, streams.gate)
        return DeltaSpectralView(
            context, values, key_BTHF, filter_BTHF, streams.clock, erase, spectrum, mixed, output
        )

    def filter_at(self, x: Tensor, state: DeltaSpectralState) -> Tensor:
        """Return the magnitude of the read filter at one token, as ``Mixer.filter_at``."""
        context_BC, _, _ = decode.context_step(
            self.project_context(x), state.mean, state.count, horizon=self.context.horizon
        )
        base_filter, modulation = self.filter(context_BC)
        filters = slice(-self._widths()[2], None)
        window_BWA = torch.cat([state.conv_state, self.project_in(x)[:, None]], dim=1)[..., filters]
        raw_filter_BA = (window_BWA * self.conv_weight[filters].T).sum(dim=1)
        _, magnitude_BH11F = read_filter(
            raw_filter_BA, modulation, base_filter, self.activation(), self.activation.eps
        )
        return magnitude_BH11F.flatten(2)

    def _widths(self) -> tuple[int, int, int]:
        """Return the channels of values and gates together, of keys and of filters."""
        address_dim = 2 * self.num_heads * self.num_bins
        return 2 * self.inner_dim, address_dim, address_dim

    def _read(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: DeltaSpectralState
    ) -> tuple[Tensor, DeltaSpectralState]:
        # Five products share this input: under autocast it is cast once instead of five times.
        x_BTD = for_products(x_BTD)
        context_BTC, mean_BM, count_B = self.context(
            self.project_context(x_BTD), state.mean, state.count, mask_BT
        )
        streams, conv_state, phase = self._streams(x_BTD, context_BTC, mask_BT, state)
        values, gate, key, filter_, erase, clock = streams
        decay, frequency = self.transform()
        mixed, spectrum = delta_mix(values, key, filter_, erase, clock, decay, frequency, state.spectrum)
        kept = (packed(spectrum), packed(mean_BM), count_B, packed(conv_state), packed(phase))
        return self._finish(mixed, gate), DeltaSpectralState(*kept)

    def _step(self, x_BD: Tensor, state: DeltaSpectralState) -> tuple[Tensor, DeltaSpectralState]:
        """Compute the same for one token with fewer and smaller calls, see ``fftnet.ops.decode``."""
        context_BC, mean_BM, count_B = decode.context_step(
            self.project_context(x_BD), state.mean, state.count, horizon=self.context.horizon
        )
        base_filter, modulation = self.filter(context_BC)
        decay, frequency = self.transform()
        parameters = decode.AddressedParameters(
            self.conv_weight, self.key(), base_filter, self.activation(), decay, frequency, self.norm_weight
        )
        mixed_BI, conv_state, spectrum, phase = decode.delta_step(
            self.project_in(x_BD),
            modulation,
            self.clock(x_BD),
            self.erase(x_BD),
            *self._rotation(x_BD),
            parameters,
            state.conv_state,
            state.spectrum,
            state.phase,
            eps=self.activation.eps,
        )
        if conv_state.stride() != state.conv_state.stride():
            conv_state = packed(conv_state)  # Or torch.compile would compile the next step again.
        return self.project_out(mixed_BI), DeltaSpectralState(spectrum, mean_BM, count_B, conv_state, phase)

    def _streams(
        self, x_BTD: Tensor, context_BTC: Tensor, mask_BT: Tensor | None, state: DeltaSpectralState
    ) -> tuple[_Streams, Tensor, Tensor]:
        """Return the streams, the new convolution state and the new phase.

        Keys are not of unit length yet: values and erase strengths are divided by their length instead.
        """
        projected_BTC = self.project_in(x_BTD)
        opened_BTI2, raw_BTA2, conv_state = short_conv(
            projected_BTC, self.conv_weight, state.conv_state, width=2 * self.inner_dim
        )
        values_BTI, gate_BTI = opened_BTI2.chunk(2, dim=-1)
        shape = (self.num_heads, 2, self.num_bins)
        raw_key, raw_filter = (raw.unflatten(-1, shape) for raw in raw_BTA2.chunk(2, dim=-1))
        base_filter, modulation = self.filter(context_BTC)
        bias_HF = self.activation()
        bases = (self.key(), base_filter, bias_HF, torch.ones_like(bias_HF))
        key, filter_ = addresses(raw_key, raw_filter, modulation, *bases, eps=self.activation.eps)
        clock_BTH, strength_BTH = self.clock(x_BTD), self.erase(x_BTD)
        if mask_BT is not None:
            # Padding takes no time, turns nothing, erases nothing and writes nothing: the state stays.
            clock_BTH, strength_BTH = clock_BTH * mask_BT[..., None], strength_BTH * mask_BT[..., None]
            conv_state = state_after(projected_BTC, state.conv_state, mask_BT.sum(dim=1))
        phase = state.phase
        if self.rotation is not None:
            rotation, share_BTH = self.rotation(x_BTD)
            rotation = rotation if mask_BT is None else rotation * mask_BT[..., None, None]
            key, filter_, phase = rotary(key, filter_, rotation, share_BTH, phase)
        # A key of unit length is key / n. Writing b v under it and erasing with b is, in terms of the key,
        # writing (b / n) v and erasing with b / n^2: two numbers a head instead of another pass over keys.
        square_BTH = _square(key)
        values = values_BTI.unflatten(-1, (self.num_heads, -1))
        written = values * (strength_BTH * square_BTH.rsqrt()).to(values.dtype)[..., None]
        streams = (written, gate_BTI, key, filter_, strength_BTH / square_BTH, clock_BTH)
        return _Streams(*streams), conv_state, phase

    def _rotation(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotations (B, H, F) and their gates (B, H) at one token; without tracking no bin turns."""
        if self.rotation is not None:
            return self.rotation(x_BD)
        none = x_BD.new_zeros(x_BD.shape[0], self.num_heads, self.num_bins)
        return none, none[..., 0]

    def _finish(self, mixed_BTHd: Tensor, gate_BTI: Tensor) -> Tensor:
        """Apply gate, norm and output projection to the read-out."""
        gated_BTI = mixed_BTHd.flatten(2) * gate_BTI
        # Every head of a token is a row to the norm.
        rows = gated_BTI.unflatten(-1, (-1, self.head_dim)).flatten(1, 2)
        return self.project_out(rms_norm(rows, self.norm_weight).view(gated_BTI.shape))


def _square(key_BTH2F: Tensor) -> Tensor:
    """Return the squared length of keys, over the 2 F real numbers of a head, (B, T, H)."""
    return key_BTH2F.square().sum(dim=(3, 4)) + NORM_EPS
