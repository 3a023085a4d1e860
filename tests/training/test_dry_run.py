"""A run says first what it will do, and the dry run behind that leaves no trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import VOCAB, Chain, at_step, make, next_token, weights
from torch import nn

from fftnet import FFTNet, FFTNetConfig
from fftnet.protocols import Batch, Losses
from fftnet.training.dry_run import dry_run, model_summary


def test_a_run_says_first_what_it_is_about_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = make(tmp_path, max_steps=10, progress=True)
    trainer.train()
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert lines[0] == "264 parameters (0 128; 2 136)"
    assert lines[1].startswith(
        "10 steps of about 128 tokens, 1,280 in all: 2.5 epochs of 4 batches; 4 to validate"
    )
    assert "tokens/s" in lines[2]
    assert "GB of memory" in lines[2]
    assert trainer.forecast.flops == 3 * 2 * 16 * VOCAB * 128
    assert trainer.forecast.peak_flops > 1e9
    assert 1e8 < trainer.forecast.memory < 1e11


def test_a_batch_too_small_for_its_micro_batches_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, max_steps=1, progress=True, accumulation_steps=9).train()
    assert "batches of 8 rows leave some of 9 micro-batches empty: raise batch_size" in capfd.readouterr().err


def test_parameters_are_told_by_part() -> None:
    model = FFTNet(FFTNetConfig(vocab_size=9, d_model=8, num_heads=2, num_layers=3))
    text = model_summary(model)
    assert text.startswith(f"{model.num_parameters():,} parameters (embedding 72; 3 layers of ")
    inner = [int(word.split()[-1].replace(",", "")) for word in text.split(": ")[1].split(";")[0].split(", ")]
    assert 3 * sum(inner) + 72 + 8 == model.num_parameters()


def test_the_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    first = make(tmp_path / "a", max_steps=4, eval_every=4)
    start = weights(first).clone()
    at_step(first, 0, lambda: torch.testing.assert_close(weights(first), start, rtol=0, atol=0))
    first.train()
    torch.manual_seed(99)
    np.random.seed(5)
    second = make(tmp_path / "b", max_steps=4, eval_every=4)
    torch.rand(7)
    second.train()
    assert torch.equal(weights(first), weights(second))


def test_the_dry_run_leaves_running_statistics_alone(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.distributed.raw_model.register_buffer("mean", torch.zeros(()))

    def counting(model: nn.Module, batch: Batch) -> Losses:
        with torch.no_grad():
            model.get_buffer("mean").add_(1.0)
        return next_token(model, batch)

    dry_run(trainer.distributed, counting, Chain().batch(0, 0))
    assert trainer.distributed.raw_model.get_buffer("mean") == 0
    assert all(parameter.grad is None for parameter in trainer.distributed.raw_model.parameters())
