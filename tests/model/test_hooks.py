"""Modules are called through ``__call__``, so hooks that load and offload weights see every use."""

import pytest
import torch
from accelerate import cpu_offload
from models import CAUSAL, ENCODERS, MODELS, make, tokens
from torch import Tensor, nn

from fftnet import FFTNet
from fftnet.model.mixers import MIXERS


def everything(model: FFTNet) -> list[Tensor]:
    """Return the logits of all ways to read a text."""
    text = tokens(2, 9)
    mask = torch.arange(9) >= torch.tensor([[4], [0]])
    logits = [model(text), model(text, mask)]
    if model.config.causal:
        read, state = model.prefill(text[:, :7], chunk_size=4)
        one, state = model.step(text[:, 7], state)
        last, _ = model(text[:, 8:], None, state)
        masked, _ = model.prefill(text, attention_mask=mask)
        first, _ = model.step(text[:, 0], model.init_state(2))
        logits += [read, one, last, masked, first]
    return logits


@pytest.mark.parametrize("fields", [*MODELS, *ENCODERS], ids=str)
@torch.no_grad()
def test_a_model_whose_weights_are_offloaded_computes_the_same(fields: dict[str, object]) -> None:
    model = make(**fields)
    expected = everything(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(everything(model), expected, rtol=0, atol=0)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_every_module_that_owns_parameters_is_called(name: str) -> None:
    model = make(mixers=(name,), causal=name in CAUSAL)
    called: set[nn.Module] = set()
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: called.add(module))
    owners = {module for module in model.modules() if any(True for _ in module.parameters(recurse=False))}
    reads = [lambda: model(tokens(2, 5))]
    if name in CAUSAL:
        _, state = model.prefill(tokens(2, 5))
        reads += [
            lambda: model.prefill(tokens(2, 4), state),
            lambda: model.step(tokens(2, 1)[:, 0], state),
        ]
    for read in reads:
        called.clear()
        read()
        assert owners | {model, model.backbone, *model.backbone.layers} <= called


def test_the_tied_embedding_is_one_parameter() -> None:
    model = make()
    named = [name for name in model.state_dict() if name.startswith("embedding")]
    assert named == ["embedding.weight"]
    hidden = model.backbone(model.embedding(tokens(2, 5)))
    torch.testing.assert_close(model(tokens(2, 5)), hidden @ model.embedding.weight.T, rtol=1e-12, atol=1e-12)
