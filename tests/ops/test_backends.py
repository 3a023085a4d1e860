"""Every backend of every operator: right values and gradients, at odd and even lengths."""

import pytest
from operators import OPERATORS, Operator, backend_suite

CASES = [(operator, backend) for operator in OPERATORS for backend in operator.fast()]
LONG = [(operator, backend) for operator, backend in CASES if "step" not in operator.name]


def label(value: object) -> str | None:
    return value.name if isinstance(value, Operator) else None


@pytest.mark.parametrize(("operator", "backend"), CASES, ids=label)
def test_values_gradients_and_registration(operator: Operator, backend: str) -> None:
    backend_suite(operator, backend)


@pytest.mark.parametrize("length", [1, 5, 130])
@pytest.mark.parametrize(("operator", "backend"), LONG, ids=label)
def test_other_lengths(operator: Operator, backend: str, length: int) -> None:
    backend_suite(operator, backend, length=length)
