"""``fftnet evaluate`` on trained checkpoints: metrics against sums by hand, warnings and error messages."""

import json
import math
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Answer, answer
from conftest import randomise
from torch.nn import functional as F

from fftnet.data.cache import cache_path
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import WEIGHTS_FILE, read_tensors, write_json, write_tensors
from fftnet.utils.dataset import DataConfig, load_tokens, split_views
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

WINDOW = 32
STORY = " ".join(f"Öre {n % 7} naïve owls sing 東京 {n * n % 11}." for n in range(60))
OTHER = " ".join(f"A fox of {n % 5} pöunds runs." for n in range(40))

TRAIN = (
    f"train --data story.txt --d_model 16 --num_heads 4 --num_layers 1 --max_seq_length {WINDOW} "
    "--batch_size 3 --max_steps 4 --test_fraction 0.2 --output_dir run"
)
COMMANDS = {
    "plot": "run/best --data story.txt --test_fraction 0.2 --plot loss.png",
    "plain": "run/best --data other.txt --whole",
    "bpe": "bpe --data other.txt --whole",
    "bpe, cut": "bpe --data other.txt --whole --batch_size 1 --max_tokens 65",
    "tokenized": "run/best --data copy.txt --whole --in_memory_mb 0 --cache_dir cache",
    "opened": "run/best --data copy.txt --whole --in_memory_mb 0 --cache_dir cache",
    "without its text": "run/best --data copy.txt --whole --in_memory_mb 0 --cache_dir cache",
    "tokens alone": "run/best --data TOKENS --whole",
    "another split": "run/best --data story.txt --test_fraction 0.2 --data_seed 3",
    "seen whole": "run/best --data story.txt --whole",
    "bidirectional": "both --data other.txt --whole",
    "bare": "bare --data other.txt --whole",
    "no plot": "run/best --data other.txt --whole --max_tokens 9 --plot taken.png",
}
MISTAKES = {
    "nowhere --data other.txt": r"nowhere/config\.json is missing: is nowhere a checkpoint\?",
    "run/best --data nowhere.txt": r"nowhere\.txt matches no file",
    "run/best --data empty.txt": r"empty\.txt is empty",
    "run/best --data empty.txt --whole": r"empty\.txt is empty",
    "run/best --data latin.txt": r"latin\.txt is not UTF-8 text \(byte 3\)",
    "run/best --data tiny.txt": r"tiny\.txt is too short: its test split has 1 tokens",
    "run/best --plot a.png": r"plot needs a causal model and documents: name a real text with --data",
    "both --data other.txt --plot a.png": r"plot needs a causal model and documents",
    "run/best --whole": r"synthetic data are samples, not documents: name a real text",
    "run/best --data other.txt --plot a.xyz": r"plot must name a \.png file, got 'a\.xyz'",
    "run/best --data other.txt --plot no/a.png": r"plot must lie in a folder that exists, got 'no/a\.png'",
    "run/best --data other.txt --max_tokens 0": r"max_tokens must be at least 1 or left out, got 0",
    "misfit --data other.txt": r"misfit holds a tokenizer of 257 tokens and a model of 300: put back the tok",
    "guess --data other.txt": r"guess/run\.json is not that of this model, take another checkpoint",
    "nan --data other.txt": r"the losses of nan are not finite: its weights are damaged",
}

TABLES = ("run/best --data story.txt --test_fraction 0.2", "both --data other.txt --whole")


def report_of(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with texts, and with checkpoints that were not trained, some of them damaged."""
    folder = tmp_path_factory.mktemp("evaluate").resolve()
    texts = {"story": STORY, "other": OTHER, "copy": OTHER, "tiny": "Tiny.", "empty": ""}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (folder / "taken.png").mkdir()
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"d_model": 8, "num_heads": 2, "num_layers": 1, "max_seq_length": WINDOW}
    bpe = load_tokenizer("bpe", corpus=[STORY, OTHER], vocab_size=300)
    save(FFTNet(FFTNetConfig(vocab_size=300, **sizes)), bpe, folder / "bpe", "next_token")
    both = FFTNet(FFTNetConfig(vocab_size=258, causal=False, **sizes))
    save(both, load_tokenizer("bytes"), folder / "both", "masked_token")
    for name in ("misfit", "bare", "guess", "nan"):
        shutil.copytree(folder / "bpe", folder / name)
    load_tokenizer("bytes").save(folder / "misfit")
    (folder / "bare/run.json").unlink()
    write_json(folder / "guess/run.json", {"task": {"task": "guess"}, "data": {}})
    weights = folder / "nan" / WEIGHTS_FILE
    write_tensors(weights, {name: value * math.nan for name, value in read_tensors(weights).items()})
    return folder


def save(model: FFTNet, tokenizer: Tokenizer, path: Path, task: str) -> None:
    randomise(model).float().save_pretrained(path)
    tokenizer.save(path)
    write_json(path / "run.json", {"task": {"task": task}, "data": {"data": ["synthetic"]}})


@pytest.fixture(scope="module")
def tokens(folder: Path) -> str:
    """Return the path of the cached tokens of ``copy.txt``."""
    config = DataConfig(data=[str(folder / "copy.txt")], cache_dir="cache")
    return str(cache_path(config, load_tokenizer("bytes")))


@pytest.fixture(scope="module")
def answers(folder: Path, tokens: str) -> dict[str, Answer]:
    """Train the checkpoint ``run`` and return the answers of all evaluations."""
    lines = {"train": TRAIN}
    lines |= {name: f"evaluate {line} --json" for name, line in COMMANDS.items()}
    lines |= {line: f"evaluate {line}" for line in (*MISTAKES, *TABLES)}
    copy = folder / "copy.txt"
    found = {}
    for name, line in lines.items():
        if name == "without its text":
            copy.unlink()
        words = line.replace("TOKENS", tokens).replace("copy.txt", str(copy)).split()
        found[name] = answer(words, folder)
    return found


@torch.no_grad()
def losses(model: FFTNet, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return nats and hits of every token but the first, from one forward pass in float64."""
    read = torch.tensor(ids)
    logits_TV = model.double()(read[None, :-1])[0]
    nats_T = F.cross_entropy(logits_TV, read[1:], reduction="none")
    return nats_T.numpy(), (logits_TV.argmax(dim=-1) == read[1:]).numpy()


def windowed(model: FFTNet, ids: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the same with a fresh state for every window, and the mean of their first tokens."""
    parts = [losses(model, ids[at : at + WINDOW + 1]) for at in range(0, len(ids) - 1, WINDOW)]
    nats, right = (np.concatenate(some) for some in zip(*parts, strict=True))
    return nats, right, float(np.mean([part[0][0] for part in parts]))


def check(report: dict[str, Any], nats: np.ndarray, right: np.ndarray, first: float, text: str) -> None:
    expected = {
        "loss": nats.mean(),
        "perplexity": math.exp(nats.mean()),
        "accuracy": right.mean(),
        "bits_per_byte": nats.sum() / math.log(2) / len(text.encode("utf-8")),
        "first_position_loss": first,
    }
    # In float32 the likeliest token of a model that hardly learned is now and then another one.
    assert report["accuracy"] == pytest.approx(expected.pop("accuracy"), abs=2.5 / len(nats))
    assert {name: report[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_the_test_split_and_its_plot(folder: Path, answers: dict[str, Answer]) -> None:
    report = report_of(answers["plot"])
    assert (report["checkpoint"], report["split"]) == ("run/best", "test")
    model = FFTNet.from_pretrained(folder / "run/best")
    tokenizer = Tokenizer.load(folder / "run/best")
    config = DataConfig(data=[str(folder / "story.txt")], test_fraction=0.2)
    view = split_views(load_tokens(config, tokenizer), config)[2]
    ids = view[:].tolist()
    text = tokenizer.decode(ids)
    check(report, *windowed(model, ids), text)
    pieces = [view.tokens[start:end].tolist() for start, end in zip(*view.documents(), strict=True)]
    assert len(pieces) > 1
    each = [losses(model, piece) for piece in pieces]
    nats = np.concatenate([own for own, _ in each])
    right = np.concatenate([own for _, own in each])
    whole = report["whole_documents"]
    check(whole, nats, right, float(np.mean([own[0] for own, _ in each])), text)
    longest = max(len(own) for own, _ in each)
    assert (whole["documents"], whole["tokens"], whole["longest"]) == (len(pieces), len(nats), longest)
    at_first = whole["by_position"][0]
    assert (at_first["first"], at_first["last"], at_first["tokens"]) == (0, 0, len(pieces))
    assert sum(row["tokens"] for row in whole["by_position"]) == len(nats)
    head = (folder / "loss.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(side > 100 for side in struct.unpack(">II", head[16:]))


@pytest.mark.parametrize(("name", "path"), [("plain", "run/best"), ("bpe", "bpe")])
def test_a_whole_text_in_bits_per_byte_of_it(
    folder: Path, answers: dict[str, Answer], name: str, path: str
) -> None:
    report = report_of(answers[name])
    model = FFTNet.from_pretrained(folder / path)
    tokenizer = Tokenizer.load(folder / path)
    ids = [tokenizer.eot, *tokenizer.encode(OTHER), tokenizer.eot]
    assert report["split"] == "all"
    check(report, *windowed(model, ids), OTHER)
    nats, right = losses(model, ids)
    check(report["whole_documents"], nats, right, nats[0], OTHER)
    rows = report["whole_documents"]["by_position"]
    assert [nats[row["first"] : row["last"] + 1].mean() for row in rows] == pytest.approx(
        [row["loss"] for row in rows], rel=1e-4
    )
    assert (len(ids) - 1 < len(OTHER.encode("utf-8")) / 2) == (name == "bpe")


def test_max_tokens_ends_windows_with_a_batch_and_documents_there_and_then(
    folder: Path, answers: dict[str, Answer]
) -> None:
    report = report_of(answers["bpe, cut"])
    model = FFTNet.from_pretrained(folder / "bpe")
    tokenizer = Tokenizer.load(folder / "bpe")
    ids = [tokenizer.eot, *tokenizer.encode(OTHER), tokenizer.eot]
    kept, _, _ = windowed(model, ids[: 3 * WINDOW + 1])
    assert report["loss"] == pytest.approx(kept.mean(), rel=1e-4)
    assert report["whole_documents"]["tokens"] == 65
    assert report["whole_documents"]["loss"] == pytest.approx(losses(model, ids[:66])[0].mean(), rel=1e-4)


def test_a_tokenized_text_gives_the_same_and_outlives_its_source(
    answers: dict[str, Answer], tokens: str
) -> None:
    plain = report_of(answers["plain"])
    for name in ("tokenized", "opened", "tokens alone"):
        assert report_of(answers[name]) == plain, name
    gone = answers["without its text"]
    assert (gone.code, gone.out, len(gone.err.splitlines())) == (2, "", 1)
    assert "copy.txt matches no file" in gone.err
    way_out = f"its tokens are still in {tokens}: put the text back, or use them with --data {tokens}"
    assert way_out in gone.err


def test_a_text_that_the_model_has_seen_is_warned_of(answers: dict[str, Answer]) -> None:
    assert answers["plot"].err + answers["plain"].err == ""
    expected = "warning: not the test split of training (data_seed 0, not 3)"
    assert expected in answers["another split"].err
    assert report_of(answers["another split"])["loss"] > 1
    assert "warning: the model was trained on a part of story.txt" in answers["seen whole"].err


def test_a_model_without_run_file_or_without_documents(answers: dict[str, Answer]) -> None:
    assert report_of(answers["bare"]) == report_of(answers["bpe"]) | {"checkpoint": "bare"}
    assert answers["bare"].err.startswith("warning: bare/run.json is missing: the model may have been")
    assert report_of(answers["bidirectional"])["loss"] > 1
    assert "whole_documents" not in report_of(answers["bidirectional"])


def test_without_json_a_short_table_has_the_same_numbers(answers: dict[str, Answer]) -> None:
    report = report_of(answers["plot"])
    whole = report["whole_documents"]
    lines = answers[TABLES[0]].out.splitlines()
    assert lines[:2] == ["checkpoint           run/best", "split                test"]
    assert f"bits per byte        {report['bits_per_byte']:.4f}" in lines
    assert f"bits per byte        {whole['bits_per_byte']:.4f}" in lines[lines.index("whole documents") :]
    start = next(n for n, line in enumerate(lines) if line.startswith("position "))
    rows = [line.rsplit(maxsplit=2) for line in lines[start + 1 :]]
    assert [row[1:] for row in rows] == [
        [f"{r['tokens']:,}", f"{r['loss']:.4f}"] for r in whole["by_position"]
    ]
    assert [row[0] for row in rows[:4]] == ["0", "1", "2 to 3", "4 to 7"]
    assert max(map(len, lines)) < 80
    assert "position" not in answers[TABLES[1]].out.replace("first position loss", "")


@pytest.mark.parametrize(("command", "message"), MISTAKES.items())
def test_a_users_mistake_ends_in_a_sentence(answers: dict[str, Answer], command: str, message: str) -> None:
    code, out, err = answers[command]
    assert (code, out) == (2, "")
    assert re.match(f"error: .*{message}", err), err
    assert len(err.splitlines()) == 1, err


def test_a_plot_that_can_t_be_written_leaves_the_figures(answers: dict[str, Answer]) -> None:
    code, out, err = answers["no plot"]
    assert json.loads(out)["loss"] > 1
    assert (code, err) == (2, "error: the plot taken.png could not be written: Is a directory\n")
