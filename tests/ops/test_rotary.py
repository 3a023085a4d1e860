"""Rotation of bins by keys and filters against a memory that turns itself."""

import math

import pytest
import torch
from operators import normal_numbers
from torch import Tensor

from fftnet.ops.delta_mix import delta_mix
from fftnet.ops.rotary import rotary


def streams(tokens: int) -> list[Tensor]:
    """Return values, keys, filters, erase strengths, clock, rates, state, rotation, its gate, and phase."""
    normal = normal_numbers(tokens)
    key = normal(2, tokens, 3, 2, 5)
    key = key / key.square().sum(dim=(3, 4), keepdim=True).sqrt()
    numbers = [
        normal(2, tokens, 3, 4),
        key,
        normal(2, tokens, 3, 2, 5),
        2 * normal(2, tokens, 3).sigmoid(),
        normal(2, tokens, 3).exp() * 0.1,
        normal(3, 5).exp() * 0.1,
        normal(3, 5),
        normal(2, 3, 2, 5, 4),
        normal(2, tokens, 3, 5),
        normal(2, tokens, 3),
        normal(2, 3, 5) * 0.1,
    ]
    return [x.requires_grad_() for x in numbers]


def turning_memory(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is read of a memory whose bins turn at every token, and the memory, complex."""
    values, key, filter_, erase, clock, decay, frequency, state, rotation, gate, phase = tensors
    key, filter_ = (torch.complex(*planes.unbind(3)) for planes in (key, filter_))
    # The state of the operator is seen from its phase.
    z = torch.complex(*state.unbind(2)) * torch.exp(2j * math.pi * phase)[..., None]
    read = []
    for t in range(values.shape[1]):
        turn = math.pi * torch.tanh(rotation[:, t]) * torch.sigmoid(gate[:, t])[..., None]
        z = torch.exp(clock[:, t, :, None] * torch.complex(-decay, frequency) + 1j * turn)[..., None] * z
        found = (key[:, t].conj()[..., None] * z).real.sum(dim=2)
        new = values[:, t] - erase[:, t, :, None] * found
        z = z + key[:, t, ..., None] * new[:, :, None]
        read.append((filter_[:, t, ..., None] * z).real.sum(dim=2))
    return torch.stack(read, dim=1), z


def turned(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same by ``rotary`` and ``delta_mix``."""
    values, key, filter_, erase, clock, decay, frequency, state, rotation, gate, phase = tensors
    key, filter_, phase = rotary(key, filter_, rotation, gate, phase)
    mixed, last = delta_mix(values, key, filter_, erase, clock, decay, frequency, state)
    return mixed, torch.complex(*last.unbind(2)) * torch.exp(2j * math.pi * phase)[..., None]


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 101])
def test_turning_keys_and_filters_turns_the_memory(tokens: int) -> None:
    results = []
    for form in (turning_memory, turned):
        arguments = streams(tokens)
        mixed, last = form(*arguments)
        (mixed.sin().sum() + last.abs().sum()).backward()
        results.append([mixed, torch.view_as_real(last), *(x.grad for x in arguments)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cut", [1, 8, 15])
def test_a_text_may_be_cut_anywhere(cut: int) -> None:
    _, key, filter_, *_, rotation, gate, phase = streams(16)
    whole = rotary(key, filter_, rotation, gate, phase)
    first = rotary(key[:, :cut], filter_[:, :cut], rotation[:, :cut], gate[:, :cut], phase)
    second = rotary(key[:, cut:], filter_[:, cut:], rotation[:, cut:], gate[:, cut:], first[2])
    for n in (0, 1):
        torch.testing.assert_close(torch.cat([first[n], second[n]], dim=1), whole[n])
    # Half a revolution forward and half a one back are the same.
    difference = second[2] - whole[2]
    torch.testing.assert_close(difference, difference.round(), rtol=0, atol=1e-12)
    assert whole[2].abs().max() <= 0.5


def test_a_long_sum_of_angles_keeps_its_digits() -> None:
    tokens = 200_000
    rotation = torch.full((1, tokens, 1, 1), 0.3)
    one = torch.stack([torch.ones(1, tokens, 1, 1), torch.zeros(1, tokens, 1, 1)], dim=3)
    gate = torch.full((1, tokens, 1), 1.0)
    _, filter_, phase = rotary(one, one, rotation, gate, torch.zeros(1, 1, 1))
    total = tokens * math.tanh(float(rotation[0, 0])) / (1 + math.exp(-1)) / 2
    # One token's own rounding, times the tokens; a float32 sum would be off by much more.
    assert abs(float(phase) - (total - round(total))) < tokens * 3e-8
    angle = 2 * math.pi * float(phase)
    expected = torch.tensor([math.cos(angle), math.sin(angle)])
    torch.testing.assert_close(filter_[0, -1, 0, :, 0], expected, rtol=0, atol=1e-6)


def test_wrong_shapes_are_refused() -> None:
    _, key, filter_, *_, rotation, gate, phase = streams(3)
    with pytest.raises(ValueError, match=r"rotary.*rotation"):
        rotary(key, filter_, rotation[:, :2], gate, phase)
