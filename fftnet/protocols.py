"""What data, objectives and training agree on: rows of tokens in, one loss a token out."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Batches(Protocol):
    """A seekable stream of rows."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        ...

    def batch(self, epoch: int, index: int) -> Tensor:
        """int64 rows (B, T + 1), -1 where nothing is; the same for the same arguments, always."""
        ...


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


Objective = Callable[[nn.Module, Tensor], TokenLosses]
"""Maps a model and int64 rows (B, T + 1) to the losses of their tokens."""


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
