"""Damaged and hostile files end in one error message, and take no memory beyond their size."""

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import VOCAB, make, tokens
from safetensors.torch import load_file, save_file
from torch import Tensor

from fftnet import FFTNet, FFTNetConfig
from fftnet.api.load import classifier_kind
from fftnet.api.predict import load_classifier
from fftnet.api.start import flag_defaults
from fftnet.model import (
    FFTNetForSequenceClassification,
    FFTNetViT,
    SequenceClassifierConfig,
    ViTConfig,
    load_state,
    save_state,
)
from fftnet.serialization import MAX_JSON_BYTES, CheckpointError, read_json
from fftnet.utils.tokenizer import load_tokenizer

SMALL: dict[str, Any] = {"d_model": 8, "num_layers": 1}
MODELS = {
    FFTNet: FFTNetConfig(vocab_size=VOCAB, **SMALL),
    FFTNetForSequenceClassification: SequenceClassifierConfig(vocab_size=VOCAB, **SMALL),
    FFTNetViT: ViTConfig(num_classes=3, image_size=32, **SMALL),
}
MEMORY = 100 * 2**20
"""Maximum growth of the process while a file is refused, in bytes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FFTNet(MODELS[FFTNet]).save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 10**6},
        {"d_model": 10**12},
        {"num_layers": 10**9},
        {"num_layers": 4096, "d_model": 256},
        {"vocab_size": 2**24},
        {"ffn_dim": 2**24},
        {"d_model": 2**20, "num_heads": 2**20, "vocab_size": 2**24, "ffn_dim": 2**24},
        {"mixer_configs": {"addressed_spectral": {"num_bins": 2**20}}},
        {"mixer_configs": {"addressed_spectral": {"conv_size": 2**20}}},
        {"mixer_configs": {"addressed_spectral": {"context_dim": 2**20}}},
        {"mixers": ["delta_spectral"], "mixer_configs": {"delta_spectral": {"context_dim": 2**20}}},
        {"causal": False, "mixers": [], "mixer_configs": {"spectral": {"num_anchors": 2**20}}},
    ],
)
def test_sizes_that_the_weights_do_not_have_take_no_memory(folder: Path, sizes: dict[str, Any]) -> None:
    change(folder, mixer_configs={})
    change(folder, **sizes)
    before = peak_bytes()
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a model: "):
        FFTNet.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a model: "):
        flag_defaults(folder)
    assert peak_bytes() - before < MEMORY


@pytest.mark.parametrize("kind", [FFTNetForSequenceClassification, FFTNetViT])
def test_the_sizes_of_classifiers_are_compared_with_their_weights_too(kind: Any, tmp_path: Path) -> None:
    kind(MODELS[kind]).save_pretrained(tmp_path)
    change(tmp_path, d_model=2**20)
    before = peak_bytes()
    with pytest.raises(CheckpointError, match=r"larger than the [\d,]+ numbers in model\.safetensors"):
        kind.from_pretrained(tmp_path)
    assert peak_bytes() - before < MEMORY


@pytest.mark.parametrize("value", [5, "", {}, {"a": 1}, [1], [["FFTNet"]], ["a", "b"], True])
def test_architectures_of_a_wrong_type_are_refused(folder: Path, value: Any) -> None:
    change(folder, architectures=value)
    for load in (FFTNet.from_pretrained, classifier_kind):
        with pytest.raises(CheckpointError, match="architectures must be a list of one name, got"):
            load(folder)


def test_class_names_that_cannot_be_printed_are_refused(tmp_path: Path) -> None:
    FFTNetViT(MODELS[FFTNetViT]).save_pretrained(tmp_path)
    change(tmp_path, id2label={"0": "a", "1": "b", "2": "\ud800"})
    with pytest.raises(CheckpointError, match="class_names holds a lone surrogate"):
        FFTNetViT.from_pretrained(tmp_path)


@pytest.mark.parametrize("run", [3, "x", [1], {"task": 3}, {"task": {}, "data": 3}])
def test_a_run_file_of_a_wrong_type_is_refused(tmp_path: Path, run: Any) -> None:
    tokenizer = load_tokenizer("bytes")
    tokenizer.save(tmp_path)
    config = SequenceClassifierConfig(vocab_size=tokenizer.vocab_size, **SMALL)
    FFTNetForSequenceClassification(config).save_pretrained(tmp_path)
    load_classifier(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(CheckpointError, match=r"run\.json is not that of this model, take another"):
        load_classifier(tmp_path)


def write_special(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_only_regular_files_are_read(folder: Path, name: str, kind: str) -> None:
    write_special(folder / name, kind)
    with pytest.raises(CheckpointError, match=rf"{name} is (damaged|missing)"):
        FFTNet.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 10**6, "it is nested too deep"),
        (b'{"a":' * 10**6, "it is nested too deep"),
        (b" " * (MAX_JSON_BYTES + 1), "it is larger than 33,554,432 bytes"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b"9" * 5000, "Exceeds the limit"),
        (b"", "Expecting value"),
    ],
)
def test_json_of_any_content_ends_in_an_error_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.json is damaged, take another checkpoint: .*{message}"):
        read_json(path)


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**40),
        struct.pack("<Q", 10**5) + b"[" * 10**5,
        header(w={"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}),
        header(w={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}) + bytes(4),
        header(w={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + bytes(4),
        header(w={"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}) + bytes(4),
        header(w={"dtype": "O", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
        header(w=3),
        header(),
    ],
)
def test_damaged_weights_end_in_an_error_message(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    before = peak_bytes()
    with pytest.raises(CheckpointError, match=r"model\.safetensors (is damaged|lacks|holds)"):
        FFTNet.from_pretrained(folder)
    assert peak_bytes() - before < MEMORY


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_of_other_dtypes_are_refused(folder: Path, dtype: torch.dtype) -> None:
    path = folder / "model.safetensors"
    stored = load_file(path)
    save_file(stored | {"embedding.weight": stored["embedding.weight"].to(dtype)}, path)
    named = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"holds embedding\.weight as {named}, not float32: take"):
        FFTNet.from_pretrained(folder)
    # Other floating dtypes are converted.
    for other in (torch.float64, torch.float16, torch.bfloat16):
        save_file({name: tensor.to(other) for name, tensor in stored.items()}, path)
        for name, weight in FFTNet.from_pretrained(folder).state_dict().items():
            torch.testing.assert_close(weight, stored[name].to(other).float(), rtol=0, atol=0)


def split(folder: Path, files: dict[str, list[str]], index: Any = None) -> None:
    """Write the weights as shards with an index, as Transformers does, instead of one file."""
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for file, names in files.items():
        save_file({name: stored[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in files.items() for name in names}
    content = {"weight_map": weight_map} if index is None else index
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_shards_are_loaded_as_one_file_is(folder: Path) -> None:
    whole = FFTNet.from_pretrained(folder)
    names = list(whole.state_dict())
    split(folder, {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)})
    for name, weight in FFTNet.from_pretrained(folder).state_dict().items():
        torch.testing.assert_close(weight, whole.state_dict()[name], rtol=0, atol=0)
    change(folder, d_model=10**6)
    with pytest.raises(CheckpointError, match=r"larger than the [\d,]+ numbers"):
        FFTNet.from_pretrained(folder)


@pytest.mark.parametrize(
    "index",
    [
        *(5, [], {}, {"weight_map": 3}, {"weight_map": []}, {"weight_map": {}}),
        *({"weight_map": {"embedding.weight": name}} for name in ("../a", "/a", "a/b", "..\\a", "C:a", "..")),
        *({"weight_map": {"embedding.weight": value}} for value in (5, None, ["a"], {"a": 1}, "missing")),
    ],
)
def test_an_index_of_shards_names_files_of_its_folder_only(folder: Path, index: Any) -> None:
    split(folder, {}, index)
    with pytest.raises(CheckpointError, match=r"(index\.json is damaged|is missing|lacks backbone)"):
        FFTNet.from_pretrained(folder)


def spoiled(change: Callable[[Tensor], Tensor], field: str | None = None) -> Callable[[Any], Any]:
    """Return a function that changes one tensor of every layer's state, the first one by default."""

    def spoil(state: Any) -> Any:
        name = field or state[0]._fields[0]
        return tuple(layer._replace(**{name: change(getattr(layer, name))}) for layer in state)

    return spoil


@pytest.mark.parametrize("mixer", ["addressed_spectral", "attention"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoiled(lambda x: x * 0 - 1, "count"), "count of layer 0 must lie between 0 and"),
        (spoiled(lambda x: x * 0 + 2**60, "count"), "count of layer 0 must lie between 0 and"),
        (spoiled(lambda x: x.to(torch.complex64)), "as complex64, not float"),
        (spoiled(lambda x: x.long()), "as int64, not float"),
        (spoiled(lambda x: x.bool()), "as bool, not float"),
        (spoiled(lambda x: x.sum()), "does not fit: "),
        (spoiled(lambda x: x[..., :1]), "does not fit: "),
        (spoiled(lambda x: x[:0]), "does not fit: "),
    ],
)
def test_a_hostile_state_ends_in_an_error_message(
    tmp_path: Path, mixer: str, spoil: Callable[[Any], Any], message: str
) -> None:
    model = make(mixers=(mixer,))
    _, state = model.prefill(tokens(2, 5))
    path = tmp_path / "state.safetensors"
    save_state(state, path)
    load_state(path, model)
    save_state(spoil(state), path)
    with pytest.raises(CheckpointError, match=message):
        load_state(path, model)
