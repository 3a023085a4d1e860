"""Masks: outputs, states and gradients are those of each row's tokens alone."""

import math
from typing import Any

import pytest
import torch
from models import CAUSAL, ENCODERS, MODELS, make, tokens
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fftnet.model import select_state
from fftnet.model.mixers import MIXERS

FIRST = torch.tensor(
    [
        [0, 0, 0, 0, 0, 0, 0],  # no tokens
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1],  # padded on the left
        [1, 1, 1, 0, 0, 0, 0],  # padded on the right
        [1, 0, 1, 1, 0, 0, 1],
    ],
    dtype=torch.bool,
)
SECOND = FIRST[[3, 2, 0, 4, 1], :5]
"""Mask of a second turn, read after the state of the first."""


def only_mixer(name: str) -> Any:
    """Return the mixer of a model with one layer and random weights."""
    return next(iter(make(mixers=(name,), causal=name in CAUSAL, num_layers=1).backbone.layers)).mixer


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_two_masked_turns_and_a_step_are_read_as_each_row_alone(
    fields: dict[str, object], chunk_size: int | None
) -> None:
    model = make(**fields)
    turns = [(tokens(5, 7), FIRST), (tokens(5, 5), SECOND)]
    logits = []
    state = model.init_state(5)
    for ids, mask in turns:
        found, state = model.prefill(ids, state, attention_mask=mask, chunk_size=chunk_size)
        logits.append(found)
    step = torch.arange(5)
    last, state = model.step(step, state)
    for row in range(5):
        text = torch.cat([*(ids[row][mask[row]] for ids, mask in turns), step[row : row + 1]])
        expected, alone = model.prefill(text[None])
        read = [found[row][mask[row]] for found, (_, mask) in zip(logits, turns, strict=True)]
        torch.testing.assert_close(torch.cat([*read, last[row : row + 1]]), expected[0], rtol=1e-9, atol=1e-9)
        following = model.step(torch.tensor([4]), select_state(state, [row]))[0]
        torch.testing.assert_close(following, model.step(torch.tensor([4]), alone)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fields", [*MODELS, *ENCODERS], ids=str)
def test_a_forward_pass_with_a_mask_is_that_of_each_row_alone(fields: dict[str, object]) -> None:
    model = make(**fields)
    ids = tokens(5, 7)
    parameters = list(model.parameters())
    found = model(ids, FIRST)
    upstream = torch.randn_like(found) * FIRST[..., None]
    actual = torch.autograd.grad(found, parameters, upstream)
    expected = [torch.zeros_like(parameter) for parameter in parameters]
    for row in range(1, 5):
        alone = model(ids[row][FIRST[row]][None])
        torch.testing.assert_close(found[row][FIRST[row]], alone[0], rtol=1e-9, atol=1e-9)
        torch.autograd.backward(alone, upstream[row][FIRST[row]][None], inputs=parameters)
    for parameter, total in zip(parameters, expected, strict=True):
        total += 0 if parameter.grad is None else parameter.grad
    torch.testing.assert_close(actual, tuple(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("with_state", [False, True])
def test_gradients_of_a_masked_mixer_are_those_of_each_row_alone(name: str, with_state: bool) -> None:
    mixer = only_mixer(name)
    x = torch.randn(5, 7, 8, dtype=torch.float64, requires_grad=True)
    before = torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(5, 8, dtype=torch.float64)

    def summary(rows: list[int], mask: Tensor | None, x: Tensor, before: Tensor) -> Tensor:
        """Return the outputs, and the output of one token after the state."""
        state = mixer(before, None, mixer.init_state(len(rows)))[1] if with_state else None
        if state is None:
            return mixer(x, mask)
        mixed, state = mixer(x, mask, state)
        after, _ = mixer(upstream[rows][:, None], None, state)
        return torch.cat([mixed, after], dim=1)

    kept = FIRST if not with_state else torch.cat([FIRST, torch.ones(5, 1, dtype=torch.bool)], dim=1)
    together = summary(list(range(5)), FIRST, x, before)
    weights = torch.randn_like(together)
    inputs = (x, before) if with_state else (x,)
    actual = torch.autograd.grad((together * weights)[kept].sum(), inputs)
    total = x.new_zeros(())
    for row in range(1, 5):
        alone = summary([row], None, x[row : row + 1, FIRST[row]], before[row : row + 1])
        total = total + (alone[0] * weights[row][kept[row]]).sum()
    expected = torch.autograd.grad(total, inputs)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one[1:], other[1:], rtol=1e-8, atol=1e-8)
    assert not actual[0][~FIRST].any()


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("filling", [1e3, torch.nan])
def test_padding_may_hold_anything(name: str, filling: float) -> None:
    mixer = only_mixer(name)
    x = torch.randn(5, 7, 8, dtype=torch.float64)
    upstream = torch.randn_like(x) * FIRST[..., None]
    with torch.no_grad():
        start = mixer(torch.randn_like(x), None, mixer.init_state(5))[1] if name in CAUSAL else None
    found = []
    gradients = []
    for given in (x, x.masked_fill(~FIRST[..., None], filling)):
        leaves = [given.clone().requires_grad_(), *mixer.parameters()]
        mixed, after = (mixer(leaves[0], FIRST), None) if start is None else mixer(leaves[0], FIRST, start)
        assert start is not None or not mixed[~FIRST].any()
        gradients.append(torch.autograd.grad(mixed, leaves, upstream, materialize_grads=True))
        found.append([mixed[FIRST], *tree_leaves(after)])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    # Causal attention multiplies padded keys by weights of 0, so NaN in them reaches the gradients.
    if name != "attention" or math.isfinite(filling):
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
