"""Next-token prediction, the objective of a causal model."""

from torch import Tensor, nn

from fftnet.model.fftnet_model import FFTNet
from fftnet.protocols import TokenLosses, token_losses


class NextToken:
    """Every token is predicted from those before it.

    Args:
        model: the model that will be trained.

    Raises:
        ValueError: if the model is bidirectional.
    """

    extra_tokens = 0

    def __init__(self, model: FFTNet) -> None:
        if not model.config.causal:
            raise ValueError(
                "next-token training needs causal=True: a bidirectional model sees its target in the input, "
                "copies it and can write nothing; train it with task masked_token instead"
            )

    def __call__(self, model: nn.Module, rows: Tensor) -> TokenLosses:
        """Losses of int64 rows (B, T + 1), of which the first T are fed; -1 marks where nothing is."""
        targets_BT = rows[:, 1:]
        return token_losses(model(rows[:, :-1].clamp(min=0)), targets_BT, targets_BT >= 0)
