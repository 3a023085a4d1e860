"""FFTNet (causal), the default mixer: complex write keys and read filters (docs/maths.md, section 3)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.fields import MAX_COUNT, MAX_SIZE, check_fields, check_range, documented
from fftnet.model.checks import check_input, head_dim
from fftnet.model.components import (
    Clock,
    ModReLU,
    PrefixContext,
    PrefixFourierTransform,
    ReadFilter,
    WriteKey,
    gain,
)
from fftnet.model.mixers.base import SteppingMixer, device_of, packed
from fftnet.ops import decode
from fftnet.ops.addresses import addresses
from fftnet.ops.addresses.export import read_filter
from fftnet.ops.convolution import state_after
from fftnet.ops.gated_norm import gated_norm
from fftnet.ops.keyed_mix import keyed_mix
from fftnet.ops.keyed_mix.eager import keyed_spectrum
from fftnet.ops.numerics import compute_dtype, for_products
from fftnet.ops.short_conv import short_conv

EPS = 0.03
"""Magnitude below which modReLU no longer normalizes a filter."""
SHORTEST_SCALE = 2.0
"""Initial time scale of the fastest bin, in tokens."""


@documented
@dataclass(frozen=True, kw_only=True)
class AddressedSpectralConfig:
    """Configuration of the mixer of FFTNet (causal)."""

    num_bins: int = 16
    """Number of frequencies per head: the number of items a head can store grows with it."""
    longest_scale: float = 512.0
    """Initial time scale of the slowest bin, in tokens: about the training window. A slower bin would reach
    values on long texts that it never had in training."""
    context_dim: int = 32
    """Width of the context and of the hidden layer of the modulation's MLP."""
    context_horizon: int = 256
    """Effective window of the context's running mean, in tokens."""
    conv_size: int = 4
    """Width of the short convolution of values and keys, in tokens; at least 2, so that a key sees the token
    before."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "num_bins", "context_dim")
        check_range(self, 1, MAX_COUNT, "context_horizon")
        check_range(self, 2, MAX_SIZE, "conv_size")
        check_range(self, SHORTEST_SCALE, MAX_COUNT, "longest_scale")


class AddressedSpectralState(NamedTuple):
    """State of the mixer: O(F D) numbers, independent of the number of tokens read.

    Floating tensors are float32 (float64 in a model of float64), also in models of 16 bits.
    """

    spectrum: Tensor
    """(B, H, 2, F, d), real and imaginary plane of the keyed spectrum of the prefix."""
    mean: Tensor
    """(B, M), running mean of the context's projection of the tokens."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of tokens read."""
    conv_state: Tensor
    """(B, conv_size - 1, D + 2 H F), the last projected values and keys."""

    common = ("count",)


class AddressedSpectralView(NamedTuple):
    """Intermediate results of the mixer for every prefix."""

    context: Tensor
    """(B, T, 2 M), running mean and projected token."""
    values: Tensor
    """(B, T, H, d), values."""
    key: Tensor
    """Complex (B, T, H, F), write keys."""
    filter: Tensor
    """Complex (B, T, H, F), read filters."""
    clock: Tensor
    """(B, T, H), time step of each token."""
    spectrum: Tensor
    """Complex (B, T, H, F, d), the prefix transform of the keyed values."""
    mixed: Tensor
    """(B, T, H, d), read-out of the spectrum."""
    output: Tensor
    """(B, T, D), output of the mixer: the normed, gated and projected read-out."""


class AddressedSpectralMixer(SteppingMixer):
    """Values under write keys, prefix transform, read filter made of token and context, norm and gate.

    Exactly causal. Cost O(T F D) for a text and O(F D) for a decode step.
    """

    Config = AddressedSpectralConfig

    def __init__(
        self, d_model: int, num_heads: int = 2, config: AddressedSpectralConfig | None = None
    ) -> None:
        super().__init__(d_model, num_heads)
        config = config or AddressedSpectralConfig()
        self.head_dim = head_dim(d_model, num_heads)
        self.num_bins = config.num_bins
        bins = config.num_bins
        address_dim = 2 * num_heads * bins
        # Step 1 projects values and raw keys together: one product, and one convolution over both.
        self.project_in = nn.Linear(d_model, d_model + address_dim, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(d_model + address_dim, config.conv_size))
        self.project_context = nn.Linear(d_model, config.context_dim, bias=False)
        self.context = PrefixContext(config.context_horizon)
        self.project_filter = nn.Linear(d_model, address_dim, bias=False)
        self.key = WriteKey(num_heads, bins)
        self.filter = ReadFilter(2 * config.context_dim, config.context_dim, num_heads, bins)
        self.activation = ModReLU(num_heads, bins, initial_bias=0.0, eps=EPS)
        self.clock = Clock(d_model, num_heads)
        self.transform = PrefixFourierTransform(num_heads, bins, SHORTEST_SCALE, config.longest_scale)
        self.norm_weight = nn.Parameter(torch.empty(num_heads, self.head_dim))
        self.project_gate = nn.Linear(d_model, d_model, bias=False)
        self.project_out = nn.Linear(d_model, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize matched filters and keys; the parts reset their own parameters."""
        nn.init.ones_(self.norm_weight)
        width = self.d_model
        # The filters' projection is the complex conjugate of the keys': a token reads what a token like it
        # has written (in signal processing, a matched filter).
        planes = self.project_in.weight[width:].view(self.num_heads, 2, self.num_bins, width)
        matched = torch.stack([planes[:, 0], -planes[:, 1]], dim=1)
        self.project_filter.weight.copy_(matched.reshape(-1, width))
        # Values: near the identity. Keys: the token and the previous one with about equal weight, so that the
        # value of a token is also written under the address of the token before.
        self.conv_weight[:width].uniform_(-0.5, 0.5)
        self.conv_weight[:width, -1] += 1.0
        self.conv_weight[width:].uniform_(-0.1, 0.1)
        self.conv_weight[width:, -2:] += 0.7

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> AddressedSpectralState:
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
        return AddressedSpectralState(spectrum, mean, count, conv_state)

    def inspect(self, x: Tensor) -> AddressedSpectralView:
        """Compute ``forward`` step by step, as ``SpectralMixer.inspect``, with a spectrum for every token."""
        check_input(x, self.d_model, None)
        state = self.init_state(x.shape[0], x.device)
        context, _, _ = self.context(self.project_context(x), state.mean, state.count)
        decay, frequency = self.transform()
        values_BTHd, key, filter_, _ = self._write_and_read(x, self.project_in(x), context, decay, state)
        clock_BTH = self.clock(x)
        key_BTHF = torch.complex(*key.unbind(dim=3))
        filter_BTHF = torch.complex(*filter_.unbind(dim=3))
        spectrum = keyed_spectrum(values_BTHd, key, clock_BTH, decay, frequency, state.spectrum)
        mixed = (filter_BTHF[..., None] * spectrum).real.sum(dim=3).to(values_BTHd.dtype)
        output = self._finish(x, mixed)
        return AddressedSpectralView(
            context, values_BTHd, key_BTHF, filter_BTHF, clock_BTH, spectrum, mixed, output
        )

    def filter_at(self, x: Tensor, state: AddressedSpectralState) -> Tensor:
        """Return the magnitude of the read filter at one token, as ``Mixer.filter_at``."""
        context_BC, _, _ = decode.context_step(
            self.project_context(x), state.mean, state.count, horizon=self.context.horizon
        )
        base_filter, modulation = self.filter(context_BC)
        _, magnitude_BH11F = read_filter(
            self.project_filter(x), modulation, base_filter, self.activation(), self.activation.eps
        )
        return magnitude_BH11F.flatten(2)

    def _read(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: AddressedSpectralState
    ) -> tuple[Tensor, AddressedSpectralState]:
        # Five products share this input: under autocast it is cast once instead of five times.
        x_BTD = for_products(x_BTD)
        # Step 4: the context is narrow, so its projection comes first and the running mean second.
        context_BTC, mean_BM, count_B = self.context(
            self.project_context(x_BTD), state.mean, state.count, mask_BT
        )
        decay, frequency = self.transform()
        projected_BTC = self.project_in(x_BTD)
        values, key, filter_, conv_state = self._write_and_read(
            x_BTD, projected_BTC, context_BTC, decay, state
        )
        clock_BTH = self.clock(x_BTD)
        if mask_BT is not None:
            # Padding has key 0 and time step 0, which leaves the spectrum as it is (section 3, "Padding").
            # Masks are applied here, not to x: the projections of a zero token need not be zero.
            key = key * mask_BT[..., None, None, None]
            clock_BTH = clock_BTH * mask_BT[..., None]
            conv_state = state_after(projected_BTC, state.conv_state, mask_BT.sum(dim=1))
        # Steps 3 and 6 in one operator, which stores no spectrum per token.
        mixed, spectrum = keyed_mix(values, key, filter_, clock_BTH, decay, frequency, state.spectrum)
        state = AddressedSpectralState(packed(spectrum), packed(mean_BM), count_B, packed(conv_state))
        return self._finish(x_BTD, mixed), state

    def _step(self, x_BD: Tensor, state: AddressedSpectralState) -> tuple[Tensor, AddressedSpectralState]:
        """Compute the same for one token with fewer and smaller calls, see ``fftnet.ops.decode``."""
        context_BC, mean_BM, count_B = decode.context_step(
            self.project_context(x_BD), state.mean, state.count, horizon=self.context.horizon
        )
        base_filter, modulation = self.filter(context_BC)
        decay, frequency = self.transform()
        parameters = decode.AddressedParameters(
            self.conv_weight, self.key(), base_filter, self.activation(), decay, frequency, self.norm_weight
        )
        mixed_BD, conv_state, spectrum = decode.address_step(
            self.project_in(x_BD),
            self.project_filter(x_BD),
            modulation,
            self.clock(x_BD),
            self.project_gate(x_BD),
            parameters,
            state.conv_state,
            state.spectrum,
            eps=self.activation.eps,
        )
        # Equal strides at every step, or torch.compile would compile the step again.
        if conv_state.stride() != state.conv_state.stride():
            conv_state = packed(conv_state)
        return self.project_out(mixed_BD), AddressedSpectralState(spectrum, mean_BM, count_B, conv_state)

    def _write_and_read(
        self,
        x_BTD: Tensor,
        projected_BTC: Tensor,
        context_BTC: Tensor,
        decay_HF: Tensor,
        state: AddressedSpectralState,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values (B, T, H, d), keys and filters (B, T, H, 2, F), and the new convolution state."""
        # Steps 1, 2, 4 and 5 of section 3.
        values_BTD, raw_key_BTC, conv_state = short_conv(
            projected_BTC, self.conv_weight, state.conv_state, width=self.d_model
        )
        shape = (self.num_heads, 2, self.num_bins)
        # Keys and filters as planes (2, F): the operators compute on real numbers.
        base_filter, modulation = self.filter(context_BTC)
        key, filter_ = addresses(
            raw_key_BTC.unflatten(-1, shape),
            self.project_filter(x_BTD).unflatten(-1, shape),
            modulation,
            self.key(),
            base_filter,
            self.activation(),
            gain(decay_HF),
            eps=self.activation.eps,
        )
        return values_BTD.unflatten(-1, (self.num_heads, -1)), key, filter_, conv_state

    def _finish(self, x_BTD: Tensor, mixed_BTHd: Tensor) -> Tensor:
        """Apply read-out norm, gate and output projection (step 7)."""
        gate_BTHd = self.project_gate(x_BTD).unflatten(-1, (self.num_heads, -1))
        return self.project_out(gated_norm(mixed_BTHd, gate_BTHd, self.norm_weight).flatten(2))
