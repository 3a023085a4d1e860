"""The residual block: norm, mixer, residual; norm, feed-forward, residual."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.model.components import RMSNorm
from fftnet.model.mixers import build_mixer


class FeedForward(nn.Module):
    """Position-wise: ``contract(gelu(expand(norm(x))))``.

    Args:
        d_model: width D of a token.
        hidden_dim: width in between.
    """

    def __init__(self, d_model: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model)
        self.expand = nn.Linear(d_model, hidden_dim)
        self.contract = nn.Linear(hidden_dim, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to the same shape."""
        return self.contract(F.gelu(self.expand(self.norm(x))))


class FFTNetLayer(nn.Module):
    """``x + dropout(mixer(norm(x)))``, then ``x + dropout(ffn(norm(x)))`` unless ``ffn_dim`` is 0.

    Args:
        d_model: width D of a token.
        mixer: a name in ``fftnet.model.mixers.MIXERS``, or a module that maps
            ``(x, attention_mask)`` to mixed tokens and, to carry a state, ``(x, attention_mask, state)`` to
            mixed tokens and a new state; see ``fftnet.model.mixers.base.Mixer``.
        num_heads: H of a mixer that is made by name.
        mixer_config: its configuration, or a dictionary of its fields (None: the defaults).
        ffn_dim: hidden width of the feed-forward (None: 4 * d_model; 0: none).
        dropout: probability of dropping a value in a residual branch.

    Raises:
        ValueError: if there is no mixer of that name, it can't have these sizes, or a finished mixer comes
            with a configuration.
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
            raise ValueError("mixer_config belongs to a mixer that is named; this one is made already")
        self.mixer_norm = RMSNorm(d_model)
        self.mixer: Any = mixer
        if isinstance(mixer, str):
            self.mixer = build_mixer(mixer, d_model, num_heads, mixer_config)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = None
        hidden_dim = 4 * d_model if ffn_dim is None else ffn_dim
        if hidden_dim:
            self.feed_forward = FeedForward(d_model, hidden_dim)

    @property
    def causal(self) -> bool:
        """Whether no position sees a later one."""
        return bool(getattr(self.mixer, "causal", False))

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Any:
        """The mixer's state before the first token, on a device (None: that of the weights)."""
        return self.mixer.init_state(batch_size, device)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None = None, state: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        """The block on T tokens; with a state, on tokens that follow what it has read.

        Args:
            x: (B, T, D); with a state also one token (B, D).
            attention_mask: boolean (B, T), False at padding.
            state: from ``init_state`` or an earlier call; None starts a text.

        Returns:
            A tensor of the shape of ``x``; with a state the pair of these and the new state.
        """
        if state is None:
            return self._finish(x, self.mixer(self.mixer_norm(x), attention_mask))
        normed = self.mixer_norm(x)
        if x.ndim == 2 and not getattr(self.mixer, "reads_one_token", False):
            mixed, state = self.mixer(normed[:, None], attention_mask, state)
            return self._finish(x, mixed[:, 0]), state
        mixed, state = self.mixer(normed, attention_mask, state)
        return self._finish(x, mixed), state

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self._drop(mixed)
        if self.feed_forward is None:
            return x
        return x + self._drop(self.feed_forward(x))

    def _drop(self, x: Tensor) -> Tensor:
        # A decode step feels every call, so one that would change nothing is left out.
        return self.dropout(x) if self.dropout.training else x
