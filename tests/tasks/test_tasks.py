"""The objectives on text: they learn what can be learned, and no more."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import VOCAB, Chain, configs, text

from fftnet import FFTNet, FFTNetConfig
from fftnet.protocols import Batch, Batches
from fftnet.tasks import TASKS
from fftnet.utils.trainer import Trainer


class Noise:
    """Independent, uniform tokens: nothing can be learned from the past."""

    def __init__(self, batches: int, seed: int) -> None:
        self.num_batches, self.seed = batches, seed

    def batch(self, epoch: int, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, epoch, index))
        return text(torch.from_numpy(rng.integers(0, VOCAB, (8, 33))))


def tiny(**fields: Any) -> FFTNet:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "d_model": 16,
        "num_heads": 4,
        "num_layers": 2,
        "max_seq_length": 32,
    }
    return FFTNet(FFTNetConfig(**(values | fields)))


def run(model: FFTNet, task: str, train: Batches, valid: Batches, folder: Path, steps: int) -> dict[str, Any]:
    settings = configs(folder, max_steps=steps, eval_every=steps, save_model=False, learning_rate=1e-2)
    trainer = Trainer(model, TASKS[task](), train, valid, **settings)
    return trainer.train()[-1]


def test_fftnet_ends_under_the_unigram_entropy_of_a_chain(tmp_path: Path) -> None:
    final = run(tiny(), "next_token", Chain(), Chain(seed=1), tmp_path, 60)
    assert final["loss"] < 0.5 * math.log(VOCAB)


def test_fftnet_does_not_end_under_the_entropy_of_noise(tmp_path: Path) -> None:
    final = run(tiny(), "next_token", Noise(1000, seed=0), Noise(4, seed=1), tmp_path, 60)
    assert final["loss"] > math.log(VOCAB) - 0.02


def test_a_bidirectional_model_learns_masked_tokens(tmp_path: Path) -> None:
    model = tiny(vocab_size=VOCAB + 1, causal=False, max_seq_length=17)
    final = run(model, "masked_token", Chain(50, noise=0.0), Chain(2, 1, 0.0), tmp_path, 120)
    assert final["loss"] < 0.8 * math.log(VOCAB)


def test_next_token_training_of_a_bidirectional_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs causal=True: .* copies it .* masked_token instead"):
        TASKS["next_token"].build_model(FFTNetConfig(vocab_size=1, causal=False), VOCAB)
    with pytest.raises(ValueError, match="needs causal=True"):
        TASKS["next_token"]()(tiny(causal=False), Chain().batch(0, 0))
