"""``fftnet generate``: sources of the prompt, line breaks, and the interactive loop."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import pipe
from conftest import randomise

from fftnet import FFTNet, FFTNetConfig, load_tokenizer
from fftnet.api.generate import Generation, SamplingConfig, generate
from fftnet.cli import generate as command
from fftnet.cli.flags import UsageError
from fftnet.serialization import write_json

TOKENIZER = load_tokenizer("bytes")
SHIPPED = Path(__file__).parents[2] / "models" / "shakespeare"
GREEDY = ["--temperature", "0", "--max_new_tokens", "6", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = FFTNet(FFTNetConfig(vocab_size=TOKENIZER.vocab_size, d_model=16, num_layers=1, num_heads=2))
    randomise(model)
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return folder


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Generation]]:
    """Record the prompts and texts of a command; standard input is empty."""
    seen: list[tuple[list[str], Generation]] = []

    def recorded(model: Any, prompts: list[str], *arguments: Any, **given: Any) -> Generation:
        seen.append((prompts, generate(model, prompts, *arguments, **given)))
        return seen[-1][1]

    monkeypatch.setattr(command, "generate", recorded)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    pipe(monkeypatch, b"")
    return seen


@pytest.mark.parametrize(
    ("flag", "prompt"),
    [
        (r"ROMEO.\n", "ROMEO.\n"),
        (r"a\nb\n", "a\nb\n"),
        (r"\\n", r"\n"),
        (r"C:\dir \t", r"C:\dir \t"),
        ("", ""),
        ("12", "12"),
    ],
)
def test_a_backslash_and_an_n_in_the_prompt_is_a_line_break(
    flag: str, prompt: str, checkpoint: Path, written: list, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run([str(checkpoint), f"--prompt={flag}", *GREEDY])
    ((prompts, generation),) = written
    assert prompts == [prompt]
    assert capsys.readouterr().out.startswith(prompt + generation.texts[0][:1])


@contextmanager
def piped(folder: Path, data: bytes) -> Iterator[None]:
    """Let standard input be a file, whose descriptor tells that it can be read."""
    (folder / "piped").write_bytes(data)
    with (folder / "piped").open(encoding="utf-8") as stdin, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        yield


def test_the_prompt_is_read_from_a_pipe(checkpoint: Path, written: list, tmp_path: Path) -> None:
    for data, flags, prompt in (
        (b"\xef\xbb\xbfOnce\nupon \\n\n", [], "Once\nupon \\n\n"),
        (b"Once", ["--prompt", "-"], "Once"),
        (b"", ["--prompt", "-"], ""),
        (b"", [], ""),
        (b"Once", ["--prompt", "Twice"], "Twice"),
    ):
        with piped(tmp_path, data):
            command.run([str(checkpoint), *flags, *GREEDY])
        assert written[-1][0] == [prompt]
    message = r"standard input is not UTF-8 text \(byte 3\): convert it"
    with piped(tmp_path, b"caf\xe9"), pytest.raises(UsageError, match=message):
        command.run([str(checkpoint), *GREEDY])


def test_a_checkpoint_may_come_with_a_prompt(checkpoint: Path, written: list) -> None:
    try:
        write_json(checkpoint / "run.json", {"prompt": "Once\n"})
        command.run([str(checkpoint), *GREEDY])
        command.run([str(checkpoint), "--prompt", "", *GREEDY])
    finally:
        (checkpoint / "run.json").unlink()
    assert [prompts for prompts, _ in written] == [["Once\n"], [""]]


def test_the_shipped_model_starts_with_a_name_and_a_line_break(
    written: list, capsys: pytest.CaptureFixture[str]
) -> None:
    command.run([str(SHIPPED), "--max_new_tokens", "12", "--device", "cpu"])
    text = capsys.readouterr().out
    assert text.startswith("ROMEO.\n")
    assert text[len("ROMEO.\n")].isalpha()


def greedy(checkpoint: Path, ids: list[int]) -> list[list[int]]:
    """Return the tokens that continue others, as in the command with the flags ``GREEDY``."""
    config = SamplingConfig(temperature=0.0, max_new_tokens=6)
    return generate(FFTNet.from_pretrained(checkpoint), [ids], config, stop=TOKENIZER.eot).tokens


def test_each_line_continues_the_text_on_the_terminal(
    checkpoint: Path, written: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"Once\\nmore\nTwice\n\nnever\n")
    command.run(["-i", str(checkpoint), *GREEDY])
    (first, reply), (second, again) = written
    assert first == ["Once\nmore\n"]
    assert second == ["\nTwice\n"]
    read = [TOKENIZER.eot, *TOKENIZER.encode(first[0]), *reply.tokens[0], *TOKENIZER.encode(second[0])]
    assert greedy(checkpoint, read) == again.tokens


def test_ctrl_c_ends_a_reply_and_the_next_line_continues(
    checkpoint: Path, written: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    step = FFTNet.step

    def interrupted(self: FFTNet, token: torch.Tensor, state: Any) -> Any:
        calls.append(token)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, token, state)

    monkeypatch.setattr(FFTNet, "step", interrupted)
    pipe(monkeypatch, b"Twice\n")
    command.run([str(checkpoint), "-i", "--prompt", "Once", *GREEDY])
    (first, reply), (second, again) = written
    assert first == ["Once"]
    assert len(reply.tokens[0]) == 3
    assert len(again.tokens[0]) == 6
    read = [TOKENIZER.eot, *TOKENIZER.encode("Once"), *reply.tokens[0], *TOKENIZER.encode(second[0])]
    assert greedy(checkpoint, read) == again.tokens


def test_ctrl_c_before_the_first_token_forgets_the_line(
    checkpoint: Path, written: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefill = FFTNet.prefill
    reads = []

    def interrupted(self: FFTNet, *arguments: Any, **given: Any) -> Any:
        reads.append(given)
        if len(reads) == 1:
            raise KeyboardInterrupt
        return prefill(self, *arguments, **given)

    monkeypatch.setattr(FFTNet, "prefill", interrupted)
    pipe(monkeypatch, b"Once\nTwice\n")
    command.run([str(checkpoint), "-i", *GREEDY])
    assert written[1][1].tokens == greedy(checkpoint, [TOKENIZER.eot, *TOKENIZER.encode("Twice\n")])


def test_interactive_reads_standard_input_once() -> None:
    with pytest.raises(UsageError, match="interactive reads lines from standard input: leave out --prompt -"):
        command.run(["-i", "--prompt", "-"])
