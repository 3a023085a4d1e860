"""``fftnet inspect``: its pictures, the ones it leaves out, and its error messages."""

import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Answer, answer
from conftest import randomise

from fftnet.evaluation.inspection_plots import shares, token_labels
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

STORY = "Öre sings naïve owls, 東京 costs $5 and $6, 😀\tand\n" * 12
ALL = {
    "filters.png",
    "time_scales.png",
    "spectra.png",
    "weights_layer_0.png",
    "weights_layer_1.png",
    "weights_of_a_token.png",
    "loss_by_position.png",
}
RUNS = {
    "prompt": ("causal --prompt TEXT", ALL),
    "file": ("causal --file story.txt --show 110 --position 3", ALL),
    "one token": ("causal --prompt a", ALL),
    "bpe": ("bpe --file story.txt --show 9", ALL),
    "attention": (
        "attention --prompt TEXT",
        {"weights_layer_0.png", "weights_of_a_token.png", "loss_by_position.png"},
    ),
    "both": ("both --prompt TEXT", {"filters.png"}),
    "sees all": (
        "sees_all --prompt TEXT --position 3",
        {"filters.png", "weights_layer_1.png", "weights_of_a_token.png"},
    ),
    "fnet": ("fnet --prompt TEXT", set()),
}
MISTAKES = {
    "causal": r"name a text: either with prompt or with file",
    "causal --prompt a --file story.txt": r"name a text: either with prompt or with file",
    "causal --prompt=": r"the prompt is empty: there is nothing to look at",
    "causal --file empty.txt": r"empty\.txt is empty: there is nothing to look at",
    "causal --file latin.txt": r"latin\.txt is not UTF-8 text \(byte 3\): convert it",
    "causal --file nowhere.txt": r"nowhere\.txt can't be read \(No such file or directory\)",
    f"causal --prompt {'a' * 512}": r"the prompt has 512 tokens, and a picture shows 511: shorten it, or put",
    "causal --prompt abc --position 4": r"position 4 is not shown: the pictures have 4 tokens, from 0 on",
    "causal --file story.txt --show 1": r"show must lie between 2 and 512, got 1",
    "causal --prompt abc --output story.txt": r"can't be written to story\.txt \(File exists\): choose an",
    "causal --prompt abc --output taken": r"can't be written to taken \(Is a directory\)",
    "nan --prompt abc": r"nan: what the model computes is not finite: its weights are damaged",
    "nowhere --prompt abc": r"nowhere/config\.json is missing: is nowhere a checkpoint\?",
}


def made_by(name: str) -> str:
    return f"pictures/{name.replace(' ', '_')}"


def save(path: Path, tokenizer: Tokenizer, **fields: Any) -> FFTNet:
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"d_model": 8, "num_heads": 2, "num_layers": 2, "max_seq_length": 32} | fields
    config = FFTNetConfig(vocab_size=tokenizer.vocab_size + (not sizes.get("causal", True)), **sizes)
    model = randomise(FFTNet(config)).float()
    model.save_pretrained(path)
    tokenizer.save(path)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "story.txt").write_text(STORY, encoding="utf-8")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "taken" / "filters.png").mkdir(parents=True)
    tokenizer = load_tokenizer("bytes")
    save(folder / "causal", tokenizer)
    save(folder / "attention", tokenizer, mixers=("attention",), num_layers=1)
    save(folder / "both", tokenizer, causal=False)
    save(folder / "sees_all", tokenizer, causal=False, mixers=("spectral", "bidirectional_attention"))
    save(folder / "fnet", tokenizer, causal=False, mixers=("fnet",))
    save(folder / "bpe", load_tokenizer("bpe", corpus=[STORY], vocab_size=300), mixers=("delta_spectral",))
    damaged = save(folder / "nan", tokenizer)
    with torch.no_grad():
        damaged.backbone.norm.weight.fill_(math.nan)
    damaged.save_pretrained(folder / "nan")
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Answer]:
    lines = {name: f"{line} --output {made_by(name)}" for name, (line, _) in RUNS.items()}
    lines |= {line: line for line in MISTAKES}
    found = {}
    for name, line in lines.items():
        words = ["inspect", *(STORY[:24] if word == "TEXT" else word for word in line.split())]
        found[name] = answer(words, folder)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_pictures_depend_on_the_mixers(folder: Path, answers: dict[str, Answer], name: str) -> None:
    code, out, err = answers[name]
    assert code == 0, err
    made = folder / made_by(name)
    assert {path.name for path in made.iterdir()} == RUNS[name][1]
    assert {Path(line).name for line in out.splitlines()} == RUNS[name][1]
    for path in made.iterdir():
        start = path.read_bytes()[:24]
        assert start[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(struct.unpack(">II", start[16:])) > 200


def test_missing_pictures_are_explained(answers: dict[str, Answer]) -> None:
    assert "left out" not in answers["prompt"].err
    assert "because a bidirectional model reads a text all at once" in answers["both"].err
    assert "weights of tokens of the layers with spectral, which have none" in answers["both"].err
    assert "weights of tokens of the layers with spectral, which have none" in answers["sees all"].err
    assert "filters of the layers with fnet, which have none" in answers["fnet"].err
    assert "filters, time scales and spectra of the layers with attention" in answers["attention"].err


@pytest.mark.parametrize("line", MISTAKES)
def test_a_users_mistake_ends_in_a_sentence(answers: dict[str, Answer], line: str) -> None:
    code, _, err = answers[line]
    assert code == 2
    assert re.search(MISTAKES[line], err), err
    assert len(err.splitlines()) == 1


def test_labels_show_blanks_and_control_characters() -> None:
    tokenizer = load_tokenizer("bytes")
    ids = [tokenizer.eot, *tokenizer.encode("a \n$é\x07")]
    assert token_labels(tokenizer, ids) == ["<end>", "a", "␣", "↵", "$", "\\xc3", "\\xa9", "U+7"]
    words = load_tokenizer("bpe", corpus=[" incomprehensible 東東" * 30], vocab_size=290)
    labels = token_labels(words, words.encode(" incomprehensible 東東"))
    assert labels[0] == "␣incomp…"
    assert any(label.startswith("␣U+6771") for label in labels)


def test_shares_are_proportional_and_zero_without_weights() -> None:
    weights = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    assert shares(weights).tolist() == [[0.25, 0.75], [0.0, 0.0]]
