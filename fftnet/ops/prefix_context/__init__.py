"""The causal context: the running mean of the prefix beside the token itself, in one operator.

``prefix_context`` is the only entry: it checks, casts and picks a backend.

``torch``, ``reference`` and ``export`` are functions of its arguments, which autograd can see through. Any
other backend is a module in this folder with two functions on contiguous tensors of one dtype, for calls that
count every token:

* ``forward(x, mean, count, horizon) -> (context, mean)``, with the mean after the last token;
* ``backward(count, grad_context, grad_mean, horizon)``, which returns the gradients of ``x`` and ``mean``.

A horizon of 0 is none.
"""

from torch import Tensor, contiguous_format, empty_like

from fftnet.ops.checks import Signature, Sizes
from fftnet.ops.cpu import VECTOR_WIDTH
from fftnet.ops.dispatch import Backends, anything
from fftnet.ops.numerics import compute_dtype
from fftnet.ops.prefix_context import eager, export, reference
from fftnet.ops.prefix_context.eager import check_horizon, prefix_mean
from fftnet.ops.registration import register

__all__ = ["BACKENDS", "check_horizon", "prefix_context", "prefix_mean"]


def _whole_vectors(
    x: Tensor, mean: Tensor | None = None, count: Tensor | None = None, counted: Tensor | None = None
) -> bool:
    return counted is None and x.device.type == "cpu" and x.shape[2] % VECTOR_WIDTH == 0


def _has_two_halves(sizes: Sizes) -> str | None:
    return None if sizes["C"] % 2 == 0 else f"C must be twice the width of the tokens, got {sizes['C']}"


BACKENDS = Backends(
    __name__,
    torch=anything,
    numba=_whole_vectors,
    reference=anything,
    export=anything,
)
_DIFFERENTIABLE = {
    "torch": eager.prefix_context,
    "reference": reference.prefix_context,
    "export": export.prefix_context,
}
_INPUTS = {"x": "B T D", "mean": "B D", "count": "B: int64"}
_SIGNATURE = Signature("prefix_context", _INPUTS | {"counted": "B T: bool?"})
_OPERATOR_SIGNATURE = Signature("prefix_context", _INPUTS)
_BACKWARD_SIGNATURE = Signature(
    "prefix_context_backward",
    {"count": "B: int64", "grad_context": "B T C", "grad_mean": "B D"},
    derived={"D": lambda sizes: sizes["C"] // 2},
    rule=_has_two_halves,
)


def prefix_context(
    x: Tensor,
    mean: Tensor,
    count: Tensor,
    counted: Tensor | None = None,
    *,
    horizon: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``fftnet.ops.prefix_context.eager.prefix_mean`` beside the tokens.

    Args:
        x: tokens (B, T, D) of any floating dtype, T >= 1.
        mean: mean of the tokens before, (B, D).
        count: int64 number of tokens before, (B,).
        counted: boolean (B, T); a False token is left out of the mean. None counts all.
        horizon: from that many tokens on the mean forgets: a token enters with the weight 1 / horizon. None
            keeps the mean of everything.
        backend: see ``fftnet.ops.dispatch``; None takes the one that is set there.

    Returns:
        Context (B, T, 2 D) in the dtype of ``x``, then the mean in float32 (float64 for float64 tokens) and
        the count after the last token.

    Raises:
        ValueError: if a tensor does not fit the others, the horizon is below 1, or the backend is unknown or
            can't run here.
    """
    check_horizon("prefix_context", horizon)
    backend = BACKENDS.select(_SIGNATURE, backend, x, mean, count, counted)
    if backend in _DIFFERENTIABLE:
        return _DIFFERENTIABLE[backend](x, mean, count, counted, horizon)
    dtype = compute_dtype(x)
    tensors = [tensor.to(dtype).contiguous() for tensor in (x, mean)]
    context, mean = _operator(*tensors, count, horizon or 0, backend)
    return context.to(x.dtype), mean, count + x.shape[1]


def _forward(x: Tensor, mean: Tensor, count: Tensor, horizon: int, backend: str) -> tuple[Tensor, Tensor]:
    return BACKENDS.load(backend, x).forward(x, mean, count, horizon)


def _fake(x, mean, count, horizon, backend):  # pyright: ignore
    return x.new_empty((x.shape[0], x.shape[1], 2 * x.shape[2])), empty_like(mean)


def _backward(
    count: Tensor, grad_context: Tensor, grad_mean: Tensor, horizon: int, backend: str
) -> tuple[Tensor, Tensor]:
    width = grad_mean.shape[1]
    module = BACKENDS.load(backend, grad_context[..., :width])
    return module.backward(count, grad_context, grad_mean, horizon)


def _fake_backward(count, grad_context, grad_mean, horizon, backend):  # pyright: ignore
    batch, tokens, channels = grad_context.shape
    grad_x = grad_context.new_empty((batch, tokens, channels // 2))
    return grad_x, empty_like(grad_mean, memory_format=contiguous_format)


_operator = register(
    "prefix_context",
    signature=_OPERATOR_SIGNATURE,
    forward=_forward,
    fake=_fake,
    saved=lambda inputs, outputs: inputs[2:3],
    backward_signature=_BACKWARD_SIGNATURE,
    backward=_backward,
    fake_backward=_fake_backward,
)
