"""The whole model: causality, continuation, any length, padding, saving."""

from pathlib import Path

import pytest
import torch
from conftest import randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from fftnet import FFTNet, FFTNetConfig
from fftnet.checkpoint import CheckpointError
from fftnet.model.mixers import MIXERS
from fftnet.testing import CausalityError, assert_causal, first_token_loss

VOCAB = 11
CAUSAL = [name for name, mixer in MIXERS.items() if mixer.causal]  # pyright: ignore[reportAttributeAccessIssue]
VARIANTS = [
    {},
    {"conv_width": 0},
    {"input_gate": False},
    {"conv_width": 0, "input_gate": False},
    {"conv_width": 1, "ffn_dim": 0},
    {"num_bins": 1, "num_heads": 1},
]


def make(**fields: object) -> FFTNet:
    values = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 2, "num_heads": 2, "max_seq_length": 16}
    model = FFTNet(FFTNetConfig(**(values | fields)))  # pyright: ignore[reportArgumentType]
    randomise(model)
    return model


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_causal_configuration_is_causal(name: str, variant: dict[str, object]) -> None:
    model = make(mixers=(name,), **variant)
    assert_causal(model, tokens(2, 24), vocab_size=VOCAB)


def test_the_bidirectional_model_leaks_and_the_position_is_named() -> None:
    with pytest.raises(CausalityError, match="output 0 sees the future: changing input 1 moved") as info:
        assert_causal(make(causal=False), tokens(2, 24), vocab_size=VOCAB)
    assert (info.value.position, info.value.changed) == (0, 1)


def test_a_late_leak_is_found_where_it_is() -> None:
    def peek(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 5] += 1e-3 * x[:, 9]
        return y

    with pytest.raises(CausalityError) as info:
        assert_causal(peek, torch.randn(2, 12, 3, dtype=torch.float64))
    assert (info.value.position, info.value.changed) == (5, 9)
    assert_causal(peek, torch.randn(2, 12, 3, dtype=torch.float64), positions=[3, 10])


def test_assert_causal_puts_the_mode_back() -> None:
    model = make(dropout=0.5).train()
    assert_causal(model, tokens(1, 6), vocab_size=VOCAB)
    assert model.training


def test_first_token_loss_tells_a_copier_from_an_honest_model() -> None:
    rows = [torch.randint(0, VOCAB, (64, 9), generator=torch.Generator().manual_seed(n)) for n in range(4)]

    def copier(inputs: torch.Tensor) -> torch.Tensor:
        return 20.0 * torch.nn.functional.one_hot(inputs.roll(-1, dims=1), VOCAB).double()

    def uniform(inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*inputs.shape, VOCAB)

    assert first_token_loss(copier, rows) < 1e-4
    assert first_token_loss(uniform, rows) == pytest.approx(torch.tensor(float(VOCAB)).log().item())
    with pytest.raises(ValueError, match="at least one row"):
        first_token_loss(uniform, [])


@pytest.mark.parametrize("name", CAUSAL)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), length=st.integers(1, 70), variant=st.sampled_from(VARIANTS))
def test_any_split_of_a_text_gives_the_same_logits(
    name: str, data: st.DataObject, length: int, variant: dict[str, object]
) -> None:
    model, text = make(mixers=(name,), **variant), tokens(2, length)
    whole = model(text)
    cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=5)) | {length})
    state, pieces, start = None, [], 0
    for stop in cuts:
        if stop - start == 1 and state is not None:
            logits_BV, state = model.step(text[:, start], state)
            pieces.append(logits_BV[:, None])
        else:
            logits, state = model.prefill(text[:, start:stop], state)
            pieces.append(logits)
        start = stop
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-9, atol=1e-9)


def test_prefill_in_chunks_keeps_the_last_logits() -> None:
    model, text = make(), tokens(2, 23)
    whole, last = model.prefill(text)
    chunked, state = model.prefill(text, chunk_size=5)
    torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-9)
    for kept in (1, 3, 7, 23):
        torch.testing.assert_close(
            model.prefill(text, chunk_size=5, logits_to_keep=kept)[0], whole[:, -kept:], rtol=1e-9, atol=1e-9
        )
    for one, other in zip(tree_leaves(state), tree_leaves(last), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        model.prefill(text, chunk_size=0)


def test_the_state_does_not_grow_and_is_a_value() -> None:
    model = make()
    start = model.init_state(2)
    before = [x.clone() for x in tree_leaves(start)]
    _, after_few = model.prefill(tokens(2, 3), start)
    _, after_many = model.prefill(tokens(2, 300), start)
    sizes = [[x.shape for x in tree_leaves(state)] for state in (start, after_few, after_many)]
    assert sizes[0] == sizes[1] == sizes[2]
    owned = [x.untyped_storage().nbytes() for x in tree_leaves(after_many)]
    assert owned == [x.untyped_storage().nbytes() for x in tree_leaves(after_few)]
    for one, other in zip(before, tree_leaves(start), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_any_length(causal: bool) -> None:
    model = make(causal=causal)
    for length in [*range(1, 71), 97, 199]:
        logits = model(tokens(1, length))
        assert logits.shape == (1, length, VOCAB)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_row_does_not_depend_on_its_padding_or_its_neighbours(causal: bool) -> None:
    model, rows = make(causal=causal), [tokens(1, length)[0] for length in (5, 1, 9, 6, 5)]
    for width, left in ((9, False), (14, False), (14, True)):
        batch = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            span = slice(width - len(row), width) if left else slice(0, len(row))
            batch[index, span], mask[index, span] = row, True
        logits = model(batch, mask)
        for index, row in enumerate(rows):
            torch.testing.assert_close(logits[index, mask[index]], model(row[None])[0], rtol=1e-9, atol=1e-9)


def test_left_padded_prompts_continue_as_if_alone() -> None:
    model, short, long = make(), tokens(1, 4), tokens(1, 9)
    batch = torch.cat([torch.nn.functional.pad(short, (5, 0)), long])
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :5] = False
    _, state = model.prefill(batch, mask_BT=mask)
    together, _ = model.step(torch.tensor([3, 3]), state)
    for index, prompt in enumerate((short, long)):
        alone, _ = model.step(torch.tensor([3]), model.prefill(prompt)[1])
        torch.testing.assert_close(together[index], alone[0], rtol=1e-9, atol=1e-9)


def test_a_bidirectional_layer_resamples_its_filter_between_lengths() -> None:
    model = make(causal=False, max_seq_length=16)
    assert model.layers[0].mixer.filter.base_filter_HK.shape == (2, 9)  # pyright: ignore
    with pytest.raises(ValueError, match="a bidirectional model has no state"):
        model.init_state(1)


def test_hybrids_repeat_their_pattern_and_must_be_causal() -> None:
    config = FFTNetConfig(vocab_size=3, num_layers=3, mixers=("spectral", "causal_spectral"), causal=False)
    assert config.layer_mixers == ["spectral", "causal_spectral", "spectral"]
    with pytest.raises(ValueError, match="causal=True needs causal mixers, but 'spectral' sees the whole"):
        FFTNet(FFTNetConfig(vocab_size=3, mixers=("causal_spectral", "spectral")))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_model", 0, "d_model must be at least 1"),
        ("num_heads", 3, "num_heads=3 must divide d_model=128"),
        ("num_bins", 0, "num_bins must be at least 1"),
        ("conv_width", -1, "conv_width must be 0 or more"),
        ("dropout", 1.0, r"dropout must lie in \[0, 1\)"),
        ("ffn_dim", -1, "ffn_dim must be 0 or more"),
        ("num_layers", 0, "num_layers must be at least 1"),
    ],
)
def test_bad_sizes_end_in_a_sentence(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FFTNetConfig(**({"vocab_size": 3} | {field: value}))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("causal", [True, False])
def test_save_and_load(causal: bool, tmp_path: Path) -> None:
    model = make(causal=causal).float()
    model.save_pretrained(tmp_path)
    loaded = FFTNet.from_pretrained(tmp_path)
    assert loaded.config == model.config
    torch.testing.assert_close(loaded(tokens(2, 9)), model(tokens(2, 9)), rtol=0, atol=0)


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        FFTNet.from_pretrained(tmp_path)
    make().float().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"d_model": 8', '"d_model": 16'))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        FFTNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"d_model"', '"width"'))
    with pytest.raises(CheckpointError, match="does not know: width"):
        FFTNet.from_pretrained(tmp_path)
