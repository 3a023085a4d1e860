"""The residual block: norm, mixer, residual; norm, feed-forward, residual."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.model.components import RMSNorm
from fftnet.model.mixers import build_mixer


class FeedForward(nn.Module):
    """Position-wise feed-forward: ``contract(gelu(expand(norm(x))))``."""

    def __init__(self, d_model: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.expand = nn.Linear(d_model, hidden_dim)
        self.contract = nn.Linear(hidden_dim, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., D) to the same shape."""
        return self.contract(F.gelu(self.expand(self.norm(x))))


class FFTNetLayer(nn.Module):
    """``x + dropout(mixer(norm(x)))``, then ``x + dropout(ffn(norm(x)))`` unless ``ffn_dim`` is 0.

    Args:
        d_model: width D of a token.
        mixer: a name in ``fftnet.model.mixers.MIXERS``, or a module like ``fftnet.model.mixers.base.Mixer``.
        num_heads: H of a mixer that is given by name.
        mixer_config: its configuration, or a dictionary of its fields (None: the defaults).
        ffn_dim: hidden width of the feed-forward (None: 4 * d_model; 0: no feed-forward).
        dropout: probability of dropping a value in a residual branch.

    Raises:
        ValueError: if the mixer is unknown, does not fit the sizes, or is a module given with a
            configuration.
    """

    def __init__(
        self,
        d_model: int,
        mixer: nn.Module | str = "addressed_spectral",
        *,
        num_heads: int = 2,
        mixer_config: Any = None,
        ffn_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mixer_config is not None and not isinstance(mixer, str):
            raise ValueError("mixer_config can be given only with a mixer name, not with a mixer instance")
        self.mixer_norm = RMSNorm(d_model)
        self.mixer: Any = mixer
        if isinstance(mixer, str):
            self.mixer = build_mixer(mixer, d_model, num_heads, mixer_config)
        self.dropout = nn.Dropout(dropout)
        hidden_dim = 4 * d_model if ffn_dim is None else ffn_dim
        self.feed_forward = FeedForward(d_model, hidden_dim) if hidden_dim else None

    @property
    def causal(self) -> bool:
        """True if no position sees a later one."""
        return bool(getattr(self.mixer, "causal", False))

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Any:
        """Return the mixer's state before the first token, on a device (None: that of the weights)."""
        return self.mixer.init_state(batch_size, device)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Apply the block to T tokens (B, T, D); with a state, to tokens that follow those of the state.

        Returns a tensor of the shape of ``x``; with a state, the pair of it and the new state. With a state,
        ``x`` may be one token (B, D). ``attention_mask`` is boolean (B, T), False at padding.
        """
        # A decode step comes as (B, D). Mixers without a form for one token get (B, 1, D).
        normed = self.mixer_norm(x)
        if state is None:
            return self._finish(x, self.mixer(normed, attention_mask))
        if x.ndim == 2 and not getattr(self.mixer, "reads_one_token", False):
            mixed, state = self.mixer(normed[:, None], attention_mask, state)
            return self._finish(x, mixed[:, 0]), state
        mixed, state = self.mixer(normed, attention_mask, state)
        return self._finish(x, mixed), state

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self._drop(mixed)
        return x if self.feed_forward is None else x + self._drop(self.feed_forward(x))

    def _drop(self, x: Tensor) -> Tensor:
        # Every call costs time at a decode step, so dropout is not called in evaluation mode.
        return self.dropout(x) if self.dropout.training else x
