"""Every mixer on a GPU against float64 on the CPU; without a GPU nothing here can run."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models import ENCODERS, MODELS, make, tokens

from fftnet import FFTNet, generate
from fftnet.api.generate import SamplingConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA")


def results(model: FFTNet, tokens_BT: torch.Tensor) -> list[torch.Tensor]:
    logits_BTV = model(tokens_BT)
    loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [logits_BTV.detach(), *(x for x in gradients if x is not None)]


@pytest.mark.parametrize("fields", [*MODELS, *ENCODERS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients(fields: dict[str, object], dtype: torch.dtype) -> None:
    model = make(**fields)
    tokens_BT = tokens(2, 131)
    expected = results(model, tokens_BT)
    actual = results(copy.deepcopy(model).to("cuda", dtype), tokens_BT.cuda())
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    for one, other in zip(actual, expected, strict=True):
        # A gradient that is almost 0 is a difference of large numbers.
        assert (one.cpu().double() - other).norm() <= tolerance * (other.norm() + 1e-3)


@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_the_same_tokens_are_written(fields: dict[str, object]) -> None:
    model = make(**fields)
    prompts = [[1, 2, 3], [4, 5]]
    config = SamplingConfig(temperature=0.0, max_new_tokens=20)
    expected = generate(model, prompts, config).tokens
    assert generate(model.cuda(), prompts, config).tokens == expected
