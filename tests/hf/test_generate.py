"""All modes of ``generate`` against the native model: equal ids and equal numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import both, write
from models import HYBRIDS, MODELS, VOCAB, make, tokens
from torch._dynamo.utils import counters
from torch.nn import functional as F
from transformers import CompileConfig

from fftnet.api.generate import SamplingConfig, generate
from fftnet.hf import FFTNetCache, FFTNetConfig, FFTNetForCausalLM
from fftnet.hf.cache import CACHE_NAME

KINDS = pytest.mark.parametrize("fields", [{}, *({"mixers": pattern} for pattern in HYBRIDS)], ids=str)
RICH = {"return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_greedy_ids_are_those_of_the_native_model(fields: dict[str, Any], tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    text = tokens(2, 9)
    config = SamplingConfig(max_new_tokens=12, temperature=0)
    expected = torch.tensor(generate(native, text.tolist(), config).tokens)
    assert torch.equal(write(model, text, max_new_tokens=12)[:, 9:], expected)
    assert torch.equal(write(model, text, max_new_tokens=12, use_cache=False)[:, 9:], expected)


@pytest.mark.parametrize("fields", MODELS, ids=str)
def test_rows_padded_on_the_left_are_written_as_each_alone(fields: dict[str, Any], tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    prompts = [tokens(1, length)[0].tolist() for length in (7, 2, 5)]
    ids = torch.tensor([[0] * (7 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (7 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = SamplingConfig(max_new_tokens=8, temperature=0)
    alone = [generate(native, [prompt], config).tokens[0] for prompt in prompts]
    for settings in ({}, {"prefill_chunk_size": 3}):
        written = write(model, ids, attention_mask=mask, max_new_tokens=8, **settings)
        assert written[:, 7:].tolist() == alone
    with torch.no_grad():
        seen = model(ids, attention_mask=mask).logits[1:, -1]
        assert not torch.allclose(model(ids).logits[1:, -1], seen), "the mask changes nothing"


@KINDS
@pytest.mark.parametrize("beams", [2, 4])
def test_beams_with_states_are_those_of_reading_all_again(
    fields: dict[str, Any], beams: int, tmp_path: Path
) -> None:
    _, model = both(tmp_path, **fields)
    settings = {"num_beams": beams, "num_return_sequences": 2, "max_new_tokens": 8, **RICH}
    fast = write(model, tokens(2, 6), **settings)
    slow = write(model, tokens(2, 6), use_cache=False, **settings)
    assert torch.equal(fast.sequences, slow.sequences)
    torch.testing.assert_close(fast.sequences_scores, slow.sequences_scores, rtol=1e-6, atol=1e-6)
    assert len({tuple(row) for row in fast.sequences.tolist()}) > 2


@KINDS
def test_samples_are_drawn_from_the_native_distribution(fields: dict[str, Any], tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    text = tokens(2, 6)
    torch.manual_seed(3)
    drawn = write(model, text, do_sample=True, num_return_sequences=3, max_new_tokens=7, top_k=0, **RICH)
    assert drawn.sequences.shape == (6, 13)
    assert len({tuple(row) for row in drawn.sequences.tolist()}) == 6
    with torch.no_grad():
        logits, state = native.prefill(text.repeat_interleave(3, dim=0), logits_to_keep=1)
        logits = logits[:, -1]
        for scores, token in zip(drawn.scores, drawn.sequences[:, 6:].T, strict=True):
            torch.testing.assert_close(scores, logits.float(), rtol=1e-5, atol=1e-5)
            logits, state = native.step(token.contiguous(), state)


@KINDS
def test_speculation_changes_no_token(fields: dict[str, Any], tmp_path: Path) -> None:
    _, model = both(tmp_path, **fields)
    text = tokens(1, 9)
    expected = write(model, text, max_new_tokens=24)
    torch.manual_seed(5)
    other = FFTNetForCausalLM(FFTNetConfig(vocab_size=VOCAB, d_model=8, num_layers=1)).double().eval()
    reads: list[int] = []
    model.model.backbone.register_forward_pre_hook(lambda _, args: reads.append(args[0].shape[1]))
    for settings in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": other}, {"assistant_model": model}):
        reads.clear()
        written = write(model, text, max_new_tokens=24, **settings)
        assert torch.equal(written, expected)
        assert max(reads[1:]) > 1, "nothing was speculated about"


@KINDS
def test_a_returned_cache_can_be_continued(fields: dict[str, Any], tmp_path: Path) -> None:
    native, model = both(tmp_path, **fields)
    first = write(model, tokens(2, 6), max_new_tokens=5, **RICH)
    longer = torch.cat([first.sequences, tokens(2, 4)], dim=1)
    expected = write(model, longer, max_new_tokens=5)
    for _ in range(2):
        forked = first[CACHE_NAME].copy()
        assert torch.equal(write(model, longer, max_new_tokens=5, **{CACHE_NAME: forked}), expected)
    with torch.no_grad():
        _, state = native.prefill(longer[:, :10])
        if "attention" not in native.config.mixer_pattern:
            torch.testing.assert_close(first[CACHE_NAME].state, state, rtol=1e-9, atol=1e-9)
        cache = FFTNetCache(model.config, state, seen=10)
        again = model(longer[:, 10:], **{CACHE_NAME: cache}).logits
        expected_logits, _ = native.prefill(longer[:, 10:], state)
        torch.testing.assert_close(again, expected_logits, rtol=1e-9, atol=1e-9)
    assert torch.equal(write(model, longer, max_new_tokens=5, prefill_chunk_size=4), expected)


def test_an_end_of_text_ends_a_row_and_not_the_others(tmp_path: Path) -> None:
    _, model = both(tmp_path)
    plain = write(model, tokens(3, 6), max_new_tokens=9)[:, 6:].tolist()
    end = plain[0][4]
    ended = write(model, tokens(3, 6), max_new_tokens=9, eos_token_id=end)[:, 6:].tolist()
    places = [row.index(end) + 1 if end in row else len(row) for row in plain]
    assert [row[:place] for row, place in zip(ended, places, strict=True)] == [
        row[:place] for row, place in zip(plain, places, strict=True)
    ]
    assert all(token == 0 for row, place in zip(ended, places, strict=True) for token in row[place:])


@pytest.mark.parametrize("padded", [False, True])
def test_a_compiled_step_is_one_graph_for_every_prompt(padded: bool) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = make(d_model=16).float()
    library = FFTNetForCausalLM(FFTNetConfig(**vars(model.config))).eval()
    library.model.load_state_dict(model.state_dict())
    compile_config: Any = CompileConfig(fullgraph=True, dynamic=False, backend="aot_eager")
    compile_config.mode = None
    compile_config._compile_all_devices = True
    for length in (7, 9):
        ids = tokens(2, length)
        mask = torch.ones_like(ids)
        if padded:
            mask[1, :3] = 0
        eager = write(library, ids, attention_mask=mask, max_new_tokens=6)
        fast = write(
            library,
            ids,
            attention_mask=mask,
            max_new_tokens=6,
            cache_implementation="static",
            compile_config=compile_config,
        )
        assert torch.equal(eager, fast)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("fields", MODELS, ids=str)
@pytest.mark.parametrize("ends", [False, True], ids=["all rows go on", "a row ends early"])
def test_a_second_turn_of_unequal_lengths_is_written_as_each_row_alone(
    fields: dict[str, Any], ends: bool, tmp_path: Path
) -> None:
    native, model = both(tmp_path, **fields)
    prompts = [tokens(1, length)[0] for length in (5, 2, 4)]
    ids = torch.stack([F.pad(prompt, (5 - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([F.pad(torch.ones_like(prompt), (5 - len(prompt), 0)) for prompt in prompts])
    end = int(write(model, ids, attention_mask=mask, max_new_tokens=6)[1, 7]) if ends else None
    first = write(model, ids, attention_mask=mask, max_new_tokens=6, eos_token_id=end, **RICH)
    written = first.sequences[:, 5:]
    ended = (written == (-1 if end is None else end)).long()
    # What comes behind the end of a row is padding.
    read = ended.cumsum(dim=1) - ended == 0
    assert read.all() != ends
    more = [tokens(1, length)[0] for length in (1, 6, 3)]
    later = torch.stack([F.pad(turn, (6 - len(turn), 0)) for turn in more])
    later_mask = torch.stack([F.pad(torch.ones_like(turn), (6 - len(turn), 0)) for turn in more])
    whole = torch.cat([first.sequences, later], dim=1)
    whole_mask = torch.cat([mask, read.long(), later_mask], dim=1)
    given = {CACHE_NAME: first[CACHE_NAME], "output_logits": True, "eos_token_id": None, "max_new_tokens": 6}
    second = write(model, whole, attention_mask=whole_mask, **given, **RICH)
    for row in range(3):
        text = whole[row][whole_mask[row].bool()].tolist()
        config = SamplingConfig(max_new_tokens=6, temperature=0)
        assert second.sequences[row, whole.shape[1] :].tolist() == generate(native, [text], config).tokens[0]
        with torch.no_grad():
            expected = native(torch.tensor([text]))[0, -1]
        torch.testing.assert_close(second.logits[0][row], expected.float(), rtol=1e-5, atol=1e-5)


def test_padding_that_a_cache_has_read_is_refused_by_name(tmp_path: Path) -> None:
    _, model = both(tmp_path)
    cache = FFTNetCache(model.config)
    model(tokens(2, 5), **{CACHE_NAME: cache})
    mask = torch.ones(2, 8)
    mask[1, 3:5] = 0
    with pytest.raises(ValueError, match="the cache has read tokens that attention_mask leaves out"):
        model(tokens(2, 3), mask, **{CACHE_NAME: cache})
