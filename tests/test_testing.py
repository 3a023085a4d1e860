"""``assert_causal`` and ``first_token_loss`` on leaky and on honest models."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import CAUSAL, VOCAB, make, tokens
from torch import Tensor, nn
from torch.nn import functional as F

from fftnet.ops import use_backend
from fftnet.testing import CausalityError, assert_causal, first_token_loss

Probed = Callable[[Tensor], Any]
LENGTH = 12
WIDTH = 8
TABLE = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(1))
MATRIX = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)) / WIDTH**0.5
LOWER = torch.ones(LENGTH, LENGTH).tril()


def embed(ids: Tensor) -> Tensor:
    return TABLE[ids]


def honest(ids: Tensor) -> Tensor:
    """Return a nonlinear function of the running mean and the token."""
    x = embed(ids)
    count = torch.arange(1, x.shape[1] + 1)[:, None]
    return torch.tanh(x.cumsum(dim=1) / count + x) @ MATRIX


def following(ids: Tensor) -> Tensor:
    """Return the next token's embedding, 0 at the end."""
    return F.pad(embed(ids)[:, 1:], (0, 0, 0, 1))


def only(x: Tensor, places: Any) -> Tensor:
    kept = torch.zeros_like(x)
    kept[places] = x[places]
    return kept


def with_spike(y: Tensor) -> Tensor:
    y = y.clone()
    y[0, 3, 2] = 1e4
    return y


def attend(ids: Tensor, mask: Tensor | None) -> Tensor:
    x = embed(ids)
    return F.scaled_dot_product_attention(x @ MATRIX, x, x, attn_mask=mask)


def convolved(ids: Tensor, length: int) -> Tensor:
    """Return a causal convolution by an FFT of this length; a length of T wraps around and leaks."""
    x = embed(ids)
    kernel = 0.7 ** torch.arange(x.shape[1], dtype=x.dtype)
    spectrum = torch.fft.rfft(x, n=length, dim=1) * torch.fft.rfft(kernel, n=length)[:, None]
    return torch.fft.irfft(spectrum, n=length, dim=1)[:, : x.shape[1]]


def recurrent(kind: type[nn.GRU] | type[nn.LSTM], **options: Any) -> Probed:
    torch.manual_seed(3)
    layer = kind(WIDTH, WIDTH, batch_first=True, **options)
    return lambda ids: layer(embed(ids))


LEAKY: dict[str, Probed] = {
    "next token": following,
    "next token in one-hot": lambda ids: F.one_hot(ids.roll(-1, dims=1), VOCAB).float(),
    "next ids as integers": lambda ids: ids.roll(-1, dims=1)[..., None],
    "next token in an object": lambda ids: SimpleNamespace(logits=following(ids)),
    "next token in a tuple": lambda ids: (following(ids), None),
    "next token as complex": lambda ids: torch.complex(embed(ids), following(ids)),
    "leak of 3e-4": lambda ids: honest(ids) + 3e-4 * following(ids),
    "leak of 3e-4 of large outputs": lambda ids: 1e4 * honest(ids) + 3 * following(ids),
    "leak of 3e-4 of small outputs": lambda ids: 1e-6 * (honest(ids) + 3e-4 * following(ids)),
    "next token beside a spike": lambda ids: with_spike(honest(ids) + following(ids)),
    "leak of 3e-4 beside a spike": lambda ids: with_spike(honest(ids) + 3e-4 * following(ids)),
    "next token beside a large channel": lambda ids: torch.cat([honest(ids) + 1e4, following(ids)], dim=-1),
    "next token beside a large position": lambda ids: (
        following(ids) + only(honest(ids) * 1e5, (slice(None), 0))
    ),
    "next token beside constants": lambda ids: F.pad(following(ids), (30, 0), value=1e3),
    "next token beside zeros": lambda ids: F.pad(following(ids), (30, 0)),
    "at one position": lambda ids: honest(ids) + only(following(ids), (slice(None), 4)),
    "at the first position": lambda ids: honest(ids) + only(following(ids), (slice(None), 0)),
    "in one channel": lambda ids: honest(ids) + only(following(ids), (..., 5)),
    "in one row": lambda ids: honest(ids) + only(following(ids), (1,)),
    "in one number": lambda ids: honest(ids) + 1e-3 * only(following(ids), (1, 4, 5)),
    "the last token": lambda ids: honest(ids) + 0.01 * embed(ids)[:, -1:],
    "mean over time": lambda ids: embed(ids) - embed(ids).mean(dim=1, keepdim=True),
    "normalisation over time": lambda ids: F.layer_norm(embed(ids).mT, (LENGTH,)).mT,
    "maximum over time": lambda ids: embed(ids) + embed(ids).amax(dim=1, keepdim=True),
    "sorting over time": lambda ids: embed(ids).sort(dim=1).values,
    "batch statistics": lambda ids: F.batch_norm(embed(ids).mT, None, None, training=True).mT,
    "FFT over time": lambda ids: torch.fft.fft(embed(ids), dim=1).real,
    "circular convolution": lambda ids: convolved(ids, LENGTH),
    "attention without a mask": lambda ids: attend(ids, None),
    "attention with a mask off by one": lambda ids: attend(ids, torch.ones(LENGTH, LENGTH).tril(1).bool()),
    "soft mask": lambda ids: attend(ids, -8.0 * torch.ones(LENGTH, LENGTH).triu(1)),
    "bidirectional GRU": recurrent(nn.GRU, bidirectional=True),
    "reversed convolution": lambda ids: (
        F.conv1d(embed(ids).mT, MATRIX[..., None].expand(-1, -1, 3), padding=1).mT
    ),
    "phase only": lambda ids: torch.polar(torch.ones(*ids.shape, WIDTH), 1e-3 * following(ids)),
}


def summed_in_another_order(ids: Tensor) -> Tensor:
    """Return causal sums in a new order at every call, so that round-off differs."""
    order = torch.randperm(LENGTH)
    return torch.stack([(LOWER[:, j, None] * embed(ids)[:, j, None]) for j in order]).sum(dim=0)


def transformer() -> Probed:
    torch.manual_seed(4)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.5, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    model = nn.Sequential(nn.Embedding(VOCAB, WIDTH), layer)
    return lambda ids: model.eval()[1](model[0](ids), src_mask=mask, is_causal=True)


HONEST: dict[str, Probed] = {
    "mean and token": honest,
    "the token alone": embed,
    "the token before": lambda ids: embed(ids.roll(1, dims=1)) * (torch.arange(LENGTH) > 0)[:, None],
    "constants": lambda ids: torch.full((*ids.shape, 3), 7.0),
    "zeros": lambda ids: torch.zeros(*ids.shape, 3),
    "positions alone": lambda ids: torch.arange(LENGTH).expand(*ids.shape)[..., None],
    "ids": lambda ids: ids,
    "large outputs": lambda ids: 1e8 * honest(ids),
    "small outputs": lambda ids: 1e-12 * honest(ids),
    "a spike": lambda ids: with_spike(honest(ids)),
    "a large channel": lambda ids: torch.cat([honest(ids), honest(ids)[..., :1] + 1e6], dim=-1),
    "growing outputs": lambda ids: honest(ids) * 3.0 ** torch.arange(LENGTH)[:, None],
    "mostly zeros": lambda ids: F.relu(honest(ids) - 0.8),
    "probabilities": lambda ids: (5 * honest(ids)).softmax(dim=-1),
    "noise of float32": lambda ids: honest(ids) * (1 + 1e-6 * torch.randn_like(embed(ids))),
    "sums in another order": summed_in_another_order,
    "running sum": lambda ids: embed(ids).cumsum(dim=1),
    "running maximum": lambda ids: embed(ids).cummax(dim=1).values,
    "running log-sum-exp": lambda ids: embed(ids).logcumsumexp(dim=1),
    "sum by a triangular matrix": lambda ids: LOWER @ embed(ids),
    "causal convolution": lambda ids: (
        F.conv1d(F.pad(embed(ids).mT, (2, 0)), MATRIX[..., None].expand(-1, -1, 3)).mT
    ),
    "convolution by FFT": lambda ids: convolved(ids, 2 * LENGTH),
    "large convolution by FFT": lambda ids: 1e6 * convolved(ids, 2 * LENGTH),
    "attention": lambda ids: attend(ids, LOWER.bool()),
    "attention in blocks": lambda ids: attend(ids, torch.where(LOWER > 0, 0.0, -torch.inf)),
    "transformer layer": transformer(),
    "GRU": recurrent(nn.GRU),
    "LSTM": recurrent(nn.LSTM, num_layers=2),
    "logits in an object": lambda ids: SimpleNamespace(logits=honest(ids)),
    "one number a position": lambda ids: honest(ids)[..., 0],
    "normalisation over channels": lambda ids: F.layer_norm(honest(ids), (WIDTH,)),
    "complex outputs": lambda ids: torch.fft.rfft(honest(ids), dim=-1),
    **{f"{name} in float32": make(mixers=(name,)).float() for name in CAUSAL},
}


@pytest.mark.parametrize("name", LEAKY)
def test_no_leaky_model_passes(name: str) -> None:
    with pytest.raises(CausalityError, match=r"output \d+ sees the future: changing input \d+ moved it by"):
        assert_causal(LEAKY[name], tokens(2, LENGTH), vocab_size=VOCAB)


@pytest.mark.parametrize("name", HONEST)
def test_no_honest_model_is_blamed(name: str) -> None:
    for backend in ("auto", "torch"):
        with use_backend(backend):
            assert_causal(HONEST[name], tokens(2, LENGTH), vocab_size=VOCAB)


SENTENCE = "rounding in torch.bfloat16 hides leaks: check the model in torch.float32 or torch.float64"


def test_half_precision_is_refused_wherever_it_is() -> None:
    ids = tokens(2, LENGTH)
    with pytest.raises(ValueError, match=SENTENCE):
        assert_causal(lambda ids: following(ids).bfloat16(), ids, vocab_size=VOCAB)
    with pytest.raises(ValueError, match=SENTENCE):
        assert_causal(lambda x: x.roll(-1, dims=1).float(), torch.randn(2, LENGTH, 3).bfloat16())
    with pytest.raises(ValueError, match=SENTENCE):
        assert_causal(make(mixers=CAUSAL[:1]).bfloat16(), ids, vocab_size=VOCAB)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=SENTENCE):
        assert_causal(following, ids, vocab_size=VOCAB)


def test_a_model_that_answers_equal_inputs_differently_is_refused() -> None:
    sentence = "two runs on equal inputs differ by .* of an output, at most 1e-04 is allowed: switch off drop"
    with pytest.raises(ValueError, match=sentence):
        assert_causal(lambda ids: F.dropout(following(ids)), tokens(2, LENGTH), vocab_size=VOCAB)


def test_what_is_no_output_for_each_position_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, T, ...\) with B, T = \(2, 12\), got \(2, 8\)"):
        assert_causal(lambda ids: honest(ids)[:, -1], tokens(2, LENGTH))
    with pytest.raises(TypeError, match="a tuple that begins with one or an object with logits, got dict"):
        assert_causal(lambda ids: {"scores": honest(ids)}, tokens(2, LENGTH))
    with pytest.raises(ValueError, match="not finite even before"):
        assert_causal(lambda ids: honest(ids) / 0, tokens(2, LENGTH))


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_features_are_changed_by_their_own_size(scale: float) -> None:
    x = scale * torch.randn(2, LENGTH, 3, generator=torch.Generator().manual_seed(0))
    assert_causal(lambda x: torch.tanh(x / scale), x)
    with pytest.raises(CausalityError):
        assert_causal(lambda x: torch.tanh(x / scale).roll(-1, dims=1), x)


def test_a_late_leak_is_found_and_positions_are_chosen() -> None:
    def peek(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 5] += 1e-3 * x[:, 9]
        return y

    x = torch.randn(2, LENGTH, 3, dtype=torch.float64)
    with pytest.raises(CausalityError) as info:
        assert_causal(peek, x)
    assert (info.value.position, info.value.changed) == (5, 9)
    assert_causal(peek, x, positions=[3, 10])


def test_the_modes_of_all_parts_are_restored() -> None:
    model = nn.Sequential(nn.Embedding(VOCAB, WIDTH), nn.Dropout(), nn.Linear(WIDTH, 3)).train()
    model[1].eval()
    model[2].eval()
    for training in (True, False):
        model.training = training
        assert_causal(model, tokens(2, LENGTH), vocab_size=VOCAB)
        assert [part.training for part in model.modules()] == [training, True, False, False]


def test_first_token_loss_tells_a_copier_from_an_honest_model() -> None:
    rows = [tokens(64, 9)]

    def copier(ids: Tensor) -> Tensor:
        return 20.0 * F.one_hot(ids.roll(-1, dims=1), VOCAB).double()

    expected = first_token_loss(copier, rows)
    assert expected < 1e-4
    assert first_token_loss(lambda ids: SimpleNamespace(logits=copier(ids)), rows) == expected
    assert first_token_loss(lambda ids: (copier(ids), None), rows) == expected
    uniform = first_token_loss(lambda ids: torch.zeros(*ids.shape, VOCAB), rows)
    assert uniform == pytest.approx(math.log(VOCAB))
    with pytest.raises(ValueError, match="at least one row"):
        first_token_loss(copier, [])
