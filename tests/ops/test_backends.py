"""Every backend of every operator against its definition: shapes, precision, states, threads, compilation."""

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import (
    ADDRESS_STEP,
    ADDRESSES,
    DELTA_MIX,
    DELTA_STEP,
    FORGETFUL_CONTEXT,
    GATED_NORM,
    KEYED_MIX,
    LONG,
    OPERATORS,
    PREFIX_CONTEXT,
    RMS_NORM,
    SHORT_CONV,
    SPECTRAL_MIX,
    Operator,
    backend_suite,
    compare,
    results,
)

CASES = [(operator, backend) for operator in OPERATORS for backend in operator.fast()]
each = pytest.mark.parametrize(("operator", "backend"), CASES, ids=str)


@each
def test_values_gradients_and_registration(operator: Operator, backend: str) -> None:
    backend_suite(operator, backend)


MIXERS = (KEYED_MIX, DELTA_MIX, SPECTRAL_MIX)
BLOCKS = [2, 3, 63, 64, 65, 129, 255, 256, 257, 311]


@pytest.mark.parametrize(
    ("operator", "sizes"),
    [
        *((operator, {"length": n}) for operator in MIXERS for n in BLOCKS),
        # A head with several work items.
        *((SPECTRAL_MIX, {"length": n, "heads": 3, "width": 7}) for n in (1025, 1100)),
    ],
    ids=str,
)
def test_lengths_around_the_blocks_of_the_backends(operator: Operator, sizes: dict[str, int]) -> None:
    for backend in operator.fast():
        compare(operator, list(operator.make(**sizes).values()), backend, 1e-8)


TOKENS = st.sampled_from([1, 2, 3, 5, 43, 64, 65, 131])
HEADS = {"length": TOKENS, "heads": st.integers(1, 3)}
KEYED = {
    "length": st.integers(1, 150),
    "heads": st.integers(1, 3),
    "width": st.sampled_from([1, 2, 5, 8, 17, 40, 64, 65]),
    "bins": st.sampled_from([1, 2, 3, 8, 16, 17, 32]),
    "speed": st.sampled_from([0.0, 0.1, 1.0, 20.0, 300.0]),
}
ADDRESSES_OF_ONE = {
    "heads": st.integers(1, 3),
    "width": st.integers(1, 17),
    "bins": st.integers(1, 9),
    "taps": st.integers(1, 5),
}
SHAPES: dict[str, dict[str, Any]] = {
    "keyed_mix": KEYED,
    # Each number of bins compiles a kernel.
    "delta_mix": KEYED | {"bins": st.sampled_from([1, 8, 17, 40])},
    "spectral_mix": {
        "length": st.integers(1, 80),
        "heads": st.integers(1, 5),
        "width": st.sampled_from([1, 2, 5, 16, 23]),
    },
    "short_conv": {"length": TOKENS, "width": st.sampled_from([3, 8, 24, 48]), "taps": st.integers(1, 5)},
    "addresses": HEADS | {"bins": st.sampled_from([1, 3, 8, 16, 24, 64])},
    "gated_norm": HEADS | {"width": st.sampled_from([1, 3, 8, 16, 24, 64])},
    "rms_norm": {"length": TOKENS, "width": st.sampled_from([1, 3, 8, 24, 64, 72])},
    "prefix_context": {
        "length": st.integers(1, 70),
        "width": st.sampled_from([3, 8, 24, 72]),
        "read": st.sampled_from([0, 1, 300]),
    },
    "context_step": {"width": st.integers(1, 9), "read": st.integers(0, 9)},
    "address_step": ADDRESSES_OF_ONE,
    "delta_step": ADDRESSES_OF_ONE,
}


@each
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_shape(operator: Operator, backend: str, data: st.DataObject) -> None:
    sizes = data.draw(st.fixed_dictionaries({"batch": st.integers(1, 3)} | SHAPES[operator.name]))
    compare(operator, list(operator.make(**sizes).values()), backend, 1e-8)


MIXING = {"length": 301, "heads": 3, "width": 16}
FLOAT32: list[tuple[Operator, dict[str, Any], float]] = [
    (KEYED_MIX, MIXING, 2e-5),
    (KEYED_MIX, MIXING | {"speed": 20.0}, 5e-4),
    (DELTA_MIX, MIXING, 2e-5),
    (DELTA_MIX, MIXING | {"speed": 20.0}, 5e-4),
    (SPECTRAL_MIX, MIXING, 1e-5),
    (SHORT_CONV, {"length": 1100, "width": 32}, 2e-6),
    (ADDRESSES, {"length": 1100, "heads": 3, "bins": 16}, 2e-6),
    (GATED_NORM, {"length": 1100, "heads": 3, "width": 64}, 2e-6),
    (RMS_NORM, {"length": 1100, "width": 264}, 2e-6),
    (ADDRESS_STEP, {"heads": 3, "width": 40, "bins": 16}, 5e-6),
    (DELTA_STEP, {"heads": 3, "width": 40, "bins": 16}, 5e-6),
]
"""Inputs large enough for several threads, and the largest relative error."""


@pytest.mark.parametrize(("operator", "sizes", "tolerance"), FLOAT32)
def test_float32_error(operator: Operator, sizes: dict[str, Any], tolerance: float) -> None:
    inputs = list(operator.make(**sizes).values())
    expected = results(operator, inputs, "reference")
    for backend in operator.fast():
        actual = results(operator, [x.float() for x in inputs], backend)
        for one, other in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
            assert one.dtype == torch.float32
            assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize(("operator", "sizes", "tolerance"), [case for case in FLOAT32 if case[0] in LONG])
def test_any_number_of_threads_gives_the_same_numbers(
    operator: Operator, sizes: dict[str, Any], tolerance: float
) -> None:
    pytest.importorskip("numba")
    inputs = [x.float() for x in operator.make(**sizes).values()]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(operator, inputs, "numba"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


STREAMS = {"values", "key", "filter_", "erase", "clock", "x"}
STATES = {"state": 1, "conv_state": -1, "mean": 1, "count": 2}
"""State among the inputs, and its place among the outputs."""


@pytest.mark.parametrize(
    "operator",
    [KEYED_MIX, DELTA_MIX, SHORT_CONV, PREFIX_CONTEXT, FORGETFUL_CONTEXT],
    ids=str,
)
def test_an_operator_continues_from_its_state(operator: Operator) -> None:
    for backend in [*operator.fast(), "reference"]:
        inputs = operator.make(length=300)
        whole = operator.outputs(*inputs.values(), backend=backend)
        pieces = []
        for span in (slice(0, 1), slice(1, 3), slice(3, 100), slice(100, 300)):
            piece = {name: x[:, span] if name in STREAMS else x for name, x in inputs.items()}
            outputs = operator.outputs(*piece.values(), backend=backend)
            pieces.append(outputs[0])
            inputs |= {name: outputs[place] for name, place in STATES.items() if name in inputs}
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole[0], rtol=1e-10, atol=1e-10)
        for name, place in STATES.items():
            if name in inputs:
                torch.testing.assert_close(inputs[name], whole[place], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", [x for x in LONG if x.constants is not None], ids=str)
def test_compiled_operators_give_the_same(operator: Operator) -> None:
    pytest.importorskip("numba")
    torch.compiler.reset()
    inputs = list(operator.make().values())
    run = functools.partial(operator.outputs, backend="numba")
    found = []
    for function in (torch.compile(run, backend="aot_eager", fullgraph=True), run):
        leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = [y for y in function(*leaves) if y.is_floating_point()]
        wanted = [x for x in leaves if x.requires_grad]
        grads = torch.autograd.grad(outputs, wanted, [torch.ones_like(y) for y in outputs])
        found.append([*(y.detach() for y in outputs), *grads])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
