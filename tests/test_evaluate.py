"""``fftnet evaluate`` as a user runs it."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "ten",
    "frogs",
    "sing",
    "and",
    "Ärzte",
    "sleep",
]


def run(folder: Path, flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "fftnet", *shlex.split(flags)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def report(folder: Path, flags: str) -> dict[str, Any]:
    return json.loads(run(folder, f"evaluate {flags}").stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate")
    (path / "text").mkdir()
    for n in range(30):
        words = (WORDS[(n * 7 + i * i) % len(WORDS)] for i in range(60 + 9 * n))
        (path / "text" / f"{n:02}.txt").write_text(" ".join(words), encoding="utf-8")
    tiny = "--d_model 16 --num_heads 4 --num_layers 1 --max_seq_length 32 --batch_size 4 --max_steps 4"
    for name, more in (("bytes", ""), ("bpe", "--tokenizer bpe --vocab_size 280")):
        run(path, f"train --data text {tiny} --output_dir {name} --trackers none --no_progress {more}")
    return path


def test_windows_and_whole_documents_are_measured(folder: Path) -> None:
    found = report(folder, "bytes/best --data text --plot by_position.png")
    whole = found["whole_documents"]
    assert found["split"] == "test"
    assert found["checkpoint"] == "bytes/best"
    for part in (found, whole):
        assert 3 < part["loss"] < 6
        assert part["perplexity"] == pytest.approx(math.exp(part["loss"]))
        assert 0 <= part["accuracy"] < 0.5
        assert 3 < part["first_position_loss"] < 6
    assert whole["longest"] > 32
    assert whole["by_position"][0]["first"] == 0
    assert sum(part["tokens"] for part in whole["by_position"]) == whole["tokens"]
    assert imread(folder / "by_position.png").std() > 0.01


def test_bits_per_byte_are_per_byte_of_the_text(folder: Path) -> None:
    """Whatever the tokenizer, the ends of documents left out."""
    size = sum(path.stat().st_size for path in (folder / "text").iterdir())
    for name in ("bytes", "bpe"):
        whole = report(folder, f"{name}/best --data text --whole")["whole_documents"]
        bits = whole["loss"] * whole["tokens"] / math.log(2)
        assert whole["bits_per_byte"] == pytest.approx(bits / size, rel=1e-6)
        assert whole["documents"] == 30
    assert whole["tokens"] < size + 30


def test_a_limit_stops_early(folder: Path) -> None:
    few = report(folder, "bytes/best --data text --whole --max_tokens 300")["whole_documents"]
    assert 300 <= few["tokens"] < 2500


def test_a_corpus_that_vanishes_is_named_and_its_tokens_are_still_of_use(folder: Path) -> None:
    shutil.copytree(folder / "text", folder / "gone")
    cached = "--data gone --in_memory_mb 0 --cache_dir cache --whole"
    before = report(folder, f"bytes/best {cached}")["whole_documents"]
    shutil.rmtree(folder / "gone")
    done = run(folder, f"evaluate bytes/best {cached}", code=2)
    found = re.search(r"error: gone .*its tokens are still in (\S+): .*--data (\S+)", done.stderr)
    assert found, done.stderr
    again = report(folder, f"bytes/best --data {found[2]} --whole")["whole_documents"]
    assert again == before
    other = run(folder, f"evaluate bpe/best --data {found[2]} --whole", code=2)
    assert "tokenizer" in other.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("nowhere --data text", r"nowhere"),
        ("bytes/best --data nowhere.txt", r"nowhere\.txt matches no file"),
        ("bytes/best --data blank.txt", r"blank\.txt is empty"),
        ("bytes/best --data latin.txt", r"latin\.txt is not UTF-8 text \(byte 3\)"),
        ("bytes/best --plot a.png", r"plot needs a causal model and documents"),
        ("bytes/best --data text --max_tokens 0", r"max_tokens must be at least 1"),
        (
            "mixed --data text",
            r"mixed: its tokenizer has 280 tokens and does not fit its model, which has 257",
        ),
        ("flipped --data text", r"flipped/model\.safetensors is damaged, take another checkpoint"),
    ],
)
def test_a_mistake_ends_in_a_sentence(folder: Path, flags: str, message: str) -> None:
    (folder / "blank.txt").write_text("")
    (folder / "latin.txt").write_bytes("caf\xe9 and more".encode("latin-1"))
    for name in ("mixed", "flipped"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(folder / "bytes" / "best", folder / name)
    (folder / "mixed" / "manifest.json").unlink()
    for path in (folder / "bpe" / "best").glob("tokenizer*"):
        shutil.copy(path, folder / "mixed")
    content = bytearray((folder / "flipped" / "model.safetensors").read_bytes())
    content[-9] ^= 4
    (folder / "flipped" / "model.safetensors").write_bytes(content)
    done = run(folder, f"evaluate {flags}", code=2)
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) < 4
