"""Masked-token prediction, the objective of a bidirectional model."""

import torch
from torch import nn

from fftnet.protocols import Batch, Losses
from fftnet.tasks.text import TextTask, config_of

MASKED_FRACTION = 0.15
"""Probability that a token is masked."""


class MaskedToken(TextTask):
    """Task of predicting masked tokens from all others.

    The mask token is the model's last id, one more than the tokenizer has. In evaluation mode the same tokens
    of a batch are masked every time. A causal model is allowed; it sees only the past.
    """

    extra_tokens = 1

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the losses of the masked inputs, in nats; the targets of the batch are not used."""
        inputs = batch.inputs
        # A fixed seed makes evaluations comparable.
        generator = None if model.training else torch.Generator(inputs.device).manual_seed(0)
        draw_BT = torch.rand(inputs.shape, generator=generator, device=inputs.device)
        # Rows without a counted target only fill up a batch.
        masked_BT = (draw_BT < MASKED_FRACTION) & batch.loss_mask.any(dim=1, keepdim=True)
        if batch.attention_mask is not None:
            masked_BT &= batch.attention_mask
        mask_token = config_of(model).vocab_size - 1
        logits_BTV = model(inputs.masked_fill(masked_BT, mask_token), batch.attention_mask)
        return self.losses(logits_BTV, inputs, masked_BT)
