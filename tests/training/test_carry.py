"""Carried states (truncated BPTT): gradients computed by hand, resuming, and splitting among processes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randomise
from runs import VOCAB, assert_equal_runs, language_model, make, train_until, weights
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet import FFTNet
from fftnet.data.windows import StretchBatches
from fftnet.model.state import State
from fftnet.protocols import Batch, Losses, RowStates
from fftnet.tasks.next_token import NextToken
from fftnet.training import state as state_module
from fftnet.training.accelerator import TrainingError
from fftnet.training.sharding import Carried, deal_out, join
from fftnet.utils.trainer import Trainer

MIXERS = [("delta_spectral",), ("attention",), ("delta_spectral", "attention")]
WINDOWS = 4
ROWS = 3


def stretches(windows: int = WINDOWS) -> StretchBatches:
    """A text of which 7 stretches of 4 windows of 8 tokens are made, for batches of 3, 3 and 1 rows."""
    tokens = np.random.default_rng(5).integers(0, VOCAB, 7 * 32 + 9)
    return StretchBatches(tokens, ROWS, 8, windows, 1)


def carrying(
    folder: Path, mixers: tuple[str, ...] = MIXERS[2], objective: Any = None, **values: Any
) -> Trainer:
    model = language_model(d_model=8, num_heads=2, max_seq_length=8, mixers=mixers, dropout=0.1)
    fields: dict[str, Any] = {"max_steps": 10, "eval_every": 10, "save_every": 3} | values
    return make(folder, stretches(), objective or NextToken(), model, **fields)


def detached(state: State) -> State:
    return tuple(type(layer)(*(tensor.detach().clone() for tensor in layer)) for layer in state)


def by_hand(model: FFTNet, batch: Batch, state: State) -> tuple[float, list[Tensor | None], State]:
    """Mean loss of a window, its gradients, and the state behind it."""
    logits, after = model(batch.inputs, None, state)
    loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return loss.item(), list(found), after


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("mixers", MIXERS)
def test_loss_and_gradient_of_two_windows_equal_a_computation_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixers: tuple[str, ...], parts: int
) -> None:
    """Three rows: two micro-batches of them have a row that only fills up."""
    # The objective sums in float32, whatever the logits are; here in float64, for the last digits to agree.
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    trainer = carrying(tmp_path, mixers, accumulation_steps=parts)
    model = trainer.distributed.raw_model
    assert isinstance(model, FFTNet)
    randomise(model)
    data = stretches()
    state = model.init_state(ROWS)
    carried = None
    loss = 0.0
    gradients: list[Tensor | None] = []
    for index in range(2):
        batch = data.batch(0, index)
        loss, gradients, state = by_hand(model, batch, detached(state))
        earlier = carried and [{key: x.clone() for key, x in part.items()} for part in carried.parts]
        (total, count), after = trainer.distributed.accumulate(NextToken(), batch, carried=carried)
        assert total / count == pytest.approx(loss, rel=1e-12)
        for parameter, wanted in zip(model.parameters(), gradients, strict=True):
            assert wanted is not None
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-9, atol=1e-12)
        for part, before in zip(carried.parts if carried else (), earlier or (), strict=True):
            assert all(torch.equal(part[key], before[key]) for key in before), "a state was spoilt"
        assert after is not None
        assert not any(tensor.requires_grad for part in after.parts for tensor in part.values())
        carried = after
    both = torch.cat([data.batch(0, index).inputs for index in range(2)], dim=1)
    logits = model(both)
    assert isinstance(logits, Tensor)
    targets = data.batch(0, 1).targets
    whole = F.cross_entropy(logits[:, 8:].flatten(0, 1), targets.flatten())
    assert loss == pytest.approx(whole.item(), rel=1e-9), "the second window goes on from the first"
    # The control: a gradient that is not cut is another one.
    through = torch.autograd.grad(whole, list(model.parameters()))
    assert not all(torch.allclose(a, b) for a, b in zip(through, gradients, strict=True) if b is not None)


@pytest.mark.parametrize(
    ("mixers", "values"),
    [
        (MIXERS[0], {}),
        (MIXERS[2], {"accumulation_steps": 2}),
        (MIXERS[2], {"precision": "bf16", "ema_decay": 0.9, "activation_checkpointing": True}),
    ],
)
def test_a_run_resumed_between_carried_windows_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixers: tuple[str, ...], values: dict[str, Any]
) -> None:
    whole = carrying(tmp_path / "whole", mixers, **values)
    whole.train()
    for name in ("part", "forgetful"):
        part = carrying(tmp_path / name, mixers, **values)
        train_until(part, 7)
        assert part.checkpointer.saved_step == 6, "two windows of the second stretch are read"
    again = carrying(tmp_path / "part", mixers, resume="auto", **values)
    again.train()
    assert_equal_runs(again, whole)
    monkeypatch.setattr(state_module, "deal_out", lambda *_: None)
    other = carrying(tmp_path / "forgetful", mixers, resume="auto", **values)
    other.train()
    # The control: without the states it is another run.
    assert not torch.equal(weights(other), weights(whole))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_run_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    # Carrying changes the graphs; test_accelerator.py tests their machine code, which takes half a minute.
    compile_model: Callable[..., Any] = torch.compile
    graphs_only = {"backend": "aot_eager"}
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: compile_model(model, **(options | graphs_only))
    )
    values: dict[str, Any] = {"save_model": False, "max_steps": 6, "eval_every": 6}
    plain = carrying(tmp_path / "plain", MIXERS[0], **values)
    compiled = carrying(tmp_path / "compiled", MIXERS[0], **values, compile=True)
    assert compiled.train()[-1]["loss"] == pytest.approx(plain.train()[-1]["loss"], rel=1e-4)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)


class Watched(NextToken):
    """Notes which windows begin anew; the loss of one of them is not finite."""

    def __init__(self, bad: int = -1) -> None:
        super().__init__()
        self.bad = bad
        self.anew: list[bool] = []

    def carry(self, model: nn.Module, batch: Batch, state: RowStates | None) -> tuple[Losses, RowStates]:
        found, after = super().carry(model, batch, state)
        self.anew.append(state is None)
        return found._replace(loss=found.loss * (math.inf if len(self.anew) - 1 == self.bad else 1)), after


def test_states_are_reset_after_a_stretch_and_after_a_skipped_update(tmp_path: Path) -> None:
    objective = Watched()
    carrying(tmp_path / "plain", objective=objective, save_model=False).train()
    # The dry run reads the first window twice.
    assert objective.anew[2:] == [step in (0, 4, 8) for step in range(10)]
    objective = Watched(bad=2 + 5)
    carrying(tmp_path / "skipped", objective=objective, save_model=False).train()
    assert objective.anew[2:] == [step in (0, 4, 6, 8) for step in range(10)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_joined_states_are_split_again(world: int, parts: int) -> None:
    rows = torch.arange(10).view(5, 2)
    padded = torch.cat([rows, rows[-1:]])
    before = [Carried(5, ({"x": padded[:2]}, {"x": padded[2:4]})), Carried(5, ({"x": padded[4:]},))]
    stored = join(before)
    assert torch.equal(stored["carried.x"], rows)
    dealt = [deal_out(stored | {"rng.0": rows}, rank, world, parts) for rank in range(world)]
    states = [part["x"] for each in dealt if each is not None for part in each.parts]
    assert len(states) == world * parts
    assert len({len(state) for state in states}) == 1
    assert torch.equal(torch.cat(states)[:5], rows)
    assert deal_out({"rng.0": rows}, 0, world, parts) is None


def test_an_objective_without_a_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a method carry; Stateless has none: use carry_state 0"):
        make(tmp_path, stretches(), Stateless()).train()


class Stateless:
    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        return NextToken()(model, batch)
