"""The arms of the ablations: each differs from the whole mixer, is causal, and learns all that is left."""

import pytest
import torch

from experiments.baselines.ablated import PARTS, Ablated, AblatedConfig
from fftnet.model.mixers.addressed_spectral import AddressedSpectralMixer

SAME_AT_FIRST = ("modReLU", "clock")
"""Parts that start where they change nothing."""


def made(kind: type[AddressedSpectralMixer], without: str | None = None) -> AddressedSpectralMixer:
    torch.manual_seed(0)
    config = None if without is None else AblatedConfig(without=without)
    return kind(16, 2, config).double()


def test_without_nothing_it_is_the_mixer() -> None:
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    torch.testing.assert_close(made(Ablated)(x), made(AddressedSpectralMixer)(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="without must be one of base filter, base key"):
        AblatedConfig(without="soul")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_taken_out(part: str) -> None:
    whole = made(AddressedSpectralMixer)
    mixer = made(Ablated, part)
    x = torch.randn(2, 20, 16, dtype=torch.float64)
    y = mixer(x)
    assert torch.equal(y, whole(x)) == (part in SAME_AT_FIRST)
    y.square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = [count(kind) for kind in (mixer, whole)]
    kept = ("modReLU on the filter", "write keys", "norm of keys and filters", "matched start")
    assert (trained[0] < trained[1]) == (part not in (*kept, "mean in the context", "read-out norm"))
    later = x.clone()
    later[:, 12:] += 1.0
    torch.testing.assert_close(mixer(later)[:, :12], y[:, :12], rtol=1e-12, atol=1e-12)


def count(mixer: AddressedSpectralMixer) -> int:
    return sum(parameter.numel() for parameter in mixer.parameters() if parameter.requires_grad)
