"""Help, and output that can't be written or encoded."""

import io
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from commands import ROOT, run, shared_forks
from models import make

import fftnet
from fftnet.api.generate import SamplingConfig
from fftnet.api.run_config import NOT_FLAGS, PARTS
from fftnet.cli.commands import COMMANDS
from fftnet.cli.main import main
from fftnet.utils.tokenizer import load_tokenizer


def test_the_first_help_lists_every_command_and_loads_no_pytorch() -> None:
    code = (
        "import sys; from fftnet.cli.main import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    told = []
    for words, status in (["--help"], 0), ([], 2), (["--version"], 0):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        told.append(done.stdout or done.stderr)
    asked, bare, version = told
    assert asked == bare
    assert all(f"  {name} " in asked and command.about in asked for name, command in COMMANDS.items())
    assert "fftnet generate models/shakespeare" in asked.partition("commands:")[0]
    assert max(map(len, asked.splitlines())) <= 80
    assert version == f"fftnet {fftnet.__version__}\n"


def test_help_shows_common_flags_first_and_help_all_every_flag(tmp_path: Path) -> None:
    short = run("fftnet train --help", tmp_path).stdout
    lines = short.splitlines()
    assert lines[0] == "usage: fftnet train [DATA ...] [flags]"
    shown = re.findall(r"^  --(\w+) ", short, re.MULTILINE)
    assert [name for name in shown if name not in ("help_all", "config")] == list(COMMANDS["train"].common)
    assert "{next_token,masked_token,classification,image_classification}" in short
    assert lines[-4] == "examples:"
    assert len(lines) < 90
    for name, command in COMMANDS.items():
        if name not in ("train", "lm_eval"):
            text = run(f"fftnet {name} --help", tmp_path).stdout
            assert text.startswith(f"usage: fftnet {name} [{command.positional[0].upper()}]")
            assert all(example in text for example in command.examples)


def test_the_examples_of_help_are_command_lines(tmp_path: Path) -> None:
    for command in COMMANDS.values():
        for example in command.examples:
            words = shlex.split(example.rpartition("| ")[2])
            if words[1] == "lm_eval":
                continue  # Its flags are those of the harness.
            line = shlex.join([*words, "--print_config"]).replace("recipes/", f"{ROOT}/recipes/")
            run(line, tmp_path)


def test_values_without_a_flag_go_to_the_positional_flags(tmp_path: Path) -> None:
    for line, expected in (
        ("train a.txt b.txt --d_model 64", {"data": ["a.txt", "b.txt"], "d_model": 64}),
        ("train --d_model 64 a.txt", {"data": ["a.txt"], "d_model": 64}),
        ("predict outputs a.csv --batch_size 2", {"checkpoint": "outputs", "file": "a.csv"}),
        ("predict outputs --batch_size 2 a.csv", {"checkpoint": "outputs", "file": "a.csv"}),
    ):
        printed = yaml.safe_load(run(f"fftnet {line} --print_config", tmp_path).stdout)
        assert expected.items() <= printed.items()


def test_help_shows_every_flag(tmp_path: Path) -> None:
    text = " ".join(run("fftnet train --help_all", tmp_path).stdout.split())
    for config in PARTS.values():
        for field in fields(config):
            assert field.name in NOT_FLAGS or f"--{field.name}" in text, field.name
    text = " ".join(run("fftnet generate --help", tmp_path).stdout.split())
    assert all(f"--{field.name}" in text for field in fields(SamplingConfig))


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
        assert shared_forks().run(words, tmp_path, FULL, err) == [2]
        said = err.read_text().splitlines()
        assert said[-1] == "error: the output could not be written: No space left on device"
        assert "Traceback" not in err.read_text()
    # Nothing can be said, but the status tells.
    assert shared_forks().run(["nonsense"], tmp_path, tmp_path / "out", FULL) == [2]
    assert shared_forks().run(generate, tmp_path, tmp_path / "out", FULL) == [2]


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
