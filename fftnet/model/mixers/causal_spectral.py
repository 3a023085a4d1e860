"""FFTNet without keys: the paper's layer on the spectrum of every prefix (docs/maths.md, section 2)."""

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
from fftnet.ops.convolution import causal_conv, state_after
from fftnet.ops.gated_conv import gated_conv

EPS = 0.03
"""Magnitude below which modReLU no longer normalizes. There a bias b > 0 amplifies round-off by b / EPS;
trained biases rarely exceed 0.2."""


@documented
@dataclass(frozen=True, kw_only=True)
class CausalSpectralConfig:
    """Configuration of the mixer of FFTNet without keys."""

    num_bins: int = 4
    """Number of frequencies per head."""
    mlp_hidden_dim: int | None = None
    """Hidden width of the MLP that maps the context to the modulation (None: d_model)."""
    conv_size: int = 4
    """Width of the causal depth-wise convolution before the transform, in tokens (0: no convolution)."""
    input_gate: bool = True
    """Multiply the values by a second projection before the prefix transform (v <- k * v)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "num_bins")
        check_range(self, 1, MAX_VOCAB_SIZE, "mlp_hidden_dim")
        check_range(self, 0, MAX_SIZE, "conv_size")


class CausalSpectralState(NamedTuple):
    """State of the mixer: O(F D) numbers, independent of the number of tokens read.

    Floating tensors are float32 (float64 in a model of float64), also in models of 16 bits.
    """

    spectrum: Tensor
    """(B, F, 2, H, d), real and imaginary plane of the prefix spectrum, without the normalization g."""
    mean: Tensor
    """(B, D), mean of the tokens read."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """int64 (B,), number of tokens read."""
    conv_state: Tensor
    """(B, conv_size - 1, C), the last projected tokens; C = 2 D with the input gate, else D."""

    common = ("count",)


class CausalSpectralView(NamedTuple):
    """Intermediate results of the mixer for every prefix."""

    context: Tensor
    """(B, T, 2 D), running mean and token."""
    values: Tensor
    """(B, T, H, d), gated and convolved values."""
    filter: Tensor
    """Real (B, T, H, F), adaptive filter."""
    spectrum: Tensor
    """Complex (B, T, H, F, d), prefix transform of the values."""
    filtered: Tensor
    """Complex (B, T, H, F, d), filter times spectrum."""
    activated: Tensor
    """Complex (B, T, H, F, d), modReLU of the filtered spectrum."""
    mixed: Tensor
    """(B, T, H, d), read-out of the activated spectrum at the last token of each prefix."""
    output: Tensor
    """(B, T, D), output of the mixer: the projection of ``mixed``."""


class CausalSpectralMixer(SteppingMixer):
    """Gated and convolved values, prefix transform, filter made of the prefix's context, modReLU, read-out.

    Exactly causal. Cost O(T F D) for a text and O(F D) for a decode step.
    """

    Config = CausalSpectralConfig

    def __init__(self, d_model: int, num_heads: int = 2, config: CausalSpectralConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        config = config or CausalSpectralConfig()
        self.head_dim = head_dim(d_model, num_heads)
        self.input_gate = config.input_gate
        bins = config.num_bins
        # With the gate the projection gives k and v; without it, v only.
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
        """Initialize the convolution near the identity; the parts reset their own parameters."""
        if self.conv_weight is not None:
            bound = 1 / math.sqrt(self.conv_weight.shape[1])
            self.conv_weight.uniform_(-bound, bound)
            self.conv_weight[:, -1] += 1.0

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> CausalSpectralState:
        """Return the state before the first token, on a device (None: that of the weights)."""
        weight = self.project_in.weight
        device = device or device_of(weight)
        spectrum = self.transform.init_state(batch_size, self.head_dim, device)
        mean, count = self.context.init_state(batch_size, self.d_model, spectrum.dtype, device)
        past = 0 if self.conv_weight is None else self.conv_weight.shape[1] - 1
        conv_state = spectrum.new_zeros(batch_size, past, weight.shape[0])
        return CausalSpectralState(spectrum, mean, count, conv_state)

    def inspect(self, x: Tensor) -> CausalSpectralView:
        """Compute ``forward`` step by step, as ``SpectralMixer.inspect``, with a spectrum for every token."""
        check_input(x, self.d_model, None)
        state = self.init_state(x.shape[0], x.device)
        # Steps 1 to 5 of docs/maths.md, section 2.
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
        """Return the magnitude of the adaptive filter at one token, as ``Mixer.filter_at``."""
        context_BC, _, _ = decode.context_step(x, state.mean, state.count)
        return self.filter(context_BC).abs()

    def _read(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: CausalSpectralState
    ) -> tuple[Tensor, CausalSpectralState]:
        # Steps 2 and 3: c_t from the running mean and the token, W(t) = W_base + tanh(MLP(c_t)).
        context_BTC, mean_BD, count_B = self.context(x_BTD, state.mean, state.count, mask_BT)
        projected_BTC = self.project_in(x_BTD)
        values_BTD, conv_state = self._values(projected_BTC, state.conv_state)
        parameters = self._head_parameters()
        # The spectrum is kept without g; scaling the real filter by g gives the same product W Z.
        filter_BTHF = self.filter(context_BTC) * gain(parameters.decay)

        def mix(values_BTD: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
            values_BTHd = values_BTD.unflatten(-1, (self.num_heads, self.head_dim))
            return causal_mix(values_BTHd, filter_BTHF, parameters, start, eps=self.activation.eps)

        # Steps 1, 4 and 5 in one operator, which stores no spectrum per token.
        mixed_BTHd, spectrum = mix(values_BTD, state.spectrum)
        if mask_BT is not None:
            # The operator lets the spectrum decay at every position, also at padding. So the new spectrum is
            # computed in two parts: the values, moved to the end of their rows so that no padding follows
            # them, and the old spectrum after as many steps as the row has tokens.
            read_B = mask_BT.sum(dim=1)
            conv_state = state_after(projected_BTC, state.conv_state, read_B)
            _, written = mix(_at_the_end(values_BTD, mask_BT), torch.zeros_like(state.spectrum))
            spectrum = _decayed(state.spectrum, parameters, read_B) + written
        state = CausalSpectralState(packed(spectrum), packed(mean_BD), count_B, packed(conv_state))
        return self.project_out(mixed_BTHd.flatten(2)), state

    def _step(self, x_BD: Tensor, state: CausalSpectralState) -> tuple[Tensor, CausalSpectralState]:
        """Compute the same for one token with fewer and smaller calls, see ``fftnet.ops.decode``."""
        # The fused step exists for the default form only; other forms read one token as a text.
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
        # Equal strides at every step, or torch.compile would compile the step again.
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
            # v <- k * v without convolution.
            key_BTD, value_BTD = projected_BTC.chunk(2, dim=-1)
            return key_BTD * value_BTD, conv_state
        if self.input_gate:
            return gated_conv(projected_BTC, self.conv_weight, conv_state)
        values_BTD, conv_state = causal_conv(projected_BTC, self.conv_weight, conv_state)
        return nn.functional.silu(values_BTD), conv_state


def _at_the_end(values_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Move the tokens of each row from its front to its end, behind zeros."""
    tokens = mask_BT.shape[1]
    padding_B1 = tokens - mask_BT.sum(dim=1, keepdim=True)
    # Position t of the result is token t - padding of the row; negative ones are the zeros in front.
    source_BT = torch.arange(tokens, device=mask_BT.device) - padding_B1
    moved_BTD = padding.reorder(values_BTD, source_BT % tokens)
    return moved_BTD.masked_fill((source_BT < 0)[..., None], 0.0)


def _decayed(spectrum: Tensor, parameters: HeadParameters, count_B: Tensor) -> Tensor:
    """Multiply a spectrum (B, F, 2, H, d) by lambda^count, count being each row's number of tokens."""
    # Section 2, "It is a recurrence": Z(t_0 + n) without new tokens is lambda^n Z(t_0).
    rate_FH = torch.complex(-parameters.decay, parameters.frequency).T.to(spectrum.dtype.to_complex())
    factor_BFH1 = torch.exp(count_B[:, None, None] * rate_FH)[..., None]
    decayed_BFHd = torch.complex(*spectrum.unbind(dim=2)) * factor_BFH1
    return torch.stack([decayed_BFHd.real, decayed_BFHd.imag], dim=2)
