"""Self-attention over the whole sequence: the baseline of encoders, and a few layers of a hybrid encoder."""

from dataclasses import dataclass

from torch import Tensor

from fftnet.fields import documented
from fftnet.model.checks import check_input
from fftnet.model.mixers.rotary_attention import RotaryAttention
from fftnet.ops import attention


@documented
@dataclass(frozen=True, kw_only=True)
class BidirectionalAttentionConfig:
    """Nothing to choose beside the heads."""


class BidirectionalAttentionMixer(RotaryAttention):
    """Queries, keys and values; rotary positions; softmax over all tokens of the row; output projection.

    Cost O(T^2 D), memory O(T D) with PyTorch's fused kernels.
    """

    Config = BidirectionalAttentionConfig

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mix (B, T, D) over T, in the dtype that came.

        Args:
            x: tokens, T >= 1.
            attention_mask: boolean (B, T), False at padding. A row's result is that of its tokens alone, zero
                at padding.

        Raises:
            ValueError: on an empty sequence, or shapes that do not belong together.
        """
        check_input(x, self.d_model, attention_mask)
        position_BT = None
        if attention_mask is not None:
            # Only tokens take up positions. Padding may hold anything: a weight of 0 times NaN would be NaN.
            position_BT = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
            x = x.masked_fill(~attention_mask[..., None], 0.0)
        q, k, v = self._project(x, position_BT)
        return self.project_out(attention.full_attention(q, k, v, attention_mask).flatten(2))
