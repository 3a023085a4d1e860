"""The mixer with addresses, one part taken out: the arms of the ablations."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fftnet.model.components import PrefixContext, gain
from fftnet.model.mixers.addressed_spectral import (
    EPS,
    AddressedSpectralConfig,
    AddressedSpectralMixer,
    AddressedSpectralState,
)
from fftnet.ops import numerics
from fftnet.ops.gated_conv import causal_conv

PARTS = (
    "base filter",
    "base key",
    "modulation",
    "mean in the context",
    "modReLU",
    "modReLU on the filter",
    "frequencies",
    "clock",
    "write keys",
    "norm of keys and filters",
    "matched start",
    "convolution",
    "read-out norm",
    "output gate",
)
"""What is taken out. Without "modReLU on the filter" it acts on the filtered spectrum, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class AblatedConfig(AddressedSpectralConfig):
    """The mixer with addresses without a part."""

    without: str = ""
    """The part, one of ``PARTS`` (empty: nothing is taken out)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.without and self.without not in PARTS:
            raise ValueError(f"without must be one of {', '.join(PARTS)}, got {self.without!r}")


class _TokenOnly(PrefixContext):
    """The context with 0 in the place of the running mean."""

    def forward(
        self, x: Tensor, mean: Tensor, count: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        context, mean, count = super().forward(x, mean, count, attention_mask)
        return torch.cat([torch.zeros_like(x), context[..., x.shape[-1] :]], dim=-1), mean, count


def _fix(parameter: Tensor) -> None:
    nn.init.zeros_(parameter)
    parameter.requires_grad_(False)


class Ablated(AddressedSpectralMixer):
    """Parameters of the part are fixed where that takes it out; else its step is left out.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: sizes, and the part to take out.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    Config = AblatedConfig

    def __init__(self, d_model: int, num_heads: int = 2, config: AblatedConfig | None = None) -> None:
        config = config or AblatedConfig()
        super().__init__(d_model, num_heads, config)
        self.without = config.without
        if self.without == "base filter":
            _fix(self.filter.base_filter)
        elif self.without == "base key":
            _fix(self.key.base_key)
        elif self.without == "modulation":
            for parameter in self.filter.modulation.parameters():
                _fix(parameter)
            _fix(self.project_context.weight)
        elif self.without == "mean in the context":
            self.context = _TokenOnly(config.context_horizon)
        elif self.without == "modReLU":
            _fix(self.activation.bias)
        elif self.without == "modReLU on the filter":
            _fix(self.activation.bias)
            self.spectrum_bias = nn.Parameter(torch.zeros_like(self.activation.bias))
        elif self.without == "frequencies":
            _fix(self.transform.frequency)
        elif self.without == "clock":
            for parameter in self.clock.parameters():
                parameter.requires_grad_(False)
        elif self.without == "matched start":
            self.project_filter.reset_parameters()
            with torch.no_grad():
                self.conv_weight[d_model:].uniform_(-0.5, 0.5)
                self.conv_weight[d_model:, -1] += 1.0
        elif self.without == "convolution":
            _fix(self.conv_weight)
            with torch.no_grad():
                self.conv_weight[:, -1] = 1.0
        elif self.without == "output gate":
            _fix(self.project_gate.weight)

    def _write_and_read(
        self,
        x_BTD: Tensor,
        projected_BTC: Tensor,
        context_BTC: Tensor,
        decay_HF: Tensor,
        state: AddressedSpectralState,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values, key, filter_, conv_state = super()._write_and_read(
            x_BTD, projected_BTC, context_BTC, decay_HF, state
        )
        if self.without == "write keys":
            key = (gain(decay_HF)[:, None] * self.key()).expand_as(key)
        elif self.without == "norm of keys and filters":
            convolved_BTC, _ = causal_conv(projected_BTC, self.conv_weight, state.conv_state)
            key, filter_ = self._unnormalised(x_BTD, convolved_BTC, context_BTC, gain(decay_HF))
        return values, key, filter_, conv_state

    def _unnormalised(
        self, x_BTD: Tensor, convolved_BTC: Tensor, context_BTC: Tensor, scale_HF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys and filters of the size that the projections give them."""
        shape = (self.num_heads, 2, self.num_bins)
        raw_key = convolved_BTC[..., self.d_model :].unflatten(-1, shape)
        raw_filter = self.project_filter(x_BTD).unflatten(-1, shape)
        base_filter, modulation = self.filter(context_BTC)
        key = scale_HF[:, None] * (self.key() + raw_key)
        planes = base_filter + torch.tanh(modulation) + raw_filter
        filter_ = numerics.modrelu(torch.complex(*planes.unbind(dim=3)), self.activation(), EPS)
        return key, torch.stack([filter_.real, filter_.imag], dim=3)

    def _finish(self, x_BTD: Tensor, mixed_BTHd: Tensor) -> Tensor:
        if self.without != "read-out norm":
            return super()._finish(x_BTD, mixed_BTHd)
        gate_BTD = torch.sigmoid(self.project_gate(x_BTD))
        return self.project_out((mixed_BTHd * self.norm_weight).flatten(2) * gate_BTD)

    def _read(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: AddressedSpectralState
    ) -> tuple[Tensor, AddressedSpectralState]:
        if self.without != "modReLU on the filter":
            return super()._read(x_BTD, mask_BT, state)
        return self._read_spectrum(x_BTD), state

    def _read_spectrum(self, x_BTD: Tensor) -> Tensor:
        """modReLU on every filtered bin and channel, token by token: slow, and only from the beginning."""
        view = self.inspect(x_BTD)
        filtered_BTHFd = view.filter[..., None] * view.spectrum
        activated_BTHFd = numerics.modrelu(filtered_BTHFd, self.spectrum_bias[..., None], EPS)
        return self._finish(x_BTD, activated_BTHFd.real.sum(dim=3))
