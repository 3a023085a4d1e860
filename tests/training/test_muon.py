"""Muon with AdamW as one optimizer: its updates, its parameters, resuming, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_as_user
from models import CAUSAL
from runs import assert_equal_runs, language_model, make, train_until, weights
from torch import Tensor, nn

from fftnet import serialization
from fftnet.model.mixers import MIXERS
from fftnet.training.accelerator import TrainingError
from fftnet.training.manifest import MANIFEST_FILE, seal
from fftnet.training.optim import OptimConfig, make_optimizer

CONFIG = OptimConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.2)
RUN: dict[str, Any] = {"optimizer": "muon", "max_steps": 12, "eval_every": 3, "keep_last": 9}


class Layer(nn.Module):
    """A layer with matrices of both shapes, stacked gates, a convolution and a bare matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(16, 40)
        self.wide = nn.Linear(40, 16)
        self.gates = nn.GRU(16, 16)
        self.convolution = nn.Conv1d(16, 16, 3)
        self.frequencies = nn.Parameter(torch.randn(4, 16))
        self.norm = nn.LayerNorm(16)


class Model(nn.Module):
    """Two layers between an embedding and a head."""

    _no_split_modules = ("Layer",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(8, 16)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(16, 8)


MATRICES = {f"layers.{number}.{name}.weight" for number in (0, 1) for name in ("narrow", "wide")}


def draw_gradients(model: nn.Module, step: int) -> None:
    """Set gradients that depend on the step only."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_an_update_is_the_orthogonalized_momentum_at_the_scale_of_adamw() -> None:
    model = Model()
    optimizer = make_optimizer(model, CONFIG)
    momentum = {name: torch.zeros_like(dict(model.named_parameters())[name]).double() for name in MATRICES}
    for step, rate in enumerate((0.01, 0.02, 0.005)):
        draw_gradients(model, step)
        before = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, parameter in model.named_parameters():
            if name not in MATRICES:
                continue
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            momentum[name] = 0.95 * momentum[name] + 0.05 * gradient
            # Nesterov: the momentum of the next step, if its gradient were that of this one.
            u, _, vh = torch.linalg.svd(0.95 * momentum[name] + 0.05 * gradient, full_matrices=False)
            update = (before[name] * (1 - rate * 0.2) - parameter.detach()) / rate
            # The iteration in bf16 brings singular values near 1 and keeps the singular vectors.
            rotated = u.T @ update @ vh.T / (0.2 * max(parameter.shape) ** 0.5)
            assert 0.6 < rotated.diagonal().min() < rotated.diagonal().max() < 1.3
            assert (rotated - rotated.diagonal().diag()).abs().max() < 0.05
            assert update.square().mean().sqrt() == pytest.approx(0.2, rel=0.2)


def test_all_other_parameters_change_as_under_adamw_alone() -> None:
    one, other = Model(), Model()
    optimizers = [
        make_optimizer(one, CONFIG),
        make_optimizer(other, OptimConfig(learning_rate=0.01, weight_decay=0.2)),
    ]
    for step in range(5):
        for model, optimizer in zip((one, other), optimizers, strict=True):
            draw_gradients(model, step)
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (step + 1)
            optimizer.step()
    differing = {
        name
        for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(mine, theirs)
    }
    assert differing == MATRICES


def test_muon_gets_the_linear_layers_of_layers_and_adamw_the_rest() -> None:
    model = Model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, *others = make_optimizer(model, CONFIG).param_groups
    assert {names[id(parameter)] for parameter in muon["params"]} == MATRICES
    assert [group["weight_decay"] for group in (muon, *others)] == [0.2, 0.2, 0.0]
    (decayed, _) = others
    assert {names[id(p)] for p in decayed["params"]} == {"embedding.weight", "head.weight"}


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_parameter_is_in_one_group(mixer: str) -> None:
    model = language_model(mixers=(mixer,), causal=mixer in CAUSAL)
    muon, *others = make_optimizer(model, CONFIG).param_groups
    grouped = [id(parameter) for group in (muon, *others) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    owners = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        linear = type(owners[owner]) is nn.Linear and own == "weight"
        assert any(parameter is one for one in muon["params"]) == linear, name
        assert not linear or ".layers." in name


def test_a_closure_is_evaluated_with_gradients() -> None:
    model = Model()
    optimizer = make_optimizer(model, CONFIG)
    before = model.head.weight.detach().clone()

    def closure() -> float:
        loss = model.head.weight.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == pytest.approx(float(before.square().sum()))
    assert not torch.equal(model.head.weight, before)


def test_a_model_without_layers_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"muon needs linear layers .*has none: use optimizer adamw"):
        make(tmp_path, optimizer="muon")


def test_a_matrix_with_fewer_rows_than_processes_is_refused_in_a_sentence() -> None:
    model = Model()
    make_optimizer(model, CONFIG, shards=16)
    with pytest.raises(TrainingError, match=r"can't split a matrix of 16 rows among 17 processes: use fewer"):
        make_optimizer(model, CONFIG, shards=17)
    make_optimizer(model, OptimConfig(), shards=17)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", model=language_model(), **RUN)
    whole.train()
    train_until(make(tmp_path / "part", model=language_model(), **RUN), 7)
    newest = tmp_path / "part" / "step-00000006"
    stored = serialization.read_tensors(newest / "training.safetensors")
    again = make(tmp_path / "part", model=language_model(), **RUN, resume="auto")
    again.train()
    assert_equal_runs(again, whole)
    # Without the momentum it would not.
    change = {name: torch.zeros_like(x) for name, x in stored.items() if name.endswith("momentum_buffer")}
    assert len(change) > 4
    rewrite(newest, stored | change)
    forgetful = make(tmp_path / "other", model=language_model(), **RUN, resume=str(newest))
    forgetful.train()
    assert not torch.equal(weights(forgetful), weights(whole))


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Replace the tensors of a checkpoint's training state, and let its manifest agree."""
    serialization.write_tensors(folder / "training.safetensors", tensors)
    (folder / MANIFEST_FILE).unlink()
    seal(folder)


def test_the_command_trains_with_muon_and_refuses_to_resume_with_adamw(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("".join(f"{n} and {n * n}, " for n in range(600)), encoding="utf-8")
    command = (
        "fftnet train my.txt --d_model 16 --num_heads 2 --num_layers 1 --max_seq_length 32 --batch_size 4 "
        "--trackers none --max_steps 6 --eval_every 3 --no_progress --device cpu"
    )
    run_as_user(f"{command} --optimizer muon --output_dir one", tmp_path)
    losses = [row["loss"] for row in json.loads((tmp_path / "one/metrics.json").read_text())["history"]]
    assert losses[-1] < losses[0]
    stored = serialization.read_tensors(tmp_path / "one/last/training.safetensors")
    assert any(name.endswith("expand.weight.momentum_buffer") for name in stored)
    assert any(name.endswith("embedding.weight.exp_avg") for name in stored)
    refused = run_as_user(f"{command} --output_dir one --resume", tmp_path, code=2)
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "other settings (optim.optimizer muon, not adamw): resume with the flags of its start" in line
    refused = run_as_user(f"{command} --output_dir two --optimizer adam", tmp_path, code=2)
    assert "choose from adamw, muon" in refused.stderr
