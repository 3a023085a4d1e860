"""Masked-token prediction, the objective of a bidirectional model."""

import torch
from torch import Tensor, nn

from fftnet.model.fftnet_model import FFTNet
from fftnet.protocols import TokenLosses, token_losses

MASKED_FRACTION = 0.15


class MaskedToken:
    """A fraction of the tokens is replaced by a mask token and predicted from all the others.

    The mask token is the model's last id, one more than the tokenizer has. In evaluation mode the same
    tokens of a batch are masked every time.

    Args:
        model: the model that will be trained; a causal one is allowed, it sees the past only.
    """

    extra_tokens = 1

    def __init__(self, model: FFTNet) -> None:
        self.mask_token = model.config.vocab_size - 1

    def __call__(self, model: nn.Module, rows: Tensor) -> TokenLosses:
        """Losses of int64 rows (B, T); -1 marks where nothing is."""
        present_BT = rows >= 0
        generator = None if model.training else torch.Generator(rows.device).manual_seed(0)
        draw_BT = torch.rand(rows.shape, generator=generator, device=rows.device)
        chosen_BT = present_BT & (draw_BT < MASKED_FRACTION)
        inputs_BT = rows.clamp(min=0).masked_fill(chosen_BT, self.mask_token)
        mask_BT = None if bool(present_BT.all()) else present_BT
        return token_losses(model(inputs_BT, mask_BT), rows, chosen_BT)
