"""FFTNet's causal layer with one part removed, for the ablations."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import causal_conv
from fftnet.model.components import PrefixContext, gain
from fftnet.model.mixers.addressed_spectral import (
    EPS,
    AddressedSpectralConfig,
    AddressedSpectralMixer,
    AddressedSpectralState,
)
from fftnet.ops import numerics

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
"""Parts that can be removed. "modReLU on the filter" is moved to the filtered spectrum, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class AblatedConfig(AddressedSpectralConfig):
    """Configuration of the causal layer without a part."""

    without: str = ""
    """Removed part, one of ``PARTS`` (empty: none)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.without and self.without not in PARTS:
            raise ValueError(f"without must be one of {', '.join(PARTS)}, got {self.without!r}")


class _TokenOnly(PrefixContext):
    """Context with 0 instead of the running mean."""

    def forward(
        self, x: Tensor, mean: Tensor, count: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        context, mean, count = super().forward(x, mean, count, attention_mask)
        return torch.cat([torch.zeros_like(x), context[..., x.shape[-1] :]], dim=-1), mean, count


def _fix(parameter: Tensor) -> None:
    nn.init.zeros_(parameter)
    parameter.requires_grad_(False)


class Ablated(AddressedSpectralMixer):
    """The causal layer without a part, whose parameters are fixed without effect or whose step is skipped.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: sizes, and the part to remove.

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
            # The bias acts on the spectrum instead of the filter.
            self.spectrum_bias = nn.Parameter(torch.zeros_like(self.activation.bias))
        elif self.without == "frequencies":
            _fix(self.transform.frequency)
        elif self.without == "clock":
            # Frozen at its start values, where every token takes the same time.
            for parameter in self.clock.parameters():
                parameter.requires_grad_(False)
        elif self.without == "matched start":
            # Filters drawn independently of keys, and a convolution near the identity.
            self.project_filter.reset_parameters()
            with torch.no_grad():
                self.conv_weight[d_model:].uniform_(-0.5, 0.5)
                self.conv_weight[d_model:, -1] += 1.0
        elif self.without == "convolution":
            # Only the newest token passes.
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
            # Only the learned base key is left, the same for all tokens.
            key = (gain(decay_HF)[:, None] * self.key()).expand_as(key)
        elif self.without == "norm of keys and filters":
            convolved_BTC, _ = causal_conv(projected_BTC, self.conv_weight, state.conv_state)
            key, filter_ = self._unnormalized(x_BTD, convolved_BTC, context_BTC, gain(decay_HF))
        return values, key, filter_, conv_state

    def _unnormalized(
        self, x_BTD: Tensor, convolved_BTC: Tensor, context_BTC: Tensor, scale_HF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return keys and filters as projected, without their norms."""
        shape = (self.num_heads, 2, self.num_bins)
        raw_key = convolved_BTC[..., self.d_model :].unflatten(-1, shape)
        raw_filter = self.project_filter(x_BTD).unflatten(-1, shape)
        base_filter, modulation = self.filter(context_BTC)
        key = scale_HF[:, None] * (self.key() + raw_key)
        # docs/maths.md, section 3, without the division by the norm.
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
        """Apply modReLU to every filtered bin and channel, token by token. Slow; the state is not used."""
        # The kernels never store the spectrum; the definition does.
        view = self.inspect(x_BTD)
        filtered_BTHFd = view.filter[..., None] * view.spectrum
        activated_BTHFd = numerics.modrelu(filtered_BTHFd, self.spectrum_bias[..., None], EPS)
        return self._finish(x_BTD, activated_BTHFd.real.sum(dim=3))
