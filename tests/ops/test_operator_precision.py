"""Narrow tokens and autocast: every backend computes in float32 and rounds once, at the end."""

import pytest
import torch
from operators import ADDRESS_STEP, DELTA_MIX, DELTA_STEP, OPERATORS, Operator, results
from torch import Tensor

CASES = [(operator, backend) for operator in OPERATORS for backend in operator.fast()]
STATES = ("state", "mean", "conv_state", "spectrum", "phase")
"""Arguments that a model of any dtype keeps in float32."""


def errors(operator: Operator, inputs: list[Tensor], backend: str) -> list[float]:
    """Return the relative errors of values and gradients against the definition in float64."""
    exact = results(operator, [x.double() if x.is_floating_point() else x for x in inputs], "reference")
    found = results(operator, inputs, backend)
    return [
        float((one.double() - other).norm() / other.norm())
        for one, other in zip(found[0] + found[1], exact[0] + exact[1], strict=True)
        if one.is_floating_point()
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("operator", "backend"), CASES, ids=str)
def test_narrow_tokens_lose_no_more_than_one_rounding(
    operator: Operator, backend: str, dtype: torch.dtype
) -> None:
    # With seed 0 the gradient of the eight decays is rounded luckily in the definition.
    made = operator.make(seed=int(operator is DELTA_STEP))
    inputs = [
        x if not x.is_floating_point() else x.float() if name in STATES else x.to(dtype)
        for name, x in made.items()
    ]
    rounded = errors(operator, inputs, "reference")
    found = errors(operator, inputs, backend)
    assert all(one <= 2 * other + 1e-5 for one, other in zip(found, rounded, strict=True)), (found, rounded)


@pytest.mark.parametrize("operator", [ADDRESS_STEP, DELTA_STEP], ids=str)
def test_a_slow_decay_is_not_rounded_away_in_a_bfloat16_step(operator: Operator) -> None:
    """In bfloat16 the exponential of a decay of 1 / 4000 is 1."""
    inputs = operator.make()
    inputs["decay"] = torch.full_like(inputs["decay"], 1 / 4000)
    inputs["clock"] = torch.ones_like(inputs["clock"])
    # Without a new value the spectrum only decays.
    inputs["projected"], inputs["conv_state"] = (
        torch.zeros_like(inputs[name]) for name in ("projected", "conv_state")
    )
    if "erase" in inputs:
        inputs["erase"] = torch.zeros_like(inputs["erase"])
    narrow = [x.float() if name in STATES else x.bfloat16() for name, x in inputs.items()]
    exact = operator.outputs(*(x.double() for x in narrow), backend="reference")
    for backend in operator.fast():
        *_, spectrum = operator.call(*narrow, backend=backend)
        torch.testing.assert_close(spectrum.double(), exact[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_autocast_changes_no_operator(operator: Operator) -> None:
    inputs = [x.float() if x.is_floating_point() else x for x in operator.make().values()]
    for backend in set(operator.fast()) - {"export"}:
        expected = results(operator, inputs, backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = results(operator, inputs, backend)
        # Autograd differentiates this one, with products that autocast would narrow if backward ran within
        # it, as it does here and never in training.
        parts = slice(0, 1) if (operator, backend) == (DELTA_MIX, "torch") else slice(0, 2)
        torch.testing.assert_close(actual[parts], expected[parts], rtol=0, atol=0)
