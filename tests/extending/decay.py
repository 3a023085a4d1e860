"""A causal mixer with one setting: a moving average over the past with a learned decay per channel."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.model.mixers.base import Mixer, device_of


@dataclass(frozen=True, kw_only=True)
class DecayConfig:
    """Settings of the decaying average."""

    half_life: float = 8.0
    """Initial half-life of the average, tokens."""

    def __post_init__(self) -> None:
        if self.half_life <= 0:
            raise ValueError(f"half_life must be above 0, got {self.half_life}")


class DecayState(NamedTuple):
    """State of the mixer."""

    average: Tensor
    """Average so far (B, D)."""


class DecayMixer(Mixer):
    """``y(t) = a y(t - 1) + (1 - a) x(t)``, with one learned a for each channel."""

    causal = True
    Config = DecayConfig

    def __init__(self, d_model: int, num_heads: int = 16, config: DecayConfig | None = None) -> None:
        super().__init__(d_model, num_heads)
        self.half_life = (config or DecayConfig()).half_life
        self.logit = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize every channel to the half-life of the configuration."""
        keep = 0.5 ** (1 / self.half_life)
        nn.init.constant_(self.logit, torch.logit(torch.tensor(keep)).item())

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> DecayState:
        """Return an average of 0."""
        place = device or device_of(self.logit)
        return DecayState(torch.zeros(batch_size, self.d_model, dtype=self.logit.dtype, device=place))

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: DecayState | None = None
    ) -> Tensor | tuple[Tensor, DecayState]:
        """Average (B, T, D) over the past; masked tokens are skipped."""
        keep = torch.sigmoid(self.logit)
        (average,) = state or self.init_state(x.shape[0], x.device)
        outputs = []
        for t in range(x.shape[1]):
            moved = keep * average + (1 - keep) * x[:, t]
            average = (
                moved if attention_mask is None else torch.where(attention_mask[:, t, None], moved, average)
            )
            outputs.append(average)
        y = torch.stack(outputs, dim=1).to(x.dtype)
        return y if state is None else (y, DecayState(average))
