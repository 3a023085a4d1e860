"""The cache: tokens taken back, rows selected, copies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import both
from models import HYBRIDS, tokens
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fftnet.hf import FFTNetCache
from fftnet.hf.cache import CACHE_NAME
from fftnet.model.mixers import MIXERS

KINDS = pytest.mark.parametrize("fields", [{}, *({"mixers": pattern} for pattern in HYBRIDS)], ids=str)


@torch.no_grad()
def read(model: Any, ids: Tensor, cache: FFTNetCache, mask: Tensor | None = None) -> Tensor:
    return model(ids, mask, **{CACHE_NAME: cache}).logits


@KINDS
@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6, 11])
def test_tokens_taken_back_leave_no_trace(fields: dict[str, Any], taken: int, tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    text = tokens(2, 11)
    mask = torch.arange(11) >= torch.tensor([[0], [2]])
    cache = FFTNetCache(model.config)
    cache.activate_past_recording()
    for part, part_mask in zip(text.split([6, 1, 4], 1), mask.split([6, 1, 4], 1), strict=True):
        read(model, part, cache, part_mask)
    cache.crop(-taken)
    assert cache.get_seq_length() == 11 - taken
    kept = text[:, : 11 - taken]
    for more in (tokens(2, 3), tokens(2, 1)):
        kept = torch.cat([kept, more], dim=1)
        logits = read(model, more, cache)
        full = torch.cat([mask[:, : 11 - taken], torch.ones_like(kept[:, 11 - taken :]).bool()], dim=1)
        with torch.no_grad():
            expected = native.prefill(kept, attention_mask=full)[0][:, -more.shape[1] :]
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    cache.crop(-1)
    cache.crop(0)
    assert cache.get_seq_length() == kept.shape[1] - 1


@KINDS
def test_rows_are_picked_with_all_that_may_be_taken_back(fields: dict[str, Any], tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    text = tokens(3, 8)
    cache = FFTNetCache(model.config)
    cache.activate_past_recording()
    read(model, text, cache)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    cache.crop(-3)
    with pytest.raises(ValueError, match="tokens of this cache were taken back: call the model once"):
        _ = cache.state
    cache.batch_select_indices(torch.tensor([True, False, True]))
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 4
    more = tokens(4, 2)
    logits = read(model, more, cache)
    whole = torch.cat([text[[2, 2, 0, 0], :5], more], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(logits, native(whole)[:, 5:], rtol=1e-9, atol=1e-9)


@KINDS
def test_a_copy_is_independent_and_shares_its_tensors(fields: dict[str, Any], tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    cache = FFTNetCache(model.config)
    read(model, tokens(2, 5), cache)
    assert cache.state
    one, two = cache.copy(), cache.copy()
    assert one.state
    assert all(a is b for a, b in zip(tree_leaves(one.state), tree_leaves(cache.state), strict=True))
    for each, more in ((one, tokens(2, 3)), (two, tokens(2, 4)), (cache, tokens(2, 2))):
        logits = read(model, more, each)
        whole = torch.cat([tokens(2, 5), more], dim=1)
        with torch.no_grad():
            torch.testing.assert_close(logits, native(whole)[:, 5:], rtol=1e-9, atol=1e-9)
    assert (one.get_seq_length(), two.get_seq_length(), cache.get_seq_length()) == (8, 9, 7)
    one.reset()
    assert (one.get_seq_length(), one.batch_size, one.is_initialized) == (0, -1, False)
    torch.testing.assert_close(read(model, tokens(2, 5), one), native(tokens(2, 5)), rtol=1e-9, atol=1e-9)


def test_hidden_states_are_those_between_the_layers(tmp_path: Path) -> None:
    native, model = both(tmp_path)
    text = tokens(2, 6)
    cache = FFTNetCache(model.config)
    parts = []
    with torch.no_grad():
        for piece in text.split([4, 1, 1], dim=1):
            parts.append(model(piece, output_hidden_states=True, **{CACHE_NAME: cache}).hidden_states)
        whole = model(text, output_hidden_states=True).hidden_states
        first = native.backbone.layers[0](native.embedding(text))
    assert len(whole) == 3
    for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(pieces, dim=1), one, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole[1], first, rtol=0, atol=0)
    assert torch.equal(whole[0], native.embedding(text))


@pytest.mark.parametrize("name", [name for name, mixer in MIXERS.items() if mixer.causal])
def test_a_mixer_says_whether_its_state_grows(name: str) -> None:
    state = MIXERS[name](8, 2).init_state(1)
    assert MIXERS[name].grows == bool(getattr(state, "growing", {}))
