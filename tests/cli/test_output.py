"""Output that can't be written ends in a sentence; characters that can't be encoded are replaced."""

import io
import sys
from pathlib import Path

import commands
import pytest
from models import make

from fftnet.cli.main import main
from fftnet.utils.tokenizer import load_tokenizer

FULL = Path("/dev/full")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = load_tokenizer("bytes")
    tokenizer.save(tmp_path / "model")
    make(vocab_size=tokenizer.vocab_size).float().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_an_output_that_is_full_ends_in_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    generate = ["generate", str(checkpoint), "--max_new_tokens", "3"]
    for words in (["--help"], ["--version"], generate):
        err = tmp_path / "err"
        err.unlink(missing_ok=True)
        assert commands._forks().run(words, tmp_path, FULL, err) == [2]
        said = err.read_text().splitlines()
        assert said[-1] == "error: the output could not be written: No space left on device"
        assert "Traceback" not in err.read_text()
    # Nothing can be said, but the status tells.
    assert commands._forks().run(["nonsense"], tmp_path, tmp_path / "out", FULL) == [2]
    assert commands._forks().run(generate, tmp_path, tmp_path / "out", FULL) == [2]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_text_that_the_output_cannot_encode_is_written_with_replacements(
    checkpoint: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    prompt = "né 你好 "
    assert main(["generate", str(checkpoint), "--prompt", prompt, "--max_new_tokens", "40"]) == 0
    text = written.getvalue().decode(encoding)
    assert text.startswith(prompt.encode(encoding, "replace").decode(encoding))
    assert ("你" in text) == (encoding == "utf-8")


def test_a_label_with_a_lone_surrogate_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    monkeypatch.setattr("fftnet.cli.predict.run", lambda words: print("label \ud800"))
    assert main(["predict", "model"]) == 0
    assert written.getvalue() == b"label ?\n"
