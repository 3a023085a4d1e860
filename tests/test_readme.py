"""Every block of the README runs, and what it prints is what the README shows."""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import ROOT, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = "--d_model 16 --num_heads 4 --num_layers 1 --batch_size 4 --max_steps 3"
"""Flags that make a run of the README short."""
MOST_LINES, MOST_BYTES, LONGEST_LINE = 170, 9_000, 120


class Block(NamedTuple):
    """A fenced block and the block of output behind it, empty if there is none."""

    language: str
    text: str
    output: str


def blocks(language: str) -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```\n", README, re.MULTILINE | re.DOTALL)
    outputs = [text if kind == "text" else "" for kind, text in [*found[1:], ("", "")]]
    pairs = zip(found, outputs, strict=True)
    return [Block(kind, text, output) for (kind, text), output in pairs if kind == language]


def check_output(printed: str, shown: str) -> None:
    """Compare output with what is shown, in which a line ``...`` stands for any number of lines."""
    pattern = re.escape(shown).replace(re.escape("...\n"), r"(?:.*\n)*")
    assert re.fullmatch(pattern, printed), printed


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= MOST_LINES
    assert len(README.encode()) <= MOST_BYTES
    assert [line for line in lines if len(line) > LONGEST_LINE] == []
    assert any(line.startswith("![") and ".png" in line for line in lines[:15]), "a picture comes first"


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = re.findall(r"^```(\w*)\n.*?^```\n", README, re.MULTILINE | re.DOTALL)
    assert set(kinds) == {"sh", "console", "python", "text"}


def test_python_blocks_print_what_the_readme_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(block.text, namespace)
        check_output(out.getvalue(), block.output)


def test_console_blocks_print_what_the_readme_shows(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "my.txt").write_text("It is the east, and Juliet is the sun.\n" * 400, encoding="utf-8")
    examples = [part for block in blocks("console") for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]]
    assert len(examples) >= 3
    for example in examples:
        command, _, shown = example.partition("\n")
        small = f" {SMALL} --max_seq_length 32" if " train " in command else ""
        done = run(command + small, tmp_path)
        check_output(done.stdout if " generate " in command else done.stderr + done.stdout, shown)


def test_shell_blocks_run(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].split() for block in blocks("sh") for line in block.text.splitlines()]
    assert len(lines) >= 4
    for words in lines:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
        elif words[0] != "source":
            small = f" {SMALL} --max_seq_length 160 --pattern_complexity 0 --num_samples 8"
            run(" ".join(words) + small * (words[1] == "main.py"), tmp_path)
