"""What causal and bidirectional attention share: projections, rotary positions, a look at the weights."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fftnet.model.checks import check_input, head_dim
from fftnet.model.mixers.base import Mixer
from fftnet.ops import attention


class AttentionView(NamedTuple):
    """Intermediate results of the mixer."""

    values: Tensor
    """(B, T, H, d), what is read."""
    weights: Tensor
    """(B, H, T, T), the weight of every token (last) in what each token reads; of a causal mixer 0 where it
    comes later."""
    mixed: Tensor
    """(B, T, H, d), the weighted sums of the values."""
    output: Tensor
    """(B, T, D), their projection: what the mixer returns."""


class RotaryAttention(Mixer):
    """Queries, keys and values with rotary positions, and an output projection; a subclass says what is read.

    Args:
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: nothing to choose.

    Raises:
        ValueError: if the heads do not divide the width, or the width of a head is odd, since rotary
            positions turn pairs of channels.
    """

    def __init__(self, d_model: int, num_heads: int = 2, config: object = None) -> None:
        super().__init__(d_model, num_heads)
        self.head_dim = head_dim(d_model, num_heads)
        if self.head_dim % 2:
            sizes = f"d_model={d_model} and num_heads={num_heads}"
            raise ValueError(f"attention needs an even head width, got {self.head_dim} from {sizes}")
        self.project_in = nn.Linear(d_model, 3 * d_model, bias=False)
        self.project_out = nn.Linear(d_model, d_model, bias=False)

    def inspect(self, x: Tensor) -> AttentionView:
        """Compute what ``forward`` does, part by part, to look at what is in between.

        It holds a weight for every pair of tokens.

        Args:
            x: tokens (B, T, D), T >= 1, none of them padding.

        Raises:
            ValueError: on an empty sequence or another width.
        """
        check_input(x, self.d_model, None)
        q, k, v = self._project(x)
        weights_BHTT = attention.attention_weights(q, k, causal=self.causal)
        mixed_BTHd = torch.einsum("bhts,bshd->bthd", weights_BHTT, v)
        return AttentionView(v, weights_BHTT, mixed_BTHd, self.project_out(mixed_BTHd.flatten(2)))

    def _project(self, x_BTD: Tensor, position_BT: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, H, d) at these positions; None counts from 0."""
        if x_BTD.shape[1] == 0:
            raise ValueError("attention needs at least one token, got a sequence of length 0")
        if position_BT is None:
            position_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        q, k, v = self.project_in(x_BTD).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)
        return attention.rotate(q, position_BT), attention.rotate(k, position_BT), v
