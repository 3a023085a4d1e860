"""``fftnet generate``: flags for ``fftnet.generate``."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fftnet.api import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.export import ExportConfig
from fftnet.export.runtime import OnnxWriter
from fftnet.generation import SamplingConfig, Writer, generate
from fftnet.utils.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The text to continue."""

    prompt: str = ""
    """Text to continue; empty starts a new one."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """What computes the model.

    Raises:
        ValueError: if there is no such runtime, or it has no weights of 8 bits.
    """

    runtime: str = field(default="torch", metadata={"choices": lambda: RUNTIMES})
    """What computes: torch, or onnx, whose checkpoint is a folder from fftnet export (default: exported)."""
    int8: bool = False
    """Take the exported decode step with weights of 8 bits."""

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ValueError(f"unknown runtime {self.runtime!r}; choose from {', '.join(RUNTIMES)}")
        if self.int8 and self.runtime == "torch":
            raise ValueError("int8 is for an exported model: add --runtime onnx")


def _torch(source: ModelConfig, runtime: RuntimeConfig) -> tuple[Writer, Tokenizer, str]:
    path = find_checkpoint(source.checkpoint)
    model, tokenizer = load_checkpoint(path, device=source.device)
    if not model.causal:
        raise UsageError(f"{path} is bidirectional and can't write; train a model with causal=True")
    return model, tokenizer, f"{path}: {model.num_parameters():,} parameters"


def _onnx(source: ModelConfig, runtime: RuntimeConfig) -> tuple[Writer, Tokenizer, str]:
    if source.device not in ("auto", "cpu"):
        raise UsageError(f"the runtime onnx computes on the CPU: leave out --device {source.device}")
    model = OnnxWriter(source.checkpoint or ExportConfig().output, int8=runtime.int8)
    parameters = model.facts["num_parameters"]
    return model, Tokenizer.load(model.folder), f"{model.folder}: {parameters:,} parameters in ONNX Runtime"


RUNTIMES: dict[str, Callable[[ModelConfig, RuntimeConfig], tuple[Writer, Tokenizer, str]]] = {
    "torch": _torch,
    "onnx": _onnx,
}
"""Name to a function that loads what writes, its tokenizer, and a line about it."""


def run(argv: Sequence[str]) -> None:
    """Continue a prompt with a trained model, printing the text as it is made."""
    classes = (ModelConfig, PromptConfig, RuntimeConfig, SamplingConfig)
    (source, prompt, runtime, sampling), _ = parse("generate", argv, classes)
    model, tokenizer, about = RUNTIMES[runtime.runtime](source, runtime)
    print(about, file=sys.stderr, flush=True)
    if runtime.runtime == "torch":
        # oneDNN's GELU takes longer to set up than to compute at one token, PyTorch's own a sixth of it.
        torch.backends.mkldnn.enabled = sampling.compile  # pyright: ignore[reportAttributeAccessIssue]
    decoder = tokenizer.stream()
    count = 0
    start = 0.0
    try:
        generation = generate(model, [prompt.prompt], sampling, tokenizer=tokenizer)
        print(prompt.prompt, end="", flush=True)
        for tokens in generation:
            print("".join(decoder.push(token) for token in tokens if token is not None), end="", flush=True)
            count += 1
            start = start or time.perf_counter()
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(decoder.finish(), flush=True)
    speed = (count - 1) / (time.perf_counter() - start) if count > 1 else 0.0
    print(f"{count} tokens, {speed:.0f} tokens/s after the first", file=sys.stderr, flush=True)
