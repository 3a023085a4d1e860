"""The layers of examples/minimal.py compute what the mixers of the package compute, from the same weights."""

import pytest
import torch
from commands import python
from conftest import randomise
from torch import nn

from examples.minimal import Bidirectional, Causal
from fftnet.model.mixers import build_mixer


def assert_equal(simple: nn.Module, mixer: nn.Module, length: int) -> None:
    """Compare outputs and gradients of both in float64, with the same random weights."""
    simple.double().load_state_dict(randomise(mixer).state_dict())
    x = torch.randn(2, length, 12, dtype=torch.float64, requires_grad=True)
    expected, actual = mixer(x), simple(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(expected)
    names = dict(mixer.named_parameters())
    ours = torch.autograd.grad(expected, [x, *names.values()], upstream)
    theirs = torch.autograd.grad(actual, [x, *(simple.get_parameter(name) for name in names)], upstream)
    torch.testing.assert_close(theirs, ours, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_the_layers_are_those_of_the_package(length: int) -> None:
    spectral = build_mixer("spectral", 12, 3, {"num_anchors": length // 2 + 1})
    assert_equal(Bidirectional(12, 3, length), spectral, length)
    assert_equal(Causal(12, 3), build_mixer("addressed_spectral", 12, 3), length)


def test_the_example_runs_and_shows_causality() -> None:
    bidirectional, causal = python("examples/minimal.py").stdout.splitlines()
    assert bidirectional.endswith(str(list(range(16))))
    assert causal.endswith(str(list(range(10, 16))))
