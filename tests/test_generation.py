"""Generation: sampling, batches, states in and out, ends of texts, refused arguments."""

import pytest
import torch
from models import make

from fftnet import FFTNet, load_tokenizer
from fftnet.api.generate import SamplingConfig, generate, sample

VOCAB = 7
LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0]])
HYBRID = ("attention", "delta_spectral")


def frequencies(config: SamplingConfig, draws: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    chosen = sample(LOGITS.expand(draws, -1), config, [generator] * draws)
    return torch.bincount(chosen, minlength=VOCAB) / draws


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (SamplingConfig(temperature=1.0), range(VOCAB)),
        (SamplingConfig(temperature=0.5), range(VOCAB)),
        (SamplingConfig(temperature=1.0, top_k=3), (1, 3, 2)),
        (SamplingConfig(temperature=1.0, top_p=0.8), (1, 3)),
        (SamplingConfig(temperature=2.0, top_k=4, top_p=0.01), (1,)),
        (SamplingConfig(temperature=0.0), (1,)),
    ],
)
def test_tokens_are_drawn_from_the_requested_distribution(config, kept) -> None:  # pyright: ignore
    wanted = torch.zeros(VOCAB)
    kept = list(kept)
    wanted[kept] = (LOGITS[0, kept] / (config.temperature or 1.0)).softmax(dim=0)
    actual = frequencies(config)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0.03)
    assert (actual[wanted == 0] == 0).all()


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 1e-40}, {"top_p": 1e-300}, {"temperature": 1e-30, "top_p": 0.5, "top_k": 3}],
)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e37])
def test_sampling_at_the_edge_of_float32_takes_the_likeliest_token(
    fields: dict[str, float], scale: float
) -> None:
    logits = LOGITS * scale
    logits[0, 0] = -torch.inf
    generators = [torch.Generator().manual_seed(seed) for seed in range(20)]
    drawn = sample(logits.expand(20, -1), SamplingConfig(**fields), generators)  # pyright: ignore
    assert set(drawn.tolist()) == {1}


def test_top_k_keeps_that_many_of_equal_scores() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0]]).repeat(50, 1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(100)]
    drawn = sample(logits, SamplingConfig(temperature=1.0, top_k=2), generators)
    assert set(drawn[::2].tolist()) == {1, 2}
    assert set(drawn[1::2].tolist()) == {0, 1}


def greedy(model: FFTNet, prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("mixers", [(), HYBRID])
def test_prompts_of_different_lengths_are_continued_as_each_alone(mixers: tuple[str, ...]) -> None:
    model = make(mixers=mixers)
    prompts = [[1, 2, 3], [4], [5, 6, 0, 1, 2], [3, 3, 3]]
    config = SamplingConfig(max_new_tokens=9, temperature=1.0, seed=5)
    together = generate(model, prompts, config)
    for row, prompt in enumerate(prompts):
        own = SamplingConfig(max_new_tokens=9, temperature=1.0, seed=5 + row)
        assert generate(model, [prompt], own).tokens[0] == together.tokens[row]


@pytest.mark.parametrize("mixers", [(), HYBRID])
def test_generation_and_its_continuation_equal_repeated_forward_passes(mixers: tuple[str, ...]) -> None:
    model = make(mixers=mixers)
    config = SamplingConfig(max_new_tokens=6, temperature=0.0)
    first = generate(model, [[1, 2, 3], [4]], config)
    assert first.tokens == [greedy(model, [1, 2, 3], 6), greedy(model, [4], 6)]
    for more in ([[5, 6], [0, 1]], [[5], [0, 1, 2]]):
        again = generate(model, more, config, state=first.state)
        for row, start in enumerate(([1, 2, 3], [4])):
            whole = [*start, *first.tokens[row], *more[row]]
            assert again.tokens[row] == greedy(model, whole, 6)


@pytest.mark.parametrize("mixers", [(), HYBRID])
def test_a_text_that_ends_early_keeps_the_state_it_ended_with(mixers: tuple[str, ...]) -> None:
    model = make(mixers=mixers)
    config = SamplingConfig(max_new_tokens=20, temperature=1.5)
    prompts = [[1], [2, 3]]
    free = generate(model, prompts, config).tokens
    stop = free[0][4]
    ended = generate(model, prompts, config, stop=stop)
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert ended.tokens == expected
    again = generate(model, [[6], [6]], SamplingConfig(max_new_tokens=4, temperature=0.0), state=ended.state)
    for row, prompt in enumerate(prompts):
        assert again.tokens[row] == greedy(model, [*prompt, *expected[row], 6], 4)


def test_tokens_arrive_one_by_one_and_none_is_lost() -> None:
    model = make()
    config = SamplingConfig(max_new_tokens=8)
    whole = generate(model, [[1], [2, 3]], config).tokens
    generation = generate(model, [[1], [2, 3]], config)
    streamed = [next(iter(generation)) for _ in range(3)]
    assert [[row[n] for row in streamed] for n in range(2)] == [row[:3] for row in whole]
    assert generation.tokens == whole


def test_texts_need_and_take_a_tokenizer() -> None:
    tokenizer = load_tokenizer("bytes")
    model = make(vocab_size=tokenizer.vocab_size)
    config = SamplingConfig(max_new_tokens=5)
    generation = generate(model, ["Once", ""], config, tokenizer=tokenizer)
    ids = [[tokenizer.eot, *tokenizer.encode(text)] for text in ("Once", "")]
    assert generation.tokens == generate(model, ids, config, stop=tokenizer.eot).tokens
    assert generation.texts == [tokenizer.decode(row) for row in generation.tokens]
    with pytest.raises(ValueError, match="texts need a tokenizer"):
        _ = generate(model, [[1]], config).texts


def test_one_text_in_gives_one_text_out_and_keywords_are_fields_of_the_configuration() -> None:
    tokenizer = load_tokenizer("bytes")
    model = make(vocab_size=tokenizer.vocab_size)
    config = SamplingConfig(max_new_tokens=5, temperature=0.5, seed=3)
    (expected,) = generate(model, ["Once"], config, tokenizer=tokenizer).texts
    given = {"max_new_tokens": 5, "temperature": 0.5, "seed": 3}
    assert generate(model, "Once", tokenizer=tokenizer, **given) == expected
    assert generate(model, "Once", config, tokenizer=tokenizer) == expected
    hotter = SamplingConfig(max_new_tokens=5, seed=3)
    assert generate(model, "Once", hotter, tokenizer=tokenizer, temperature=0.5) == expected
    model.tokenizer = tokenizer
    assert generate(model, "Once", **given) == expected
    assert generate(model, ["Once"], config).texts == [expected]


def test_ids_are_continued_past_the_end_of_text() -> None:
    tokenizer = load_tokenizer("bytes")
    model = make(vocab_size=tokenizer.vocab_size)
    ids = torch.tensor([[tokenizer.eot, 65], [tokenizer.eot, 66]])
    config = SamplingConfig(max_new_tokens=40, temperature=3.0)
    before = generate(model, ids.tolist(), config).tokens
    model.tokenizer = tokenizer
    assert generate(model, ids, config).tokens == before
    assert generate(model, ids.numpy(), config).tokens == before


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_the_compiled_step_generates_the_same() -> None:
    torch.compiler.reset()
    model = make(num_layers=1)
    config = SamplingConfig(max_new_tokens=12, temperature=0.0, compile=True)
    assert generate(model, [[1, 2, 3]], config).tokens == [greedy(model, [1, 2, 3], 12)]


def test_wrong_arguments_of_generate_are_refused() -> None:
    model = make()
    for prompts, message in (
        ([[1], []], "a prompt is empty"),
        ([], "at least one text or list of ids"),
        ("Once", "a text needs a tokenizer"),
        ([1, 2], r"a list of ids, as in \[\[1, 2\], \[3\]\], got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, prompts)  # pyright: ignore
    with pytest.raises(TypeError, match="unexpected keyword 'temprature': did you mean temperature"):
        generate(model, [[1]], temprature=1.0)
    with pytest.raises(TypeError, match="unexpected keyword 'beams'; choose from max_new_tokens, temp"):
        generate(model, [[1]], beams=4)
    with pytest.raises(ValueError, match="a bidirectional model can't write"):
        generate(make(causal=False), [[1]])
    for rows, message in (
        (1, "1 row, the tokens of 2: expand_state copies it"),
        (3, "3 rows, the"),
    ):
        with pytest.raises(ValueError, match=f"the state is of {message}"):
            _ = generate(model, [[1], [2, 3]], state=model.init_state(rows)).tokens
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="the logits are not finite"):
        _ = generate(model, [[1]]).tokens
    for field, value in (("max_new_tokens", 0), ("temperature", -1.0), ("top_k", 0), ("top_p", 0.0)):
        with pytest.raises(ValueError, match=field):
            SamplingConfig(**{field: value})  # pyright: ignore


def test_generation_uses_evaluation_mode_and_restores_the_modes() -> None:
    model = make(dropout=0.5)
    config = SamplingConfig(max_new_tokens=6, seed=3)
    expected = generate(model, [[1, 2], [3]], config).tokens
    model.train()
    frozen = model.backbone.layers[0].eval()
    generation = generate(model, [[1, 2], [3]], config)
    next(iter(generation))
    assert model.training, "between two tokens the caller may train"
    assert not frozen.training
    assert generation.tokens == expected
    assert generation.state
    assert model.training
    assert not frozen.training
