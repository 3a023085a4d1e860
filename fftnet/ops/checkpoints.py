"""States that a recurrent operator keeps for its backward pass, in one row for each row of the batch.

A dimension that is 1 for short texts would cost ``torch.compile`` a graph of its own, hence the flattening.
"""

from torch import Tensor


def flat_shape(values: Tensor, state: Tensor, block: int) -> tuple[int, int]:
    """(B, S) for a state (B, ., ., ., .) before every ``block`` tokens of values (B, T, ...)."""
    batch, tokens = values.shape[:2]
    blocks = (tokens + block - 1) // block
    _, a, b, c, d = state.shape
    return batch, blocks * a * b * c * d


def check_checkpoints(operator: str, checkpoints: Tensor, values: Tensor, state: Tensor, block: int) -> None:
    """Compare the shape of flat checkpoints with ``flat_shape``.

    Raises:
        ValueError: if they differ; it begins with the operator's name.
    """
    expected = flat_shape(values, state, block)
    if checkpoints.shape != expected:
        raise ValueError(
            f"{operator}: checkpoints must have shape {expected}, got {tuple(checkpoints.shape)}"
        )
