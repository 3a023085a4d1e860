"""The prefix context from its definition: every mean summed anew, in float64, differentiable.

Memory is O(T^2): for short sequences.
"""

import torch
from torch import Tensor


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``; computed in float64 whatever comes in."""
    tokens = x.shape[1]
    if counted is None:
        counted = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    # Row t of a triangle picks the tokens up to t; what is not counted among them is dropped.
    past_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()
    weight_BTT = (past_TT & counted[:, None]).double()
    sums_BTD = weight_BTT @ x.double() + (mean.double() * count[:, None])[:, None]
    total_BT = count[:, None] + (past_TT & counted[:, None]).sum(dim=2)
    means_BTD = sums_BTD / total_BT.clamp(min=1)[..., None]
    narrow = torch.float64 if x.dtype == torch.float64 else torch.float32
    context_BTC = torch.cat([means_BTD.to(x.dtype), x], dim=-1)
    return context_BTC, means_BTD[:, -1].to(narrow), total_BT[:, -1].clone()
