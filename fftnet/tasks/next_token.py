"""Next-token prediction, the objective of a causal model."""

from torch import nn

from fftnet.model.config import BackboneConfig
from fftnet.model.state import state_of_tensors, state_tensors
from fftnet.protocols import Batch, Losses, RowStates
from fftnet.tasks.text import TextTask, config_of, unwrapped


class NextToken(TextTask):
    """Task of predicting each token from those before it."""

    @staticmethod
    def check_model(config: BackboneConfig) -> None:
        """Raise ``ValueError`` for a bidirectional model."""
        if not getattr(config, "causal", True):
            raise ValueError(
                "next-token training needs causal=True: a bidirectional model sees its target in the input, "
                "copies it and can write nothing; train it with task masked_token instead"
            )

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the losses of a batch of text, in nats; ValueError if the model is bidirectional."""
        self.check_model(config_of(model))
        # Padding behind a text changes nothing before it in a causal model: no attention mask is needed.
        return self.losses(model(batch.inputs), batch.targets, batch.loss_mask)

    def carry(self, model: nn.Module, batch: Batch, state: RowStates | None) -> tuple[Losses, RowStates]:
        """Return the losses of rows that continue from a state, and the next state."""
        before = unwrapped(model).init_state(batch.num_rows, batch.inputs.device)
        if state is not None:
            before = state_of_tensors(state, before)
        logits, after = model(batch.inputs, batch.attention_mask, before)
        losses = self.losses(logits, batch.targets, batch.loss_mask)
        # Truncated backpropagation through time: no gradient flows into earlier batches.
        return losses, {name: tensor.detach() for name, tensor in state_tensors(after).items()}
