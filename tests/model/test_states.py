"""Reading a text in pieces: the state represents all that was read, does not grow and is never changed."""

import pytest
import torch
from conftest import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CAUSAL, FIXED, VARIANTS, VOCAB, make, tokens
from torch.utils._pytree import tree_leaves

from fftnet.model import Backbone, BackboneConfig


@pytest.mark.parametrize("name", CAUSAL)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), length=st.integers(1, 70), variant=st.sampled_from(VARIANTS))
def test_any_split_of_a_text_gives_the_same_logits(
    name: str, data: st.DataObject, length: int, variant: dict[str, object]
) -> None:
    model = make(mixers=(name,), **variant)
    text = tokens(2, length)
    whole = model(text)
    cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=5)) | {length})
    state = None
    pieces = []
    start = 0
    for stop in cuts:
        if stop - start == 1 and state is not None:
            logits_BV, state = model.step(text[:, start], state)
            pieces.append(logits_BV[:, None])
        else:
            logits, state = model.prefill(text[:, start:stop], state)
            pieces.append(logits)
        start = stop
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CAUSAL)
def test_prefill_in_chunks_keeps_the_last_logits(name: str) -> None:
    model = make(mixers=(name,))
    text = tokens(2, 23)
    whole, last = model.prefill(text)
    chunked, state = model.prefill(text, chunk_size=5)
    torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-9)
    for kept in (1, 3, 7, 23):
        torch.testing.assert_close(
            model.prefill(text, chunk_size=5, logits_to_keep=kept)[0], whole[:, -kept:], rtol=1e-9, atol=1e-9
        )
    following = torch.tensor([3, 4])
    torch.testing.assert_close(
        model.step(following, state)[0], model.step(following, last)[0], rtol=1e-9, atol=1e-9
    )
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        model.prefill(text, chunk_size=0)


@pytest.mark.parametrize("name", FIXED)
def test_the_state_does_not_grow_and_is_never_changed(name: str) -> None:
    model = make(mixers=(name,))
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


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("recorded", [True, False])
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_state_stays_what_it_was_whatever_follows_from_it(
    name: str, recorded: bool, data: st.DataObject
) -> None:
    model = make(mixers=(name,))
    states = []
    with torch.set_grad_enabled(recorded):
        states.append((tokens(2, 0), model.init_state(2)))
        for _ in range(12):
            text, state = states[data.draw(st.integers(0, len(states) - 1))]
            piece = torch.randint(0, VOCAB, (2, data.draw(st.integers(1, 5))))
            if piece.shape[1] == 1:
                logits_BV, state = model.step(piece[:, 0], state)
            else:
                logits, state = model.prefill(piece, state)
                logits_BV = logits[:, -1]
            text = torch.cat([text, piece], dim=1)
            torch.testing.assert_close(logits_BV, model(text)[:, -1], rtol=1e-9, atol=1e-9)
            states.append((text, state))
        if recorded:
            logits_BV.sum().backward()  # pyright: ignore[reportPossiblyUnboundVariable]


@torch.no_grad()
def test_a_backbone_reads_features_in_pieces() -> None:
    backbone = Backbone(BackboneConfig(d_model=16, num_heads=4, num_layers=2)).double()
    x = torch.randn(2, 11, 16, dtype=torch.float64)
    state = backbone.init_state(2)
    pieces = []
    for piece in x.split([4, 1, 1, 5], dim=1):
        hidden, state = backbone(piece, None, state)
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, dim=1), backbone(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"x must be of shape \(batch, tokens, 16\), got \(2, 11, 3\)"):
        backbone(x[..., :3])


def test_one_decode_step_of_attention_appends_in_place_and_a_fork_copies() -> None:
    model = make(mixers=("attention",), num_layers=1)
    text = tokens(2, 6)
    with torch.no_grad():
        _, state = model.step(text[:, 5], model.prefill(text[:, :5])[1])
        ends = []
        for token in (3, 4):
            longer = torch.cat([text, torch.full((2, 1), token)], dim=1)
            ends.append((longer, model.step(longer[:, -1], state)[1]))
        for longer, after in ends:
            longest = torch.cat([longer, torch.full((2, 1), 5)], dim=1)
            actual, _ = model.step(longest[:, -1], after)
            torch.testing.assert_close(actual, model(longest)[:, -1], rtol=1e-9, atol=1e-9)
    (_, (newest,)), (_, (fork,)) = ends
    (first,) = state
    assert newest.keys.data_ptr() == first.keys.data_ptr()
    assert newest.keys.shape[2] == 10
    assert fork.keys.data_ptr() != first.keys.data_ptr()


def test_attention_forks_where_rows_have_read_unequal_numbers_of_tokens() -> None:
    model = make(mixers=("attention",), num_layers=1)
    text = tokens(2, 3)
    mask = torch.tensor([[True] * 3, [False, False, True]])
    row_1 = torch.tensor([[False], [True]])
    with torch.no_grad():
        _, state = model.step(torch.tensor([1, 1]), model.prefill(text, attention_mask=mask)[1])
        ends = [
            model.prefill(torch.tensor([[0], [token]]), state, attention_mask=row_1)[1] for token in (3, 4)
        ]
        for token, end in zip((3, 4), ends, strict=True):
            actual, _ = model.step(torch.tensor([5, 5]), end)
            for row, alone in enumerate(([*text[0].tolist(), 1, 5], [int(text[1, 2]), 1, token, 5])):
                expected = model(torch.tensor([alone]))[0, -1]
                torch.testing.assert_close(actual[row], expected, rtol=1e-9, atol=1e-9)


def test_gradients_flow_through_a_cache_that_was_filled_without_them() -> None:
    model = make(mixers=("attention",))
    text = tokens(2, 8)
    with torch.no_grad():
        _, state = model.step(text[:, 5], model.prefill(text[:, :5])[1])
    one, state = model.step(text[:, 6], state)
    other, _ = model.step(text[:, 7], state)
    (one.sum() + other.sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())  # pyright: ignore


@pytest.mark.parametrize("variant", VARIANTS[:3], ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_gradients_through_steps_are_those_of_the_whole_text(name: str, variant: dict[str, object]) -> None:
    model = make(mixers=(name,), **variant)
    text = tokens(2, 7)
    whole = model(text)
    state = model.init_state(2)
    logits = []
    for token in text.unbind(dim=1):
        logits_BV, state = model.step(token, state)
        logits.append(logits_BV)
    assert_same(torch.stack(logits, dim=1), whole, model.parameters())


@pytest.mark.parametrize("name", FIXED)
@torch.inference_mode()
def test_a_bf16_model_steps_as_it_reads_with_a_state_in_float32(name: str) -> None:
    model = make(mixers=(name,)).bfloat16()
    text = tokens(2, 30)
    whole = model(text).float()
    logits_BV, state = model.step(text[:, -1], model.prefill(text[:, :-1])[1])
    assert logits_BV.dtype == torch.bfloat16
    assert {x.dtype for x in tree_leaves(state)} == {torch.float32, torch.int64}
    assert (logits_BV.float() - whole[:, -1]).norm() < 0.03 * whole[:, -1].norm()
