"""The causal mixer: the paper's layer on the spectrum of every prefix (docs/maths.md, section 2)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.model.components import (
    AdaptiveSpectralFilter,
    ModReLU,
    PrefixContext,
    PrefixFourierTransform,
    PrefixInverse,
)
from fftnet.model.config import MixerConfig
from fftnet.ops import decode
from fftnet.ops.causal_mix import HeadParameters, causal_mix
from fftnet.ops.gated_conv import causal_conv, gated_conv

FLOOR = 0.03
"""Below this magnitude modReLU stops normalising. There, b > 0 magnifies round-off by b / FLOOR; biases are
seldom above 0.2 after training."""


class CausalSpectralState(NamedTuple):
    """What the mixer remembers: O(F D) numbers, however much was read."""

    spectrum_BF2Hd: Tensor
    """Real and imaginary plane of the prefix spectrum, before the normalisation."""
    context: tuple[Tensor, Tensor]
    """Mean (B, D) and int64 number (B,) of the tokens read."""
    recent_BPC: Tensor
    """The last conv_width - 1 projected tokens."""


class CausalSpectralMixer(nn.Module):
    """Values, gated and convolved; prefix transform; filter made of the prefix's context; modReLU; read-out.

    Exactly causal. Cost O(T F D) for a text and O(F D) for one more token.
    """

    causal = True

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        width, heads, bins = config.d_model, config.num_heads, config.num_bins or 4
        self.num_heads, self.input_gate = heads, config.input_gate
        channels = 2 * width if config.input_gate else width
        self.project_in = nn.Linear(width, channels, bias=False)
        if config.conv_width:
            bound = 1 / math.sqrt(config.conv_width)
            taps_CW = torch.empty(channels, config.conv_width).uniform_(-bound, bound)
            taps_CW[:, -1] += 1.0
            self.taps_CW = nn.Parameter(taps_CW)
        else:
            self.register_parameter("taps_CW", None)
        self.transform = PrefixFourierTransform(heads, bins)
        self.context = PrefixContext()
        self.filter = AdaptiveSpectralFilter(2 * width, config.hidden_dim, heads, bins)
        self.activation = ModReLU(heads, bins, initial_bias=0.0, floor=FLOOR)
        self.inverse = PrefixInverse(heads, bins)
        self.project_out = nn.Linear(width, width, bias=False)

    def init_state(self, batch_size: int) -> CausalSpectralState:
        """The state before the first token, on the device of the weights."""
        width, weight = self.project_out.in_features, self.project_in.weight
        spectrum = self.transform.init_state(batch_size, width // self.num_heads)
        past = 0 if self.taps_CW is None else self.taps_CW.shape[1] - 1
        recent = spectrum.new_zeros(batch_size, past, weight.shape[0])
        return CausalSpectralState(spectrum, self.context.init_state(batch_size, width, weight), recent)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Mix (B, T, D) causally; see :meth:`prefill`."""
        return self.prefill(x_BTD, self.init_state(x_BTD.shape[0]), mask_BT)[0]

    def prefill(
        self, x_BTD: Tensor, state: CausalSpectralState, mask_BT: Tensor | None = None
    ) -> tuple[Tensor, CausalSpectralState]:
        """Mix T tokens that follow what ``state`` has read.

        Args:
            x_BTD: tokens, T >= 1.
            state: from :meth:`init_state` or an earlier call.
            mask_BT: boolean; a False token writes nothing into the state. Padding before the first token
                or after the last one changes nothing; between two tokens, time passes.

        Returns:
            Mixed tokens (B, T, D) in the dtype that came, and the new state.

        Raises:
            ValueError: on an empty sequence.
        """
        context_BTC, context = self.context(x_BTD, state.context, mask_BT)
        projected_BTC = self.project_in(x_BTD)
        if mask_BT is not None:
            projected_BTC = projected_BTC * mask_BT[..., None]
        values_BTD, recent = self._values(projected_BTC, state.recent_BPC)
        if mask_BT is not None:
            values_BTD = values_BTD * mask_BT[..., None]
        v_BTHd = values_BTD.unflatten(-1, (self.num_heads, -1))
        mixed_BTHd, spectrum = causal_mix(
            v_BTHd,
            self.filter(context_BTC) * self.transform.gain(),
            self._head_parameters(),
            state.spectrum_BF2Hd,
            eps=self.activation.floor,
        )
        return self.project_out(mixed_BTHd.flatten(2)), CausalSpectralState(spectrum, context, recent)

    def step(self, x_BD: Tensor, state: CausalSpectralState) -> tuple[Tensor, CausalSpectralState]:
        """Mix one token (B, D): the same arithmetic at T = 1."""
        if self.taps_CW is None or not self.input_gate:
            mixed_BTD, state = self.prefill(x_BD[:, None], state)
            return mixed_BTD[:, 0], state
        context_BC, values_BD, recent, *context = decode.gate_step(
            x_BD, self.project_in(x_BD), self.taps_CW, state.recent_BPC, *state.context
        )
        mixed_BHd, spectrum = decode.mix_step(
            values_BD.unflatten(-1, (self.num_heads, -1)),
            self.filter(context_BC),
            self._head_parameters(),
            state.spectrum_BF2Hd,
            eps=self.activation.floor,
        )
        return self.project_out(mixed_BHd.flatten(1)), CausalSpectralState(
            spectrum, (context[0], context[1]), recent
        )

    def _head_parameters(self) -> HeadParameters:
        return HeadParameters(
            self.transform.decay(),
            self.transform.frequency_HF,
            self.activation.bias_HK,
            self.inverse.mixing_HF2,
        )

    def _values(self, projected_BTC: Tensor, recent_BPC: Tensor) -> tuple[Tensor, Tensor]:
        if self.taps_CW is None:
            if not self.input_gate:
                return projected_BTC, recent_BPC
            key_BTD, value_BTD = projected_BTC.chunk(2, dim=-1)
            return key_BTD * value_BTD, recent_BPC
        if self.input_gate:
            return gated_conv(projected_BTC, self.taps_CW, recent_BPC)
        values_BTD, recent_BPC = causal_conv(projected_BTC, self.taps_CW, recent_BPC)
        return nn.functional.silu(values_BTD), recent_BPC
