"""Recurrent layers of other projects, from Transformers (extra ``hf``): same state, quality only.

Transformers computes them with plain PyTorch operations on a CPU, so their speed says nothing. Linear layers
start as PyTorch's do, all other parameters as published. A new peer is one class and one line in a table.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from experiments.baselines.short_conv import check_rows
from fftnet.data.errors import import_extra
from fftnet.model.mixers.base import Mixer

CHUNK = 64
"""Tokens of a chunk that Transformers computes at once."""
KEY_DIM = 32
"""Numbers of state per channel of the model, as FFTNet's causal layer has by default."""


@dataclass(frozen=True, kw_only=True)
class PeerConfig:
    """Configuration of a peer: everything follows from the width of the model."""


class PeerState(NamedTuple):
    """Placeholder with the size of the recurrent state: no experiment continues a text with a peer."""

    memory: Tensor
    """(B, numbers of the state without its convolution)."""


class Peer(Mixer):
    """Mixer around a layer of Transformers. It reads whole texts only.

    Args:
        d_model: width D of a token, a multiple of 64.
        num_heads: not used; the heads follow from the width.
        config: nothing to choose.

    Raises:
        ValueError: if the width has no equal state, or Transformers is not installed.
    """

    causal = True
    Config = PeerConfig
    family: ClassVar[str]
    """Family of models in Transformers that has the layer."""

    def __init__(self, d_model: int, num_heads: int = 1, config: PeerConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        if d_model % 64:
            raise ValueError(f"peers need a width that is a multiple of 64, got {d_model}")
        module = f"transformers.models.{self.family}.modeling_{self.family}"
        self.layer = self._layer(import_extra(module, type(self).__name__, "hf"))

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> PeerState:
        """Return the placeholder, which ``forward`` refuses."""
        return PeerState(torch.zeros(batch_size, self._state_numbers(), device=device))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, state: object = None) -> Tensor:
        """Mix tokens (B, T, D) causally.

        Raises:
            ValueError: on a state, another shape, or padding that is not at the end of a row.
        """
        if state is not None:
            raise ValueError("peers carry no state here: read the whole text at once")
        check_rows(x, self.d_model, attention_mask)
        return self._mix(x)

    def _layer(self, modeling: Any) -> nn.Module:
        """Return the layer from its module in Transformers."""
        raise NotImplementedError

    def _mix(self, x_BTD: Tensor) -> Tensor:
        return self.layer(x_BTD)

    def _state_numbers(self) -> int:
        return KEY_DIM * self.d_model


@torch.no_grad()
def _start_steps(bias: Tensor) -> None:
    """Draw steps that are uniform in the logarithm, as published, and set the bias of their softplus."""
    step = bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
    bias.copy_(step + torch.log(-torch.expm1(-step)))


class Mamba2(Peer):
    """Mamba-2 (arXiv 2405.21060): values twice as wide as the model, states of 16, heads of 64."""

    family = "mamba2"

    def _layer(self, modeling: Any) -> nn.Module:
        config = modeling.Mamba2Config(
            hidden_size=self.d_model,
            expand=2,
            head_dim=64,
            num_heads=self.d_model // 32,
            state_size=KEY_DIM // 2,
            n_groups=1,
            num_hidden_layers=1,
            chunk_size=CHUNK,
            use_bias=False,
        )
        return modeling.Mamba2Mixer(config, 0)


class GatedDeltaNet(Peer):
    """Gated DeltaNet (arXiv 2412.06464) as in Qwen3-Next: keys of 32, two heads."""

    family = "qwen3_next"

    def _layer(self, modeling: Any) -> nn.Module:
        config = modeling.Qwen3NextConfig(
            hidden_size=self.d_model,
            linear_num_value_heads=2,
            linear_num_key_heads=2,
            linear_key_head_dim=KEY_DIM,
            linear_value_head_dim=self.d_model // 2,
            num_hidden_layers=1,
            layer_types=["linear_attention"],
        )
        layer = modeling.Qwen3NextGatedDeltaNet(config, 0)
        # Qwen3-Next starts with steps of 1.3, which forget everything from one token to the next.
        _start_steps(layer.dt_bias)
        return layer


class KimiDelta(Peer):
    """Kimi Delta Attention (arXiv 2510.26692): a decay for each channel of the keys; heads of 32."""

    family = "kimi_linear"

    def _layer(self, modeling: Any) -> nn.Module:
        config = modeling.KimiLinearConfig(
            hidden_size=self.d_model,
            linear_head_dim=KEY_DIM,
            linear_num_heads=self.d_model // KEY_DIM,
            num_hidden_layers=1,
            layer_types=["linear_attention"],
        )
        layer = modeling.KimiLinearDeltaAttention(config, 0)
        with torch.no_grad():
            # As published: the rates are uniform in [1, 16].
            layer.forget_gate.A_log.uniform_(1.0, 16.0).log_()
            _start_steps(layer.forget_gate.dt_bias)
        return layer

    def _mix(self, x_BTD: Tensor) -> Tensor:
        # Transformers makes (chunk, chunk, key) numbers for every chunk: short ones are four times as fast.
        return self.layer(x_BTD, chunk_size=16)


class XLSTM(Peer):
    """The mLSTM layer of xLSTM 7B (arXiv 2503.13427): keys half as wide as values, heads of 64."""

    family = "xlstm"

    def _layer(self, modeling: Any) -> nn.Module:
        config = modeling.xLSTMConfig(
            hidden_size=self.d_model,
            num_heads=self.d_model // 64,
            num_hidden_layers=1,
            chunk_size=CHUNK,
            mode="train",
            return_last_states=True,
        )
        layer = modeling.xLSTMLayer(config)
        with torch.no_grad():
            # As published: gates see the bias only at the start; inputs enter slowly, forgetting is rare.
            for gate in (layer.igate_preact, layer.fgate_preact):
                gate.weight.zero_()
            layer.igate_preact.bias.fill_(-10.0)
            layer.fgate_preact.bias.copy_(torch.linspace(3.0, 6.0, layer.fgate_preact.out_features))
        return layer

    def _mix(self, x_BTD: Tensor) -> Tensor:
        # The chunk form takes whole chunks. Padding comes last, so no token sees it.
        tokens = x_BTD.shape[1]
        padded_BTD = nn.functional.pad(x_BTD, (0, 0, 0, -tokens % CHUNK))
        return self.layer(padded_BTD)[0][:, :tokens]


class RGLRU(Peer):
    """The recurrent block of RecurrentGemma (arXiv 2402.19427): a state of one number per channel."""

    family = "recurrent_gemma"

    def _layer(self, modeling: Any) -> nn.Module:
        config = modeling.RecurrentGemmaConfig(
            hidden_size=self.d_model, lru_width=self.d_model, num_attention_heads=4, num_hidden_layers=1
        )
        layer = modeling.RecurrentGemmaRecurrentBlock(config, 0)
        with torch.no_grad():
            unit = layer.rg_lru
            for weight in (unit.input_gate_weight, unit.recurrent_gate_weight):
                weight.normal_(std=1 / math.sqrt(unit.block_width))
            unit.input_gate_bias.zero_()
            unit.recurrent_gate_bias.zero_()
            # Decays are uniform between 0.9 and 0.999, as published.
            decay = torch.empty_like(unit.recurrent_param).uniform_(0.9**2, 0.999**2)
            unit.recurrent_param.copy_(torch.log(torch.expm1(-0.5 * decay.log())))
        return layer

    def _mix(self, x_BTD: Tensor) -> Tensor:
        position_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        return self.layer(x_BTD, position_1T, None, use_cache=False)[0]

    def _state_numbers(self) -> int:
        return self.d_model


PEERS: dict[str, type[Mixer]] = {
    "mamba2": Mamba2,
    "gated_delta_net": GatedDeltaNet,
    "kimi_delta": KimiDelta,
    "xlstm": XLSTM,
    "rg_lru": RGLRU,
}
"""Name to mixer."""
