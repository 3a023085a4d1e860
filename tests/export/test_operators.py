"""torch.export of models: plain operations, the same numbers, any batch."""

import pytest
import torch
from models import make, tokens
from torch import Tensor

from fftnet.export.programs import PrefillProgram, StatefulProgram, StepProgram
from fftnet.model.fftnet_model import FFTNet
from fftnet.ops import use_backend


def operations(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def traced(program: StatefulProgram, model: FFTNet, ids: Tensor) -> torch.export.ExportedProgram:
    rows = {0: torch.export.Dim("batch", min=1)}
    state = [tensor.clone() for tensor in program.packing.pack(model.prefill(tokens(2, 3))[1])]
    return torch.export.export(program, (ids, *state), dynamic_shapes=(rows, tuple(rows for _ in state)))


@torch.no_grad()
def test_step_and_prefill_are_plain_operations_in_any_batch() -> None:
    model = make(mixers=("addressed_spectral", "causal_spectral"))
    packing = StepProgram(model).packing
    step = traced(StepProgram(model), model, tokens(2, 1)[:, 0])
    prefill = traced(PrefillProgram(model), model, tokens(2, 9))
    for program in (step, prefill):
        assert not any("fftnet" in name or "complex" in name for name in operations(program))
    for batch in (2, 3):
        text = tokens(batch, 25)
        logits, *state = prefill.module()(text[:, 3:12], *packing.pack(model.prefill(text[:, :3])[1]))
        torch.testing.assert_close(logits, model(text[:, :12])[:, -1], rtol=1e-9, atol=1e-9)
        for t in range(12, 25):
            logits, *state = step.module()(text[:, t], *state)
            filters = state.pop()
            assert filters.shape == (batch, 2, 2, 16)
            assert filters[:, 1, :, :4].any()
            assert not filters[:, 1, :, 4:].any(), "a mixer of 4 bins has zeros behind them"
        torch.testing.assert_close(logits, model(text)[:, -1], rtol=1e-9, atol=1e-9)


def test_a_backend_that_is_named_stays_in_the_program() -> None:
    model = make(num_layers=1)
    with use_backend("torch"):
        program = torch.export.export(model, (tokens(2, 9),))
    assert any("fftnet.keyed_mix" in name for name in operations(program))


@torch.no_grad()
@pytest.mark.parametrize("mixer", ["addressed_spectral", "causal_spectral"])
def test_the_filter_at_a_token_is_the_one_that_inspect_shows(mixer: str) -> None:
    model = make(mixers=(mixer,), num_layers=1)
    block = model.backbone.layers[0]
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    _, state = block.mixer(x[:, :8], None, block.mixer.init_state(2))  # pyright: ignore
    found = block.mixer.filter_at(x[:, 8], state)  # pyright: ignore
    expected = block.mixer.inspect(x).filter[:, -1].abs()  # pyright: ignore
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.std() > 0
