"""States as values: copied, selected, saved and loaded; states of other models or batches are refused."""

from pathlib import Path

import pytest
import torch
from models import HYBRIDS, MODELS, VOCAB, make, tokens
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fftnet import FFTNet
from fftnet.model import State, expand_state, load_state, save_state, select_state
from fftnet.serialization import CheckpointError, read_tensors, write_tensors

every_model = pytest.mark.parametrize("fields", MODELS, ids=str)


def storages(state: State) -> list[int]:
    """Return the addresses of a state's memory."""
    memory = [tensor.untyped_storage() for tensor in tree_leaves(state)]
    return [storage.data_ptr() for storage in memory if storage.nbytes()]


def assert_apart(*states: State) -> None:
    addresses = [address for state in states for address in storages(state)]
    assert len(addresses) == len(set(addresses))


def continued(model: FFTNet, texts: list[Tensor], state: State, steps: int = 4) -> list[Tensor]:
    """Read more tokens after every row, and compare each row with its whole text, read alone."""
    for step in range(steps):
        token = torch.tensor([(3 * row + step * step) % VOCAB for row in range(len(texts))])
        logits, state = model.step(token, state)
        texts = [torch.cat([text, token[row, None]]) for row, text in enumerate(texts)]
        for row, text in enumerate(texts):
            torch.testing.assert_close(logits[row], model(text[None])[0, -1], rtol=1e-9, atol=1e-9)
    return texts


@every_model
@pytest.mark.parametrize("recorded", [True, False])
def test_a_prompt_is_read_once_and_continued_in_many_ways(fields: dict[str, object], recorded: bool) -> None:
    model = make(**fields)
    prompts = tokens(2, 7)
    with torch.set_grad_enabled(recorded):
        _, start = model.prefill(prompts)
        _, start = model.step(torch.tensor([5, 6]), start)
        texts = list(torch.cat([prompts, torch.tensor([[5], [6]])], dim=1))
        forks = expand_state(start, 3)
        again = expand_state(start, 1)
        assert_apart(start, forks, again)
        # Rows are repeated one after the other.
        repeated = [texts[0]] * 3 + [texts[1]] * 3
        continued(model, repeated, forks)
        continued(model, texts, start)
        continued(model, texts, again)
        continued(model, repeated, forks)


@every_model
@torch.no_grad()
def test_beams_and_unfinished_rows_are_picked(fields: dict[str, object]) -> None:
    model = make(**fields)
    prompts = tokens(3, 6)
    mask = torch.arange(6) >= torch.tensor([[0], [4], [2]])
    _, state = model.prefill(prompts, attention_mask=mask)
    texts = [row[kept] for row, kept in zip(prompts, mask, strict=True)]
    for rows in ([2, 0, 0], [1], torch.tensor([1, 2]), torch.tensor([2], dtype=torch.int32)):
        picked = select_state(state, rows)
        assert_apart(state, picked)
        kept = [texts[int(row)] for row in rows]
        longer = continued(model, kept, picked)
        assert [len(text) for text in longer] == [len(text) + 4 for text in kept]
    unfinished = torch.tensor([True, False, True])
    continued(model, [texts[0], texts[2]], select_state(state, unfinished))
    continued(model, texts, state)


@every_model
@torch.no_grad()
def test_stepping_a_fork_changes_no_number_of_another(fields: dict[str, object]) -> None:
    model = make(**fields)
    _, start = model.prefill(tokens(2, 5))
    fork = expand_state(start, 1)
    before = [tensor.clone() for tensor in tree_leaves(fork)]
    state = start
    for _ in range(20):
        _, state = model.step(torch.tensor([1, 2]), state)
    torch.testing.assert_close(tree_leaves(fork), before, rtol=0, atol=0)


@every_model
@pytest.mark.parametrize("read", [0, 1, 9])
@torch.no_grad()
def test_a_state_is_saved_and_read_again(fields: dict[str, object], read: int, tmp_path: Path) -> None:
    model = make(**fields)
    text = tokens(2, 9)[:, :read]
    state = model.prefill(text)[1] if read else model.init_state(2)
    save_state(state, tmp_path / "state.safetensors")
    loaded = load_state(tmp_path / "state.safetensors", model)
    assert_apart(state, loaded)
    assert [type(layer) for layer in loaded] == [type(layer) for layer in state]
    torch.testing.assert_close(tree_leaves(loaded), tree_leaves(state), rtol=0, atol=0)
    continued(model, list(text), loaded)
    continued(model, list(text), state)


@torch.no_grad()
def test_a_state_is_loaded_in_the_dtype_of_the_model_and_made_on_any_device(tmp_path: Path) -> None:
    model = make(mixers=HYBRIDS[0])
    assert all(layer[0].is_meta for layer in model.init_state(2, device="meta"))
    text = tokens(1, 9)
    save_state(model.prefill(text[:, :8])[1], tmp_path / "state")
    expected = model(text)[0, -1].float()
    actual, _ = model.float().step(text[:, 8], load_state(tmp_path / "state", model))
    torch.testing.assert_close(actual[0], expected, rtol=1e-4, atol=1e-4)


def test_files_of_other_models_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "state"
    save_state(make().init_state(2), file)
    for fields, message in (
        ({"num_layers": 3}, "state is the state of another model: it lacks 2.conv_state"),
        ({"num_layers": 1}, "state is the state of another model: it holds 1.conv_state"),
        ({"mixers": ("attention",)}, "another model: it holds 0.conv_state"),
        ({"d_model": 16}, "spectrum of layer 0 holds 2 x 2 x 16 x 4 a row, not 2 x 2 x 16 x 8"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_state(file, make(**fields))
    with pytest.raises(CheckpointError, match="missing"):
        load_state(tmp_path / "none", make())
    stored = read_tensors(file)
    write_tensors(file, stored | {"1.count": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(CheckpointError, match=r"state does not fit: the rows of the state are unequal"):
        load_state(file, make())


def test_wrong_selections_of_rows_are_refused() -> None:
    state = make().init_state(2)
    for rows, message in (
        ([2], "the state is of 2 rows, so there is no row 2"),
        ([0, -1], "so there is no row -1"),
        ([], "rows must name at least one row"),
        (torch.tensor([[0]]), "in one dimension"),
        (torch.tensor([True]), r"a mask of \(1,\) can't pick from a state of 2 rows"),
        (torch.tensor([False, False]), "at least one row"),
        (torch.tensor([0.0]), r"rows must be integers or a boolean mask, got torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            select_state(state, rows)
    with pytest.raises(ValueError, match="copies must be at least 1, got 0"):
        expand_state(state, 0)


@every_model
def test_a_state_of_other_rows_is_refused_before_anything_runs(fields: dict[str, object]) -> None:
    model = make(**fields)
    for start, rows, message in (
        (1, 2, "the state is of 1 row, the tokens of 2: expand_state copies it"),
        (2, 1, "the state is of 2 rows, the tokens of 1: expand_state copies rows, select_state picks them"),
    ):
        state = model.init_state(start)
        with pytest.raises(ValueError, match=message):
            model.step(tokens(rows, 1)[:, 0], state)
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            model.prefill(tokens(rows, 5), state)


def test_a_state_of_another_model_is_refused() -> None:
    model = make()
    two = make(mixers=("attention",))
    for state, message in (
        (make(num_layers=1).init_state(1), "the state is of another model: it has 1 layers, not 2"),
        (two.init_state(1), "layer 0 holds AttentionState, not AddressedSpectralState"),
        (make(addressed_spectral={"num_bins": 3}).init_state(1), "spectrum of layer 0 holds 2 x 2 x 3 x 4"),
        (make(addressed_spectral={"conv_size": 2}).init_state(1), "conv_state of layer 0 holds 1 x 72 a row"),
        (make(num_heads=4).init_state(1), "holds 4 x 2 x 16 x 2 a row, not 2 x 2 x 16 x 4"),
        (model.init_state(1)[0], "the state is of another model: it has 4 layers, not 2"),
        ((None, None), "layer 0 holds NoneType, not AddressedSpectralState"),
    ):
        with pytest.raises(ValueError, match=message):
            model.step(torch.tensor([1]), state)
    with pytest.raises(ValueError, match="keys of layer 0 holds 4 x 0 x 2 a row, not 2 x any x 4"):
        two.step(torch.tensor([1]), make(mixers=("attention",), num_heads=4).init_state(1))


@every_model
def test_a_state_made_in_inference_mode_is_continued_outside(fields: dict[str, object]) -> None:
    model = make(**fields)
    text = tokens(1, 6)
    with torch.inference_mode():
        _, state = model.step(text[:, 5], model.prefill(text[:, :5])[1])
    with torch.no_grad():
        continued(model, list(text), state)
    with torch.inference_mode():
        continued(model, list(text), state)


@every_model
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("d_model", [8, 12])
@pytest.mark.parametrize("recorded", [True, False])
def test_strides_of_a_state_do_not_vary(
    fields: dict[str, object], batch: int, d_model: int, recorded: bool
) -> None:
    # CPU kernels take the narrower model only; what serves the wider one slices more.
    model = make(**fields, d_model=d_model)
    with torch.set_grad_enabled(recorded):
        for length in (1, 2, 9):
            _, state = model.prefill(tokens(batch, length))
            for _ in range(2):
                for tensor in tree_leaves(state):
                    assert tensor.stride() == torch.empty(tensor.shape).stride()
                    owned = tensor.untyped_storage().nbytes()
                    assert tensor.numel() == 0 or owned == tensor.numel() * tensor.element_size()
                _, state = model.step(torch.zeros(batch, dtype=torch.int64), state)


@pytest.mark.parametrize("causal", [True, False])
def test_tokens_and_masks_that_cannot_be_read_are_refused(causal: bool) -> None:
    model = make(causal=causal)
    text = tokens(2, 5)
    mask = torch.ones(2, 5, dtype=torch.bool)
    for arguments, message in (
        ((text.int(),), "tokens must be int64 ids, got torch.int32"),
        ((text.double(),), "tokens must be int64 ids, got torch.float64"),
        ((text.tolist(),), r"got a value of type list: use torch.as_tensor\(ids\)"),
        ((text.numpy(),), r"got a value of type ndarray: use torch.as_tensor\(ids\)"),
        (("Once",), r"got a value of type str: use torch.tensor\(\[tokenizer.encode\(text\)\]\)"),
        ((text, mask.numpy()), "attention_mask must be a boolean tensor, got a value of type ndarray"),
        ((text[0],), r"tokens must be of shape \(batch, tokens\), got \(5,\)"),
        ((text + VOCAB,), "lies outside the vocabulary of 11"),
        ((text - VOCAB,), "id -11 lies outside|id -[0-9]+ lies outside the vocabulary of 11"),
        ((text, mask[:, :4]), r"attention_mask must be of shape \(2, 5\), as the tokens are, got \(2, 4\)"),
        ((text, mask[:1]), r"attention_mask must be of shape \(2, 5\), as the tokens are, got \(1, 5\)"),
        ((text, mask.long()), r"attention_mask must be boolean, got torch.int64: pass mask.bool\(\)"),
        ((text, None, None, -1), "logits_to_keep must be 0 or more, or left out, got -1"),
        ((text[:, :0],), "at least one token, got a sequence of length 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model(*arguments)
    for module in (model.backbone, model.backbone.layers[0].mixer):
        with pytest.raises(ValueError, match=r"x must be a tensor of shape \(batch, tokens, 8\), got a val"):
            module([[0.0] * 8])  # pyright: ignore
    if not causal:
        for call in (lambda: model.prefill(text), lambda: model.init_state(1), lambda: model(text, None, ())):
            with pytest.raises(ValueError, match="a bidirectional model has no state"):
                call()
        return
    with pytest.raises(ValueError, match=r"attention_mask must be of shape \(2, 5\)"):
        model.prefill(text, attention_mask=mask[:, :4], chunk_size=4)
    with pytest.raises(ValueError, match="logits_to_keep must be 0 or more"):
        model.prefill(text, logits_to_keep=-1)
    for given in (text.tolist(), "Once", text.numpy()):
        with pytest.raises(ValueError, match="tokens must be a tensor of int64 ids, got a value of type"):
            model.prefill(given)  # pyright: ignore[reportArgumentType]
    for given, told in ((text, r"\(2, 5\)"), ([1, 2], "a value of type list"), (3, "a value of type int")):
        with pytest.raises(ValueError, match=rf"token must be .* shape \(batch,\), .*, got {told}: prefill"):
            model.step(given, model.init_state(2))  # pyright: ignore[reportArgumentType]


def test_only_the_logits_that_are_asked_for_are_computed() -> None:
    model = make()
    text = tokens(2, 5)
    assert model(text, logits_to_keep=0).shape == (2, 0, VOCAB)
    assert model.prefill(text, chunk_size=2, logits_to_keep=0)[0].shape == (2, 0, VOCAB)
    for count in (2, 9):
        torch.testing.assert_close(model(text, logits_to_keep=count), model(text)[:, -count:])
