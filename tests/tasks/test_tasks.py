"""Objectives on text: they learn the structure of data, and nothing from noise."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import VOCAB, Chain, language_model, make, text
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet import FFTNet, FFTNetConfig
from fftnet.protocols import Batch, Batches
from fftnet.tasks import LANGUAGE_TASKS
from fftnet.tasks.text import config_of


class Noise:
    """Independent, uniform tokens: their past predicts nothing."""

    def __init__(self, batches: int, seed: int) -> None:
        self.num_batches = batches
        self.seed = seed

    def batch(self, epoch: int, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, epoch, index))
        return text(torch.from_numpy(rng.integers(0, VOCAB, (8, 33))))


def loss_of(model: FFTNet, task: str, train: Batches, valid: Batches, folder: Path, steps: int = 60) -> float:
    settings: dict[str, Any] = {"max_steps": steps, "eval_every": steps, "learning_rate": 1e-2}
    trainer = make(folder, train, LANGUAGE_TASKS[task](), model, valid, save_model=False, **settings)
    return trainer.train()[-1]["loss"]


def test_the_loss_falls_below_the_unigram_entropy_on_a_chain_and_not_on_noise(tmp_path: Path) -> None:
    chain = loss_of(language_model(), "next_token", Chain(), Chain(seed=1), tmp_path / "chain")
    assert chain < 0.5 * math.log(VOCAB)
    noise = loss_of(language_model(), "next_token", Noise(1000, seed=0), Noise(4, seed=1), tmp_path / "noise")
    assert noise > math.log(VOCAB) - 0.02


def test_a_bidirectional_model_learns_masked_tokens(tmp_path: Path) -> None:
    model = language_model(vocab_size=VOCAB + 1, causal=False, max_seq_length=17)
    loss = loss_of(model, "masked_token", Chain(50, noise=0.0), Chain(2, 1, 0.0), tmp_path, 120)
    assert loss < 0.8 * math.log(VOCAB)


def test_next_token_training_of_a_bidirectional_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs causal=True: .* copies it .* masked_token instead"):
        LANGUAGE_TASKS["next_token"].build_model(FFTNetConfig(vocab_size=1, causal=False), VOCAB)
    with pytest.raises(ValueError, match="needs causal=True"):
        LANGUAGE_TASKS["next_token"]()(language_model(causal=False), Chain().batch(0, 0))


def test_masked_tokens_are_replaced_and_predicted_and_nothing_else_counts() -> None:
    """A model that answers with the ids it sees is right nowhere, and always says the mask token."""
    rows = torch.randint(0, VOCAB, (40, 33))
    rows[3, 20:] = -1
    batch = text(rows)
    batch = batch._replace(loss_mask=batch.loss_mask & (torch.arange(40) < 39)[:, None])

    class Copier(nn.Module):
        config = FFTNetConfig(vocab_size=VOCAB + 1, causal=False)

        def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            self.seen = tokens
            return F.one_hot(tokens, VOCAB + 1) * 9.0

    model = Copier()
    losses = LANGUAGE_TASKS["masked_token"]()(model.train(), batch)
    masked = model.seen == VOCAB
    assert torch.equal(model.seen[~masked], batch.inputs[~masked])
    assert losses.count == masked.sum()
    assert 0.1 < masked[:39].float().mean() < 0.2
    assert not masked[39].any()
    assert not masked[3, 20:].any()
    assert losses.metrics["accuracy"].total == 0
    assert losses.loss.item() == pytest.approx(
        masked.sum().item() * (9 + math.log(1 + VOCAB * math.exp(-9))), rel=1e-5
    )
    first = [LANGUAGE_TASKS["masked_token"]()(model.eval(), batch).count for _ in range(2)]
    assert first[0] == first[1]


def test_the_mask_token_is_one_more_and_a_wrapped_model_has_its_configuration() -> None:
    for name, size in (("next_token", VOCAB), ("masked_token", VOCAB + 1)):
        config = FFTNetConfig(vocab_size=1, d_model=16, causal=name == "next_token")
        model = LANGUAGE_TASKS[name].build_model(config, VOCAB)
        assert config_of(model).vocab_size == VOCAB + LANGUAGE_TASKS[name].extra_tokens == size
        wrapped = nn.Module()
        wrapped.module = model
        assert config_of(wrapped) is model.config
    assert config_of(nn.Linear(1, 1)) is None
