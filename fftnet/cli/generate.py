"""``fftnet generate``: flags for ``fftnet.generate``."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fftnet.api import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.generation import SamplingConfig, generate


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The text to continue."""

    prompt: str = ""
    """Text to continue; empty starts a new one."""


def run(argv: Sequence[str]) -> None:
    """Continue a prompt with a trained model, printing the text as it is made."""
    (source, prompt, sampling), _ = parse(
        "generate",
        run.__doc__,
        argv,
        (ModelConfig, PromptConfig, SamplingConfig),
        positional="checkpoint",
    )
    path = find_checkpoint(source.checkpoint)
    model, tokenizer = load_checkpoint(path, device=source.device)
    if not model.config.causal:
        raise UsageError(f"{path} is bidirectional and can't write; train a model with causal=True")
    print(f"{path}: {model.num_parameters():,} parameters", file=sys.stderr, flush=True)
    # oneDNN's GELU takes longer to set up than to compute at one token; PyTorch's own takes a sixth of it.
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
