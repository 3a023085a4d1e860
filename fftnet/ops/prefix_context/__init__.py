"""Causal context (docs/maths.md, section 3, step 4): the running mean of the prefix, then the token itself.

Registered backends run calls that count every token. Without a horizon they get 0.
"""

from torch import Tensor

from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.dispatch import Backends, anything, whole_vectors
from fftnet.ops.registration import RegisteredOperator


def _all_counted(sizes: Sizes, x: Tensor, *others: Tensor | None) -> bool:
    # The registered operator has no argument ``counted``.
    masked = len(others) == 3 and others[2] is not None
    return not masked and whole_vectors("D")(sizes, x)


BACKENDS = Backends(__name__, numba=_all_counted, reference=anything, export=anything)
_INPUTS = {"x": "B T D", "mean": "B D", "count": "B: int64"}
_SIGNATURE = Signature("prefix_context", _INPUTS | {"counted": "B T: bool?"})
_operator = RegisteredOperator(
    BACKENDS,
    Signature("prefix_context", _INPUTS, derived={"C": lambda D: 2 * D}),
    outputs={"context": "B T C", "last": "B D"},
    # The context is linear in x and mean, with weights that follow from the count.
    saved=("count",),
    constants={"horizon": "int"},
)


def check_horizon(operator: str, horizon: int | None) -> None:
    """Refuse a horizon that is not a positive number of tokens, with a ValueError."""
    if horizon is not None and horizon < 1:
        raise ValueError(f"{operator}: horizon must be at least 1, got {horizon}")


def prefix_context(
    x: Tensor,
    mean: Tensor,
    count: Tensor,
    counted: Tensor | None = None,
    *,
    horizon: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the running mean of the tokens up to and including each one, and the token itself.

    The state holds the mean rather than the sum, so it neither grows nor loses digits over a long text.

    Args:
        x: tokens (B, T, D).
        mean: mean of the tokens before, (B, D).
        count: int64 number of tokens before, (B,).
        counted: boolean (B, T); a False token is left out of the mean. None counts all.
        horizon: number of tokens from which on a token enters with the weight 1 / horizon, so that the mean
            forgets. None keeps the mean of everything.

    Returns:
        Means, then tokens, (B, T, 2 D) in the dtype of ``x``. Mean, in float32 (float64 for float64 tokens),
        and count after the last token.
    """
    check_horizon("prefix_context", horizon)
    backend = BACKENDS.select(_SIGNATURE, backend, x, mean, count, counted)
    portable = BACKENDS.portable(backend, "prefix_context")
    if portable is not None:
        return portable(x, mean, count, counted, horizon)
    context, last = _operator.run(backend, x, mean, count, horizon or 0)
    return context.to(x.dtype), last, count + x.shape[1]
