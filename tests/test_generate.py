"""Writing: how tokens are chosen, where a text ends, what is refused, and the compiled step."""

import pytest
import torch
from conftest import randomise

from fftnet import FFTNet, FFTNetConfig
from fftnet.generation import SamplingConfig, choose, generate

VOCAB = 7
LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0]])


def make(**fields: object) -> FFTNet:
    values = {"vocab_size": VOCAB, "d_model": 16, "num_layers": 1, "num_heads": 2}
    model = FFTNet(FFTNetConfig(**(values | fields))).eval()  # pyright: ignore[reportArgumentType]
    randomise(model)
    return model


def frequencies(config: SamplingConfig, draws: int = 4000) -> torch.Tensor:
    chosen = choose(LOGITS.expand(draws, -1), config, torch.Generator().manual_seed(0))
    return torch.bincount(chosen, minlength=VOCAB) / draws


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (SamplingConfig(temperature=1.0), range(VOCAB)),
        (SamplingConfig(temperature=0.5), range(VOCAB)),
        (SamplingConfig(temperature=1.0, top_k=3), (1, 3, 2)),
        (SamplingConfig(temperature=1.0, top_p=0.8), (1, 3)),
        (SamplingConfig(temperature=2.0, top_k=4, top_p=0.01), (1,)),
    ],
)
def test_tokens_are_drawn_from_the_distribution_that_was_asked_for(config, kept) -> None:  # pyright: ignore
    wanted = torch.zeros(VOCAB)
    kept = list(kept)
    wanted[kept] = (LOGITS[0, kept] / config.temperature).softmax(dim=0)
    actual = frequencies(config)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0.03)
    assert (actual[wanted == 0] == 0).all()


def test_temperature_zero_takes_the_likeliest_token() -> None:
    assert frequencies(SamplingConfig(temperature=0.0))[1] == 1


def greedy(model: FFTNet, prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("mixers", [(), ("attention", "causal_spectral")])
def test_writing_equals_reading_everything_again(mixers: tuple[str, ...]) -> None:
    model = make(mixers=mixers, num_layers=2)
    config = SamplingConfig(max_new_tokens=12, temperature=0.0)
    assert list(generate(model, [1, 2, 3], config)) == greedy(model, [1, 2, 3], 12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_the_compiled_step_writes_the_same() -> None:
    torch.compiler.reset()
    model = make()
    config = SamplingConfig(max_new_tokens=12, temperature=0.0, compile=True)
    assert list(generate(model, [1, 2, 3], config)) == greedy(model, [1, 2, 3], 12)


def test_the_stop_token_ends_the_text_unseen() -> None:
    model = make()
    config = SamplingConfig(max_new_tokens=40, temperature=1.5)
    text = list(generate(model, [1], config))
    assert text == list(generate(model, [1], config))
    stop = text[5]
    assert list(generate(model, [1], config, stop=stop)) == text[: text.index(stop)]


def test_what_cannot_be_continued_is_refused() -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        list(generate(make(), [], SamplingConfig()))
    with pytest.raises(ValueError, match="a bidirectional model has no state"):
        list(generate(make(causal=False), [1], SamplingConfig()))
    model = make()
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="the logits are not finite"):
        list(generate(model, [1], SamplingConfig()))
    for field, value in (("max_new_tokens", 0), ("temperature", -1.0), ("top_k", 0), ("top_p", 0.0)):
        with pytest.raises(ValueError, match=field):
            SamplingConfig(**{field: value})  # pyright: ignore
