"""How a run computes: precision, activation checkpointing, compilation. What it learns stays the same."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from runs import VOCAB, Chain, Poisoned, at_step, configs, make, next_token, stop, weights
from torch import Tensor, nn

from fftnet import FFTNet, FFTNetConfig
from fftnet.protocols import Objective
from fftnet.utils.trainer import Trainer


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ({"activation_checkpointing": True}, 0.0),
        ({"precision": "fp32"}, 0.0),
        ({"accumulation_steps": 2}, 1e-4),
        ({"precision": "bf16"}, 0.05),
    ],
)
def test_how_it_computes_does_not_change_what_is_learned(
    tmp_path: Path, values: dict[str, Any], tolerance: float
) -> None:
    def final(name: str, **values: Any) -> tuple[float, Tensor]:
        torch.manual_seed(0)
        model = FFTNet(FFTNetConfig(vocab_size=VOCAB, d_model=16, num_heads=4, num_layers=2))
        settings = configs(tmp_path / name, max_steps=30, eval_every=30, learning_rate=1e-2, **values)
        trainer = Trainer(model, next_token, Chain(), Chain(seed=1), **settings)
        return trainer.train()[-1]["loss"], weights(trainer)

    plain = final("plain")
    other = final("other", **values)
    assert other[0] == pytest.approx(plain[0], abs=tolerance)
    assert torch.equal(plain[1], other[1]) == (tolerance == 0)


def test_a_loss_scale_changes_nothing_and_falls_on_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate scales losses on GPUs only; its optimizer does the same with a scaler of the CPU."""

    def scaled(name: str, objective: Objective, **values: Any) -> Trainer:
        trainer = make(tmp_path / name, objective=objective, max_steps=4, eval_every=4, **values)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = AcceleratedOptimizer(trainer.distributed.optimizer.optimizer, scaler=scaler)
        trainer.distributed.accelerator.scaler = scaler
        unscale = partial(scaler.unscale_, optimizer.optimizer)
        monkeypatch.setattr(trainer.distributed.accelerator, "unscale_gradients", unscale)
        trainer.distributed.optimizer = optimizer
        return trainer

    plain = make(tmp_path / "plain", max_steps=4, eval_every=4)
    plain.train()
    same = scaled("same", next_token)
    same.train()
    torch.testing.assert_close(weights(same), weights(plain), rtol=1e-6, atol=1e-7)
    bad = Poisoned({2: math.inf})
    overflown = scaled("overflown", bad)
    assert overflown.train()[-1]["skipped"] == 1
    stored = json.loads((tmp_path / "overflown" / "last" / "training.json").read_text())
    assert stored["scaler"]["scale"] == 512.0
    again = scaled("overflown", bad, resume="auto")
    again.train()
    assert again.distributed.accelerator.scaler is not None
    assert again.distributed.accelerator.scaler.get_scale() == 512.0


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_model_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    plain = make(tmp_path / "plain", max_steps=6, eval_every=6, learning_rate=1e-2)
    compiled = make(tmp_path / "compiled", max_steps=6, eval_every=6, learning_rate=1e-2, compile=True)
    assert compiled.train()[-1]["loss"] == pytest.approx(plain.train()[-1]["loss"], rel=1e-4)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)
    again = make(tmp_path / "compiled", max_steps=6, eval_every=6, learning_rate=1e-2, resume="auto")
    again.train()
    assert torch.equal(weights(again), weights(compiled))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_run_with_two_threads_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def prepared(name: str, **values: Any) -> Trainer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(VOCAB, 256), nn.Dropout(0.1), nn.Linear(256, VOCAB))
        settings = configs(tmp_path / name, max_steps=20, eval_every=20, save_every=8, compile=True, **values)
        return Trainer(model, next_token, Chain(), Chain(seed=1), **settings)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = prepared("whole")
        part = prepared("part")
        whole.train()
        at_step(part, 11, stop)
        with pytest.raises(KeyboardInterrupt):
            part.train()
        again = prepared("part", resume="auto")
        again.train()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(weights(again), weights(whole))
