"""The causal mixer with addresses: complex write keys and read filters (docs/maths.md, section 3)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.fields import MAX_COUNT, MAX_SIZE, check_fields, check_range, documented
from fftnet.model.addresses import Clock, ReadFilter, WriteKey
from fftnet.model.checks import check_input, head_dim
from fftnet.model.components import ModReLU, PrefixContext, PrefixFourierTransform, gain
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
"""Below this magnitude modReLU stops normalising a filter."""
SHORTEST_SCALE = 2.0
"""Time scale of the fastest bin at the start, in tokens."""


@documented
@dataclass(frozen=True, kw_only=True)
class AddressedSpectralConfig:
    """The causal spectral mixer with addresses.

    Raises:
        ValueError: if a field is out of range.
    """

    num_bins: int = 16
    """Frequencies a head; with them grows how many things a head can tell apart."""
    longest_scale: float = 512.0
    """Time scale of the slowest bin at the start, in tokens: about a training window, since a bin that does
    not fill up in training holds later what the model has never seen."""
    context_dim: int = 32
    """Width of the context, which is also that of the hidden layer of the modulation's MLP."""
    context_horizon: int = 256
    """Tokens after which the context's running mean forgets."""
    conv_size: int = 4
    """Tokens that the short convolution of values and keys sees; at least 2, so that a key sees the token
    before."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "num_bins", "context_dim")
        check_range(self, 1, MAX_COUNT, "context_horizon")
        check_range(self, 2, MAX_SIZE, "conv_size")
        check_range(self, SHORTEST_SCALE, MAX_COUNT, "longest_scale")


class AddressedSpectralState(NamedTuple):
    """The mixer's memory of what it has read: O(F D) numbers, however much that is."""

    spectrum: Tensor
    """(B, H, 2, F, d), real and imaginary plane of the keyed spectrum of the prefix."""
    mean: Tensor
    """(B, M), mean of the tokens read in the context's projection."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of the tokens read."""
    conv_state: Tensor
    """(B, conv_size - 1, D + 2 H F), the last projected values and keys."""

    common = ("count",)


class AddressedSpectralView(NamedTuple):
    """Intermediate results of the mixer, for every prefix."""

    context: Tensor
    """(B, T, 2 M), from which the modulation is made."""
    values: Tensor
    """(B, T, H, d), what is written."""
    key: Tensor
    """Complex (B, T, H, F), with what it is written."""
    filter: Tensor
    """Complex (B, T, H, F), with what the spectrum is read."""
    clock: Tensor
    """(B, T, H), how much time passes at each token."""
    spectrum: Tensor
    """Complex (B, T, H, F, d), the prefix transform of the keyed values."""
    mixed: Tensor
    """(B, T, H, d), the spectrum as it is read."""
    output: Tensor
    """(B, T, D), normed, gated and projected: what the mixer returns."""


class AddressedSpectralMixer(SteppingMixer):
    """Values under write keys; prefix transform; read filter made of token and context; norm and gate.

    Exactly causal. Cost O(T F D) for a text and O(F D) for one more token.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: bins, context and convolution (None: the defaults).

    Raises:
        ValueError: if the heads do not divide the width.
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
        """Start with filters that match the keys; the parts reset their own parameters.

        The filter's projection is the conjugate of the keys': a token reads what a token like it has written
        (in signal processing, a matched filter). And the keys' convolution passes this token and the one
        before alike, so that what followed a token is written under that token's address.
        """
        nn.init.ones_(self.norm_weight)
        width = self.d_model
        planes = self.project_in.weight[width:].view(self.num_heads, 2, self.num_bins, width)
        matched = torch.stack([planes[:, 0], -planes[:, 1]], dim=1)
        self.project_filter.weight.copy_(matched.reshape(-1, width))
        self.conv_weight[:width].uniform_(-0.5, 0.5)
        self.conv_weight[:width, -1] += 1.0
        self.conv_weight[width:].uniform_(-0.1, 0.1)
        self.conv_weight[width:, -2:] += 0.7

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> AddressedSpectralState:
        """The state before the first token, on a device (None: that of the weights)."""
        weight = self.project_in.weight
        device = device or device_of(weight)
        shape = (batch_size, self.num_heads, 2, self.num_bins, self.head_dim)
        dtype = compute_dtype(weight)
        spectrum = torch.zeros(shape, dtype=dtype, device=device)
        context_dim = self.project_context.out_features
        mean, count = self.context.init_state(batch_size, context_dim, dtype, device)
        past = self.conv_weight.shape[1] - 1
        conv_state = spectrum.new_zeros(batch_size, past, weight.shape[0])
        return AddressedSpectralState(spectrum, mean, count, conv_state)

    def inspect(self, x: Tensor) -> AddressedSpectralView:
        """Compute what ``forward`` does, part by part, to look at what is in between.

        It holds a spectrum for every token, 2 F times the size of ``x``.

        Args:
            x: tokens (B, T, D), T >= 1, none of them padding.

        Raises:
            ValueError: on an empty sequence or another width.
        """
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
        """Magnitude of the read filter at one token (B, D) after ``state``: (B, H, F)."""
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
        x_BTD = for_products(x_BTD)
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
            # Padding writes nothing and takes no time, so the spectrum stays that of the last token.
            key = key * mask_BT[..., None, None, None]
            clock_BTH = clock_BTH * mask_BT[..., None]
            conv_state = state_after(projected_BTC, state.conv_state, mask_BT.sum(dim=1))
        mixed, spectrum = keyed_mix(values, key, filter_, clock_BTH, decay, frequency, state.spectrum)
        state = AddressedSpectralState(packed(spectrum), packed(mean_BM), count_B, packed(conv_state))
        return self._finish(x_BTD, mixed), state

    def _step(self, x_BD: Tensor, state: AddressedSpectralState) -> tuple[Tensor, AddressedSpectralState]:
        """The same arithmetic for one token, in fewer and smaller calls; see ``fftnet.ops.decode``."""
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
        """Compute values (B, T, H, d), keys and filters (B, T, H, 2, F), and the new convolution state."""
        values_BTD, raw_key_BTC, conv_state = short_conv(
            projected_BTC, self.conv_weight, state.conv_state, width=self.d_model
        )
        shape = (self.num_heads, 2, self.num_bins)
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
        gate_BTHd = self.project_gate(x_BTD).unflatten(-1, (self.num_heads, -1))
        return self.project_out(gated_norm(mixed_BTHd, gate_BTHd, self.norm_weight).flatten(2))
