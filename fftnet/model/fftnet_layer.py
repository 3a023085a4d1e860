"""The residual block: norm, mixer, residual; norm, feed-forward, residual."""

from typing import Any

from torch import Tensor, nn

from fftnet.model.components import NORM_EPS
from fftnet.model.config import FFTNetConfig
from fftnet.model.mixers import build_mixer


class FFTNetLayer(nn.Module):
    """``x + dropout(mixer(norm(x)))``, then ``x + dropout(ffn(norm(x)))`` unless ``ffn_dim`` is 0.

    Args:
        config: width, feed-forward, dropout and whatever the mixer takes from it.
        mixer: a name in :data:`fftnet.model.mixers.MIXERS`.

    Raises:
        ValueError: if there is no mixer of that name.
    """

    def __init__(self, config: FFTNetConfig, mixer: str) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.d_model, NORM_EPS)
        self.mixer = build_mixer(mixer, config)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = None
        if config.feed_forward_dim:
            self.feed_forward = nn.Sequential(
                nn.RMSNorm(config.d_model, NORM_EPS),
                nn.Linear(config.d_model, config.feed_forward_dim),
                nn.GELU(),
                nn.Linear(config.feed_forward_dim, config.d_model),
            )

    @property
    def causal(self) -> bool:
        """Whether no position sees a later one."""
        return self.mixer.causal

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D); False in the boolean ``mask_BT`` marks padding."""
        return self._finish(x_BTD, self.mixer(self.mixer_norm(x_BTD), mask_BT))

    def init_state(self, batch_size: int) -> Any:
        """The mixer's state before the first token."""
        return self.mixer.init_state(batch_size)

    def prefill(self, x_BTD: Tensor, state: Any, mask_BT: Tensor | None = None) -> tuple[Tensor, Any]:
        """The block on T tokens that follow what ``state`` has read."""
        mixed_BTD, state = self.mixer.prefill(self.mixer_norm(x_BTD), state, mask_BT)
        return self._finish(x_BTD, mixed_BTD), state

    def step(self, x_BD: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The block on one token."""
        mixed_BD, state = self.mixer.step(self.mixer_norm(x_BD), state)
        return self._finish(x_BD, mixed_BD), state

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(mixed)
        if self.feed_forward is None:
            return x
        return x + self.dropout(self.feed_forward(x))
