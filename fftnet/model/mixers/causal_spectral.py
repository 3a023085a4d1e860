"""The causal mixer: the paper's layer on the spectrum of every prefix (docs/maths.md, section 2)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.fields import MAX_SIZE, MAX_VOCAB_SIZE, check_fields, check_range, documented
from fftnet.model.checks import check_input, head_dim
from fftnet.model.components import (
    AdaptiveSpectralFilter,
    ModReLU,
    PrefixContext,
    PrefixFourierTransform,
    PrefixInverse,
    gain,
)
from fftnet.model.mixers.base import SteppingMixer, device_of, packed
from fftnet.ops import decode, padding
from fftnet.ops.causal_mix import HeadParameters, causal_mix
from fftnet.ops.convolution import state_after
from fftnet.ops.gated_conv import causal_conv, gated_conv

EPS = 0.03
"""Below this magnitude modReLU stops normalising. There, b > 0 magnifies round-off by b / EPS; biases are
seldom above 0.2 after training."""


@documented
@dataclass(frozen=True, kw_only=True)
class CausalSpectralConfig:
    """The causal spectral mixer.

    Raises:
        ValueError: if a field is out of range.
    """

    num_bins: int = 4
    """Frequencies a head."""
    mlp_hidden_dim: int | None = None
    """Hidden width of the MLP that turns the context into the modulation (None: d_model)."""
    conv_size: int = 4
    """Tokens that the causal depth-wise convolution before the prefix transform sees; 0 leaves it out."""
    input_gate: bool = True
    """Multiply the values by a second projection before the prefix transform (v <- k * v)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "num_bins")
        check_range(self, 1, MAX_VOCAB_SIZE, "mlp_hidden_dim")
        check_range(self, 0, MAX_SIZE, "conv_size")


class CausalSpectralState(NamedTuple):
    """The mixer's memory of what it has read: O(F D) numbers, however much that is."""

    spectrum: Tensor
    """(B, F, 2, H, d), real and imaginary plane of the prefix spectrum, before the normalisation."""
    mean: Tensor
    """(B, D), mean of the tokens read."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of the tokens read."""
    conv_state: Tensor
    """(B, conv_size - 1, C), the last projected tokens, C = 2 D with the input gate."""

    common = ("count",)


class CausalSpectralView(NamedTuple):
    """Intermediate results of the mixer, for every prefix."""

    context: Tensor
    """(B, T, 2 D), from which the modulation is made."""
    values: Tensor
    """(B, T, H, d), gated and convolved: what is transformed."""
    filter: Tensor
    """Real (B, T, H, F), the adaptive filter."""
    spectrum: Tensor
    """Complex (B, T, H, F, d), the prefix transform of the values."""
    filtered: Tensor
    """Complex (B, T, H, F, d), filter times spectrum: what modReLU is given."""
    activated: Tensor
    """Complex (B, T, H, F, d), what modReLU makes of it."""
    mixed: Tensor
    """(B, T, H, d), the activated spectrum read out at the last token of its prefix."""
    output: Tensor
    """(B, T, D), its projection: what the mixer returns."""


class CausalSpectralMixer(SteppingMixer):
    """Values, gated and convolved; prefix transform; filter made of the prefix's context; modReLU; read-out.

    Exactly causal. Cost O(T F D) for a text and O(F D) for one more token.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: bins, MLP, convolution and gate (None: the defaults).

    Raises:
        ValueError: if the heads do not divide the width.
    """

    Config = CausalSpectralConfig

    def __init__(self, d_model: int, num_heads: int = 2, config: CausalSpectralConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        config = config or CausalSpectralConfig()
        self.head_dim = head_dim(d_model, num_heads)
        self.input_gate = config.input_gate
        bins = config.num_bins
        channels = 2 * d_model if config.input_gate else d_model
        self.project_in = nn.Linear(d_model, channels, bias=False)
        self.conv_weight: nn.Parameter | None = None
        if config.conv_size:
            self.conv_weight = nn.Parameter(torch.empty(channels, config.conv_size))
        self.transform = PrefixFourierTransform(num_heads, bins)
        self.context = PrefixContext()
        self.filter = AdaptiveSpectralFilter(2 * d_model, config.mlp_hidden_dim or d_model, num_heads, bins)
        self.activation = ModReLU(num_heads, bins, initial_bias=0.0, eps=EPS)
        self.inverse = PrefixInverse(num_heads, bins)
        self.project_out = nn.Linear(d_model, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start the convolution near the identity; the parts reset their own parameters."""
        if self.conv_weight is not None:
            bound = 1 / math.sqrt(self.conv_weight.shape[1])
            self.conv_weight.uniform_(-bound, bound)
            self.conv_weight[:, -1] += 1.0

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> CausalSpectralState:
        """The state before the first token, on a device (None: that of the weights)."""
        weight = self.project_in.weight
        device = device or device_of(weight)
        spectrum = self.transform.init_state(batch_size, self.head_dim, device)
        mean, count = self.context.init_state(batch_size, self.d_model, spectrum.dtype, device)
        past = 0 if self.conv_weight is None else self.conv_weight.shape[1] - 1
        return CausalSpectralState(
            spectrum, mean, count, spectrum.new_zeros(batch_size, past, weight.shape[0])
        )

    def inspect(self, x: Tensor) -> CausalSpectralView:
        """Compute what ``forward`` does, part by part, to look at what is in between.

        It holds a spectrum for every token, F times the size of ``x`` and complex.

        Args:
            x: tokens (B, T, D), T >= 1, none of them padding.

        Raises:
            ValueError: on an empty sequence or another width.
        """
        check_input(x, self.d_model, None)
        state = self.init_state(x.shape[0], x.device)
        context, _, _ = self.context(x, state.mean, state.count)
        values, _ = self._values(self.project_in(x), state.conv_state)
        values = values.unflatten(-1, (self.num_heads, self.head_dim))
        filter_ = self.filter(context)
        spectrum, _ = self.transform(values)
        filtered = filter_[..., None] * spectrum
        activated = self.activation(filtered)
        mixed = self.inverse(activated).to(values.dtype)
        output = self.project_out(mixed.flatten(2))
        return CausalSpectralView(context, values, filter_, spectrum, filtered, activated, mixed, output)

    def filter_at(self, x: Tensor, state: CausalSpectralState) -> Tensor:
        """Magnitude of the adaptive filter at one token (B, D) after ``state``: (B, H, F)."""
        context_BC, _, _ = decode.context_step(x, state.mean, state.count)
        return self.filter(context_BC).abs()

    def _read(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: CausalSpectralState
    ) -> tuple[Tensor, CausalSpectralState]:
        context_BTC, mean_BD, count_B = self.context(x_BTD, state.mean, state.count, mask_BT)
        projected_BTC = self.project_in(x_BTD)
        values_BTD, conv_state = self._values(projected_BTC, state.conv_state)
        parameters = self._head_parameters()
        filter_BTHF = self.filter(context_BTC) * gain(parameters.decay)

        def mix(values_BTD: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
            values_BTHd = values_BTD.unflatten(-1, (self.num_heads, self.head_dim))
            return causal_mix(values_BTHd, filter_BTHF, parameters, start, eps=self.activation.eps)

        mixed_BTHd, spectrum = mix(values_BTD, state.spectrum)
        if mask_BT is not None:
            # Time passes at every position, padding included. So the values are moved to the end of their
            # rows, where the last one is the newest, and what was there before ages by the tokens alone.
            read_B = mask_BT.sum(dim=1)
            conv_state = state_after(projected_BTC, state.conv_state, read_B)
            _, written = mix(_at_the_end(values_BTD, mask_BT), torch.zeros_like(state.spectrum))
            spectrum = _aged(state.spectrum, parameters, read_B) + written
        state = CausalSpectralState(packed(spectrum), packed(mean_BD), count_B, packed(conv_state))
        return self.project_out(mixed_BTHd.flatten(2)), state

    def _step(self, x_BD: Tensor, state: CausalSpectralState) -> tuple[Tensor, CausalSpectralState]:
        """The same arithmetic for one token, in fewer and smaller calls; see ``fftnet.ops.decode``."""
        if self.conv_weight is None or not self.input_gate:
            mixed_BTD, state = self._read(x_BD[:, None], None, state)
            return mixed_BTD[:, 0], state
        context_BC, values_BD, conv_state, mean_BD, count_B = decode.gate_step(
            x_BD, self.project_in(x_BD), self.conv_weight, state.conv_state, state.mean, state.count
        )
        mixed_BHd, spectrum = decode.mix_step(
            values_BD.unflatten(-1, (self.num_heads, self.head_dim)),
            self.filter(context_BC),
            self._head_parameters(),
            state.spectrum,
            eps=self.activation.eps,
        )
        if conv_state.stride() != state.conv_state.stride():
            conv_state = packed(conv_state)
        state = CausalSpectralState(spectrum, mean_BD, count_B, conv_state)
        return self.project_out(mixed_BHd.flatten(1)), state

    def _head_parameters(self) -> HeadParameters:
        decay, frequency = self.transform()
        return HeadParameters(decay, frequency, self.activation(), self.inverse())

    def _values(self, projected_BTC: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor]:
        if self.conv_weight is None:
            if not self.input_gate:
                return projected_BTC, conv_state
            key_BTD, value_BTD = projected_BTC.chunk(2, dim=-1)
            return key_BTD * value_BTD, conv_state
        if self.input_gate:
            return gated_conv(projected_BTC, self.conv_weight, conv_state)
        values_BTD, conv_state = causal_conv(projected_BTC, self.conv_weight, conv_state)
        return nn.functional.silu(values_BTD), conv_state


def _at_the_end(values_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Move the tokens of each row from its front to its end; the places before them are zero."""
    tokens = mask_BT.shape[1]
    padding_B1 = tokens - mask_BT.sum(dim=1, keepdim=True)
    place_BT = torch.arange(tokens, device=mask_BT.device) - padding_B1
    moved_BTD = padding.reorder(values_BTD, place_BT % tokens)
    return moved_BTD.masked_fill((place_BT < 0)[..., None], 0.0)


def _aged(spectrum: Tensor, parameters: HeadParameters, count_B: Tensor) -> Tensor:
    """Decay and turn a spectrum (B, F, 2, H, d) by ``count`` tokens of each row."""
    rate_FH = torch.complex(-parameters.decay, parameters.frequency).T.to(spectrum.dtype.to_complex())
    pole_BFH1 = torch.exp(count_B[:, None, None] * rate_FH)[..., None]
    aged_BFHd = torch.complex(*spectrum.unbind(dim=2)) * pole_BFH1
    return torch.stack([aged_BFHd.real, aged_BFHd.imag], dim=2)
