"""What an objective hands back: one loss a token, so that every average is made in one place."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class TokenLosses(NamedTuple):
    """Per-token results of one batch.

    Attributes:
        loss_BT: nats, float32; 0 where not counted.
        correct_BT: whether the likeliest token is the target.
        counted_BT: boolean, the tokens that the objective asks for.
        targets_BT: int64 ids; meaningless where not counted.
    """

    loss_BT: Tensor
    correct_BT: Tensor
    counted_BT: Tensor
    targets_BT: Tensor


def token_losses(logits_BTV: Tensor, targets_BT: Tensor, counted_BT: Tensor) -> TokenLosses:
    """Cross-entropy of every counted token, computed in float32.

    Args:
        logits_BTV: of any floating dtype.
        targets_BT: int64 ids, anything where not counted.
        counted_BT: boolean.
    """
    targets = targets_BT.masked_fill(~counted_BT, 0)
    loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets.flatten(), reduction="none")
    loss_BT = loss.view(targets.shape) * counted_BT
    correct_BT = (logits_BTV.argmax(dim=-1) == targets) & counted_BT
    return TokenLosses(loss_BT, correct_BT, counted_BT, torch.where(counted_BT, targets, -1))
