"""Exported models in ONNX Runtime: the same numbers and ids as PyTorch, in any batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from models import VOCAB, make, tokens

from fftnet.api.generate import SamplingConfig, generate
from fftnet.export import ExportConfig, ExportError, export_model
from fftnet.export.runtime import OnnxWriter
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.state import concat_states, expand_state, select_state

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

BLOCK = 7
# An export takes five seconds: all tests share one model. tests/export/test_commands.py has another.


class Exported(NamedTuple):
    model: FFTNet
    folder: Path


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model = make(mixers=("addressed_spectral", "attention"), num_layers=3).float()
    folder = tmp_path_factory.mktemp("causal")
    export_model(model, None, ExportConfig(output=str(folder), block_length=BLOCK, int8=True))
    return Exported(model, folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model = make(mixers=("spectral", "fnet", "bidirectional_attention"), num_layers=3, causal=False).float()
    folder = tmp_path_factory.mktemp("encoder")
    export_model(model, None, ExportConfig(output=str(folder), encoder_length=13))
    return Exported(model, folder)


@pytest.fixture(scope="module")
def writer(causal: Exported) -> OnnxWriter:
    return OnnxWriter(causal.folder)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_forty_steps_equal_those_of_pytorch(causal: Exported, writer: OnnxWriter, batch: int) -> None:
    text = tokens(batch, 40)
    states = (writer.init_state(batch), causal.model.init_state(batch))
    for t in range(40):
        logits, mine = writer.step(text[:, t], states[0])
        expected, theirs = causal.model.step(text[:, t], states[1])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        states = (mine, theirs)
    layers = (states[1][0], states[1][2])
    for field, tensor in states[0][0]._asdict().items():
        expected = [getattr(layer, field) for layer in layers]
        joined = expected[0] if field == "count" else torch.cat(expected, dim=1)
        torch.testing.assert_close(tensor, joined, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 2])
def test_prompts_are_read_in_blocks_and_steps(causal: Exported, writer: OnnxWriter, length: int) -> None:
    text = tokens(2, length + 1)
    logits, state = writer.prefill(text[:, :length])
    expected, theirs = causal.model.prefill(text[:, :length], logits_to_keep=1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    logits, _ = writer.step(text[:, -1], state)
    torch.testing.assert_close(logits, causal.model.step(text[:, -1], theirs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generated_ids_equal_those_of_pytorch(
    causal: Exported, writer: OnnxWriter, temperature: float
) -> None:
    config = SamplingConfig(max_new_tokens=30, temperature=temperature, seed=3, top_p=0.9)
    prompts = [[1], list(range(10)) * 2, [5, 6, 7, 8, 9, 10, 0]]
    for some in (prompts, prompts[1:2], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]):
        expected = generate(causal.model, some, config)
        actual = generate(writer, some, config)
        assert actual.tokens == expected.tokens
        more = [[3, 1]] * len(some)
        further = generate(writer, more, config, state=actual.state)
        assert further.tokens == generate(causal.model, more, config, state=expected.state).tokens


def test_states_are_values(writer: OnnxWriter) -> None:
    text = tokens(3, 12)
    rows = [writer.prefill(text[row : row + 1, : 4 + row])[1] for row in range(3)]
    together = concat_states(rows)
    before = [tensor.clone() for layer in together for tensor in layer]
    logits, _ = writer.step(text[:, 7], together)
    for row in range(3):
        alone, _ = writer.step(text[row : row + 1, 7], select_state(together, [row]))
        torch.testing.assert_close(alone[0], logits[row], rtol=1e-5, atol=1e-5)
    assert expand_state(together, 2)[0][0].shape[0] == 6
    after = [tensor for layer in together for tensor in layer]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@torch.no_grad()
def test_the_filters_are_an_output(causal: Exported, writer: OnnxWriter) -> None:
    text = tokens(2, 6)
    block = causal.model.backbone.layers[0]
    x = block.mixer_norm(causal.model.embedding(text))  # pyright: ignore
    expected = block.mixer.inspect(x).filter[:, -1].abs()  # pyright: ignore
    _, state = writer.prefill(text[:, :5])
    feeds = writer._arrays(state, 2) | {"token": text[:, 5].numpy()}
    (filters,) = map(torch.from_numpy, writer._step.run(["filters"], feeds))
    assert writer.description["filters"] == {"layers": [0, 2], "bins": [16, 16], "heads": 2}
    assert filters.shape == (2, 2, 2, 16)
    torch.testing.assert_close(filters[:, 0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_delta_rule_is_a_loop_of_the_runtime(tmp_path: Path) -> None:
    model = make(mixers=("delta_spectral",), num_layers=1).float()
    export_model(model, None, ExportConfig(output=str(tmp_path), block_length=BLOCK))
    writer = OnnxWriter(tmp_path)
    text = tokens(2, 2 * BLOCK + 3)
    logits, state = writer.prefill(text[:, :-1])
    expected, theirs = model.prefill(text[:, :-1], logits_to_keep=1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    logits, _ = writer.step(text[:, -1], state)
    torch.testing.assert_close(logits, model.step(text[:, -1], theirs)[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_8_bit_weights_give_similar_logits(causal: Exported, writer: OnnxWriter) -> None:
    small = OnnxWriter(causal.folder, int8=True)
    text = tokens(2, 20)
    states = (writer.init_state(2), small.init_state(2))
    off = []
    for t in range(20):
        logits, mine = writer.step(text[:, t], states[0])
        rough, theirs = small.step(text[:, t], states[1])
        off.append(float((logits - rough).norm() / logits.norm()))
        states = (mine, theirs)
    # A single token of such a narrow model may be far off.
    assert 0 < sum(off) / len(off) < 0.1
    assert (causal.folder / "step_int8.onnx").stat().st_size < (causal.folder / "step.onnx").stat().st_size


def test_state_json_describes_the_programs(causal: Exported) -> None:
    values = json.loads((causal.folder / "state.json").read_text())
    assert values["files"] == {"step": "step.onnx", "prefill": "prefill.onnx", "step_int8": "step_int8.onnx"}
    assert values["block_length"] == BLOCK
    assert values["vocab_size"] == VOCAB
    assert values["model"]["num_layers"] == 3
    session = onnxruntime.InferenceSession(causal.folder / "step.onnx")
    assert {entry["input"] for entry in values["state"]} | {"token"} == {x.name for x in session.get_inputs()}
    layers = {entry["field"]: entry["layers"] for entry in values["state"] if 1 not in entry["layers"]}
    assert layers == {field: [0, 2] for field in ("spectrum", "mean", "count", "conv_state")}
    names = [entry["output"] for entry in values["state"]]
    assert ["logits", *names, "filters"] == [y.name for y in session.get_outputs()]
    zeros = {
        entry["input"]: np.full([1, *entry["shape"]], entry["initial"], entry["dtype"])
        for entry in values["state"]
    }
    assert values["state_bytes"] == sum(array.nbytes for array in zeros.values())
    logits = session.run(["logits"], zeros | {"token": np.array([4])})[0]
    with torch.no_grad():
        expected, _ = causal.model.step(torch.tensor([4]), causal.model.init_state(1))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_encoder_equals_that_of_pytorch(encoder: Exported) -> None:
    session = onnxruntime.InferenceSession(encoder.folder / "encoder.onnx")
    for batch in (1, 3):
        text = tokens(batch, 13)
        logits, hidden = session.run(["logits", "hidden"], {"tokens": text.numpy()})
        np.testing.assert_allclose(logits, encoder.model(text), rtol=1e-4, atol=1e-4)
        assert hidden.shape == (batch, 13, 8)
    values = json.loads((encoder.folder / "state.json").read_text())
    assert values["encoder_length"] == 13
    with pytest.raises(ExportError, match="holds a bidirectional model, which can't write"):
        OnnxWriter(encoder.folder)


def test_wrong_ids_and_states_are_refused(causal: Exported, writer: OnnxWriter) -> None:
    state = writer.init_state(2)
    _, newest = writer.step(torch.tensor([1, 1]), state)
    other = causal.model.init_state(2)
    calls: list[tuple[Callable[[], object], str]] = [
        # First, while this state is the newest.
        (lambda: writer.step(torch.tensor([1]), newest), "the state is of 2 rows, the tokens of 1"),
        (lambda: writer.step(torch.tensor([1, -1]), newest), "id -1 lies outside the vocabulary"),
        (lambda: generate(writer, [[1, VOCAB]]).tokens, f"id {VOCAB} lies outside the vocabulary of {VOCAB}"),
        (lambda: writer.step(torch.tensor([1]), state), "the state is of 2 rows, the tokens of 1"),
        (lambda: writer.step(torch.tensor([1, 1]), other), "of another model: it has 3 layers, not 2"),
        (lambda: writer.prefill(tokens(2, 3)[:, :0], state), "a sequence of length 0"),
        (lambda: writer.prefill(tokens(2, 3), logits_to_keep=3), "returns the last logits only"),
        (lambda: generate(writer, [[1]], SamplingConfig(compile=True)), "compile works with PyTorch models"),
    ]
    for call, sentence in calls:
        with pytest.raises(ValueError, match=sentence):
            call()
    # The writer still works.
    assert writer.step(tokens(2, 1)[:, 0], state)[0].shape == (2, VOCAB)


def test_an_incomplete_folder_is_refused(causal: Exported, tmp_path: Path) -> None:
    values = json.loads((causal.folder / "state.json").read_text())
    values["files"].pop("step_int8")
    (tmp_path / "state.json").write_text(json.dumps(values))
    with pytest.raises(ExportError, match=r"has no 8-bit weights: .* --int8"):
        OnnxWriter(tmp_path, int8=True)
    with pytest.raises(ExportError, match=r"step\.onnx is missing"):
        OnnxWriter(tmp_path)
    (tmp_path / "step.onnx").write_bytes((causal.folder / "step.onnx").read_bytes()[:1000])
    with pytest.raises(ExportError, match=r"step\.onnx is damaged, export it again"):
        OnnxWriter(tmp_path)


def test_programs_that_state_json_does_not_describe_end_in_a_sentence(
    causal: Exported, tmp_path: Path
) -> None:
    for file in ("step.onnx", "prefill.onnx"):
        (tmp_path / file).hardlink_to(causal.folder / file)
    values = json.loads((causal.folder / "state.json").read_text())
    entry = values["state"][0]
    for change in ({"block_length": BLOCK - 1}, {"state": [entry]}, {"state": [entry | {"input": "s99"}]}):
        (tmp_path / "state.json").write_text(json.dumps(values | change))
        with pytest.raises(ExportError, match=r"can't be run, export the model again: "):
            OnnxWriter(tmp_path).prefill(tokens(1, BLOCK))
