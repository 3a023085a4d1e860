"""The prefix context from its definition: one mean after the other, in float64, differentiable."""

import torch
from torch import Tensor

from fftnet.ops.numerics import compute_dtype


def prefix_context(
    x: Tensor, mean: Tensor, count: Tensor, counted: Tensor | None, horizon: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.prefix_context.prefix_context``."""
    if counted is None:
        counted = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    # Section 3, step 4: a token enters with the weight 1 / min(n, horizon).
    mean_BD = mean.double()
    means = []
    for t in range(x.shape[1]):
        count = count + counted[:, t]
        size_B = count.clamp(min=1, max=horizon)
        moved_BD = mean_BD + (x[:, t].double() - mean_BD) / size_B[:, None]
        mean_BD = torch.where(counted[:, t, None], moved_BD, mean_BD)
        means.append(mean_BD)
    context_BTC = torch.cat([torch.stack(means, dim=1).to(x.dtype), x], dim=-1)
    return context_BTC, mean_BD.to(compute_dtype(x)), count
