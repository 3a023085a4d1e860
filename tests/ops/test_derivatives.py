"""Derivatives beyond backward: which backends have them, and what the others say."""

from collections.abc import Callable

import pytest
import torch
from models import make, tokens
from operators import LONG, OPERATORS, Operator, registered_backends
from torch import Tensor
from torch.autograd import forward_ad

from fftnet.ops import use_backend

# PyTorch's forward mode compiles its formulas with what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SIZES = {
    "keyed_mix": {"batch": 1, "length": 3, "width": 2, "bins": 2},
    "delta_mix": {"batch": 1, "length": 3, "width": 2, "bins": 2},
    "spectral_mix": {"batch": 1, "length": 4, "width": 2},
}
REGISTERED = [
    (operator, backend)
    for operator in OPERATORS
    for backend in registered_backends(operator)
    if backend != "triton"
]
SENTENCE = (
    "has first derivatives in reverse mode only; for second derivatives, forward mode and torch.func, "
    r"set FFTNET_BACKEND=export or call the model within fftnet.ops.use_backend\('export'\)"
)


def problem(operator: Operator, backend: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Return the operator's first output as a function of its floating inputs, and these inputs."""
    short = {"batch": 1, "length": 3} if operator in LONG else {}
    inputs = list(operator.make(**SIZES.get(operator.name, short)).values())
    places = [n for n, x in enumerate(inputs) if x.is_floating_point()]

    def first(*floating: Tensor) -> Tensor:
        replaced = dict(zip(places, floating, strict=True))
        return operator.outputs(*(replaced.get(n, x) for n, x in enumerate(inputs)), backend=backend)[0]

    return first, [inputs[n] for n in places]


def second_derivatives(operator: Operator, backend: str) -> tuple[Tensor, ...]:
    first, inputs = problem(operator, backend)
    leaves = [x.requires_grad_() for x in inputs]
    grads = torch.autograd.grad(
        first(*leaves).square().sum(), leaves, create_graph=True, materialize_grads=True
    )
    total = torch.stack([grad.square().sum() for grad in grads]).sum()
    return torch.autograd.grad(total, leaves, materialize_grads=True)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_gradients_of_the_definitions_are_finite_differences(operator: Operator) -> None:
    """test_backends.py compares the gradients of every backend with those of the definitions."""
    lengths = [{"length": 4}, {"length": 5}] if operator in LONG else [{}]
    for sizes in lengths:
        inputs = list(operator.make(**SIZES.get(operator.name, {"batch": 1}) | sizes).values())
        leaves = [x.requires_grad_(x.is_floating_point()) for x in inputs]
        assert torch.autograd.gradcheck(lambda *x: operator.outputs(*x, backend="reference"), leaves)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_second_derivatives_are_right(operator: Operator) -> None:
    first, inputs = problem(operator, "reference")
    assert torch.autograd.gradgradcheck(first, [x.requires_grad_() for x in inputs], fast_mode=True)
    expected = second_derivatives(operator, "reference")
    torch.testing.assert_close(second_derivatives(operator, "export"), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("operator", "backend"), REGISTERED, ids=str)
def test_a_second_derivative_through_a_kernel_is_refused(operator: Operator, backend: str) -> None:
    first, inputs = problem(operator, backend)
    leaves = [x.requires_grad_() for x in inputs]
    grads = torch.autograd.grad(first(*leaves).square().sum(), leaves, create_graph=True)
    with pytest.raises(ValueError, match=f"{operator.name} on the backend '{backend}' {SENTENCE}"):
        torch.stack([grad.square().sum() for grad in grads]).sum().backward()


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_the_transforms_of_torch_func_agree_with_backward(operator: Operator) -> None:
    first, inputs = problem(operator, "auto")
    upstream = torch.randn_like(first(*inputs))
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(first(*leaves), leaves, upstream, materialize_grads=True)
    pull = torch.func.vjp(first, *inputs)[1]
    torch.testing.assert_close(pull(upstream), expected, rtol=1e-9, atol=1e-9)
    tangents = tuple(torch.randn_like(x) for x in inputs)
    moved = torch.func.jvp(first, tuple(inputs), tangents)[1]
    along = sum((grad * tangent).sum() for grad, tangent in zip(expected, tangents, strict=True))
    torch.testing.assert_close((moved * upstream).sum(), along, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("operator", "backend"), REGISTERED, ids=str)
def test_a_transform_of_a_kernel_that_is_named_is_refused(operator: Operator, backend: str) -> None:
    first, inputs = problem(operator, backend)
    with pytest.raises(ValueError, match=SENTENCE):
        torch.func.jvp(first, tuple(inputs), tuple(inputs))
    with pytest.raises(ValueError, match=SENTENCE), forward_ad.dual_level():
        first(*(forward_ad.make_dual(x, x) for x in inputs))


@pytest.mark.parametrize("mixer", ["addressed_spectral", "delta_spectral", "spectral"])
def test_a_model_has_second_derivatives_and_gradients_per_row(mixer: str) -> None:
    model = make(mixers=(mixer,), causal=mixer != "spectral")
    ids = tokens(2, 6)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, weights, (row[None],))[0]
        return torch.nn.functional.cross_entropy(logits, row)

    with use_backend("auto"):
        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, ids)
    for row, ids_T in enumerate(ids):
        wanted = torch.autograd.grad(loss(dict(model.named_parameters()), ids_T), list(model.parameters()))
        for found, expected in zip(each.values(), wanted, strict=True):
            torch.testing.assert_close(found[row], expected, rtol=1e-8, atol=1e-10)
    with use_backend("export"):
        parameters = list(model.parameters())
        grads = torch.autograd.grad(
            loss(dict(model.named_parameters()), ids[0]), parameters, create_graph=True
        )
        torch.stack([grad.square().sum() for grad in grads]).sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in parameters)
