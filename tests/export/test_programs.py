"""Programs that are traced: plain operations, the same numbers, any batch; states in few tensors."""

from typing import NamedTuple

import pytest
import torch
from models import make, tokens
from torch import Tensor

from fftnet.export.programs import Packing, PrefillProgram, StatefulProgram, StepProgram
from fftnet.model.fftnet_model import FFTNet
from fftnet.ops import use_backend


def traced(program: StatefulProgram, model: FFTNet, ids: Tensor) -> torch.export.ExportedProgram:
    rows = {0: torch.export.Dim("batch", min=1)}
    state = [tensor.clone() for tensor in program.packing.pack(model.prefill(tokens(2, 3))[1])]
    return torch.export.export(program, (ids, *state), dynamic_shapes=(rows, tuple(rows for _ in state)))


@torch.no_grad()
def test_step_and_prefill_are_plain_operations_in_any_batch() -> None:
    model = make(mixers=("addressed_spectral", "delta_spectral"))
    packing = StepProgram(model).packing
    step = traced(StepProgram(model), model, tokens(2, 1)[:, 0])
    prefill = traced(PrefillProgram(model), model, tokens(2, 9))
    for program in (step, prefill):
        code = str(program.graph)
        assert "fftnet" not in code
        assert "complex" not in code
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


def test_a_named_backend_stays_in_the_program() -> None:
    model = make(num_layers=1)
    with use_backend("torch"):
        program = torch.export.export(model, (tokens(2, 9),))
    assert "fftnet.keyed_mix" in str(program.graph)


@torch.no_grad()
@pytest.mark.parametrize("mixer", ["addressed_spectral", "delta_spectral"])
def test_the_filter_at_a_token_is_the_one_that_inspect_shows(mixer: str) -> None:
    model = make(mixers=(mixer,), num_layers=1)
    block = model.backbone.layers[0]
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    _, state = block.mixer(x[:, :8], None, block.mixer.init_state(2))  # pyright: ignore
    found = block.mixer.filter_at(x[:, 8], state)  # pyright: ignore
    expected = block.mixer.inspect(x).filter[:, -1].abs()  # pyright: ignore
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.std() > 0


def test_equal_layers_share_tensors() -> None:
    model = make(mixers=("addressed_spectral", "attention"), num_layers=4)
    with torch.no_grad():
        _, state = model.prefill(tokens(3, 5))
    packing = Packing(model.init_state(1, "meta"))
    packed = {(entry.field, entry.layers): entry for entry in packing.tensors}
    fields = [("spectrum", (0, 2)), ("mean", (0, 2)), ("count", (0, 2)), ("conv_state", (0, 2))]
    for layer in (1, 3):
        fields += [(field, (layer,)) for field in ("keys", "values", "count", "filled")]
    assert sorted(packed) == sorted(fields)
    assert [entry.layers for entry in packing.tensors] == sorted(entry.layers for entry in packing.tensors)
    assert {entry.field: entry.grows for entry in packing.tensors if entry.grows} == {"keys": 2, "values": 2}
    tensors = packing.pack(state)
    spectrum = tensors[packing.tensors.index(packed["spectrum", (0, 2)])]
    assert spectrum.shape == (3, 2 * 2, 2, 16, 4)
    torch.testing.assert_close(spectrum[:, 2:], state[2].spectrum)
    for layer, expected in zip(packing.unpack(tensors), state, strict=True):
        assert type(layer) is type(expected)
        torch.testing.assert_close(layer, expected, rtol=0, atol=0)


class Counts(NamedTuple):
    parity: Tensor
    shape: Tensor


def test_numbers_that_are_not_common_stay_alone() -> None:
    state = (Counts(torch.tensor([1]), torch.zeros(1, 2)), Counts(torch.tensor([0]), torch.ones(1, 3)))
    packing = Packing(state)
    assert len(packing.tensors) == 4
    for layer, expected in zip(packing.unpack(packing.pack(state)), state, strict=True):
        torch.testing.assert_close(layer, expected)
