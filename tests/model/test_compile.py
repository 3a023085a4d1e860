"""torch.compile and torch.export: whole graphs, lengths that vary, the same numbers and gradients."""

import pytest
import torch
from conftest import assert_same
from models import make, tokens

from fftnet.model import select_state


@pytest.mark.parametrize("fields", [{}, {"mixers": ("delta_spectral",)}, {"causal": False}], ids=str)
def test_one_graph_serves_all_lengths(fields: dict[str, object]) -> None:
    torch.compiler.reset()
    model = make(num_layers=1, **fields)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for number, length in enumerate((7, 300, 31, 513)):
        stance = "fail_on_recompile" if number > 1 else "default"
        with torch.compiler.set_stance(stance):
            actual = compiled(tokens(2, length))
        assert_same(actual, model(tokens(2, length)), model.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_inductor_compiles_the_decode_step() -> None:
    torch.compiler.reset()
    model = make(num_layers=1)
    with torch.no_grad():
        step = torch.compile(model.step, fullgraph=True)
        text = tokens(2, 5)
        state = model.init_state(2)
        logits = torch.empty(0)
        for t in range(5):
            logits, state = step(text[:, t], state)
        torch.testing.assert_close(logits, model(text)[:, -1], rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_is_compiled_once_wherever_its_state_comes_from(batch: int) -> None:
    torch.compiler.reset()
    model = make(num_layers=1)
    step = torch.compile(model.step, fullgraph=True, dynamic=False, backend="aot_eager")
    text = tokens(batch, 30)
    _, state = step(text[:, 0], model.init_state(batch))
    states = [(1, state), (1, model.step(text[:, 0], model.init_state(batch))[1])]
    states += [(n, model.prefill(text[:, :n])[1]) for n in (1, 2, 7, 29)]
    states += [(n, select_state(state, torch.arange(batch))) for n, state in states]
    with torch.compiler.set_stance("fail_on_recompile"):
        for read, state in states:
            logits, _ = step(text[:, read], state)
            torch.testing.assert_close(logits, model(text[:, : read + 1])[:, -1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "operators"), [({}, []), ({"causal": False}, ["fftnet.spectral_mix.default"])], ids=str
)
def test_export_runs_at_other_lengths(fields: dict[str, object], operators: list[str]) -> None:
    model = make(num_layers=1, **fields)
    length = torch.export.Dim("length", min=2)
    exported = torch.export.export(model, (tokens(2, 19),), dynamic_shapes=({1: length},))
    assert [name for node in exported.graph.nodes if "fftnet" in (name := str(node.target))] == operators
    for other in (2, 5, 64, 301):
        torch.testing.assert_close(
            exported.module()(tokens(2, other)), model(tokens(2, other)), rtol=1e-9, atol=1e-9
        )
