"""``fftnet generate``: flags for ``fftnet.generate``."""

import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from fftnet.api.generate import Generation, SamplingConfig, Writer, generate
from fftnet.api.load import default_prompt, find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse, read_standard_input
from fftnet.export import ExportConfig
from fftnet.export.runtime import OnnxWriter
from fftnet.fields import check_fields, documented
from fftnet.utils.tokenizer import Tokenizer


@documented
@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Prompts."""

    prompt: str | None = None
    """Text to continue; \\n is a line break, \\\\n a literal \\n; - is standard input (default: piped text,
    or else the prompt of the checkpoint)."""
    interactive: bool = field(default=False, metadata={"short": "-i"})
    """Interactive mode: each line is continued; an empty line ends, Ctrl-C stops a reply. Short form: -i."""

    def __post_init__(self) -> None:
        if self.interactive and self.prompt == "-":
            raise ValueError("interactive reads lines from standard input: leave out --prompt -")


@documented
@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Runtime of the model."""

    runtime: str = field(default="torch", metadata={"choices": lambda: RUNTIMES})
    """Runtime: torch, or onnx, whose checkpoint is a folder of fftnet export (default: exported)."""
    int8: bool = False
    """Exported decode step with int8 weights."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.int8 and self.runtime == "torch":
            raise ValueError("int8 is for an exported model: add --runtime onnx")


class Loaded(NamedTuple):
    """A model with its tokenizer."""

    model: Writer
    tokenizer: Tokenizer
    about: str
    """Description of the model in a line."""
    prompt: str = ""


def _torch(source: ModelConfig, runtime: RuntimeConfig) -> Loaded:
    path = find_checkpoint(source.checkpoint)
    model, tokenizer = load_checkpoint(path, device=source.device)
    if not model.causal:
        raise UsageError(f"{path} is bidirectional and can't write; train a model with causal=True")
    return Loaded(model, tokenizer, f"{path}: {model.num_parameters():,} parameters", default_prompt(path))


def _onnx(source: ModelConfig, runtime: RuntimeConfig) -> Loaded:
    if source.device not in ("auto", "cpu"):
        raise UsageError(f"the runtime onnx computes on the CPU: leave out --device {source.device}")
    model = OnnxWriter(source.checkpoint or ExportConfig().output, int8=runtime.int8)
    parameters = model.description["num_parameters"]
    about = f"{model.folder}: {parameters:,} parameters in ONNX Runtime"
    return Loaded(model, Tokenizer.load(model.folder), about)


RUNTIMES = {"torch": _torch, "onnx": _onnx}
"""Name to a function that loads a model."""


def run(argv: Sequence[str]) -> None:
    """Continue a prompt with a trained model, printing the text as it is made."""
    classes = (ModelConfig, PromptConfig, RuntimeConfig, SamplingConfig)
    (source, prompt, runtime, sampling), _ = parse("generate", argv, classes)
    text = _text(prompt)
    loaded = RUNTIMES[runtime.runtime](source, runtime)
    print(loaded.about, file=sys.stderr, flush=True)
    if runtime.runtime == "torch":
        # oneDNN's GELU takes longer to set up than to compute at one token, PyTorch's own a sixth of it.
        torch.backends.mkldnn.enabled = sampling.compile  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if prompt.interactive:
            _converse(loaded, text, sampling)
            return
        text = loaded.prompt if text is None else text
        generation = generate(loaded.model, [text], sampling, tokenizer=loaded.tokenizer)
        speed = _print(generation, loaded.tokenizer, text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(flush=True)
    print(speed, file=sys.stderr, flush=True)


def _text(config: PromptConfig) -> str | None:
    """Return the prompt of the flag or of standard input, None if there is neither."""
    if config.prompt is not None and config.prompt != "-":
        return _with_line_breaks(config.prompt)
    if config.interactive or (config.prompt is None and not _is_piped()):
        return None
    print("reading the prompt from standard input", file=sys.stderr, flush=True)
    text = read_standard_input()
    # Schedulers run commands with an empty pipe, which is then not meant as a prompt.
    return None if not text and config.prompt is None else text


def _is_piped() -> bool:
    """Return whether standard input is a pipe or a file, and not a terminal, closed or /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _with_line_breaks(text: str) -> str:
    """Turn a backslash and an n into a line break, and two backslashes and an n into one and an n."""
    return re.sub(r"\\(\\?)n", lambda found: r"\n" if found[1] else "\n", text)


def _print(generation: Generation, tokenizer: Tokenizer, prompt: str = "") -> str:
    """Print a prompt and the generated text token by token; return a line on the speed."""
    decoder = tokenizer.stream()
    # The prompt is printed with the first token: messages about compiled kernels come before both.
    waiting = prompt
    count = 0
    start = 0.0
    for tokens in generation:
        new = "".join(decoder.push(token) for token in tokens if token is not None)
        print(waiting + new, end="", flush=True)
        waiting = ""
        count += 1
        start = start or time.perf_counter()
    print(waiting + decoder.finish(), end="", flush=True)
    speed = (count - 1) / (time.perf_counter() - start) if count > 1 else 0.0
    return f"{count} tokens, {speed:.0f} tokens/s after the first"


def _converse(loaded: Loaded, first: str | None, sampling: SamplingConfig) -> None:
    """Continue line after line from the state of the one before.

    The model reads what the terminal shows: each line with its line break, and one after a reply.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    state = None
    before = ""
    for turn, line in enumerate(_lines(first)):
        # Another seed per turn, or equal lines would get equal replies.
        config = replace(sampling, seed=sampling.seed + turn)
        generation = generate(model, [before + line], config, tokenizer=tokenizer, state=state)
        try:
            _print(generation, tokenizer)
        except KeyboardInterrupt:
            generation.close()
            if not generation.tokens[0]:
                print(flush=True)
                continue  # The line was not read completely: the next one starts from the state before it.
        state = generation.state
        before = "" if generation.texts[0].endswith("\n") else "\n"
        print(before, end="", flush=True)


def _lines(first: str | None) -> Iterator[str]:
    """Yield the prompt, then lines of standard input up to its end, an empty line or Ctrl-C."""
    if first is not None:
        print(first, end="", flush=True)
        yield first
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            line = ""
        if not line:
            return
        yield _with_line_breaks(line) + "\n"
