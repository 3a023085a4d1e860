"""Writing: read the prompt once, then one decode step a token, at a cost that does not grow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fftnet.model.fftnet_model import FFTNet
from fftnet.model.state import State

READ_CHUNK = 4096
"""Tokens of a prompt that are read at once, so that memory does not grow with the prompt."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen.

    Raises:
        ValueError: if a field is out of range.
    """

    max_new_tokens: int = 300
    """Tokens to write at most; writing stops earlier where the model ends the text."""
    temperature: float = 0.8
    """Below 1 sharpens the distribution, above 1 flattens it, 0 always takes the likeliest token."""
    top_k: int | None = None
    """Choose among this many likeliest tokens only."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together hold this much probability."""
    seed: int = 0
    """Of the choices: the same seed writes the same text."""
    compile: bool = False
    """Compile the decode step: several times the speed, after half a minute the first time."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or left out, got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")


def choose(logits_BV: Tensor, config: SamplingConfig, generator: torch.Generator) -> Tensor:
    """Draw one token a row.

    Args:
        logits_BV: of any floating dtype.
        config: temperature, top_k and top_p, applied in this order.
        generator: on the device of the logits.

    Returns:
        int64 ids (B,).

    Raises:
        ValueError: if a row holds no finite number.
    """
    logits = logits_BV.float()
    if not torch.isfinite(logits.amax(dim=-1)).all():
        raise ValueError(
            "the logits are not finite: the model's weights are damaged, take another checkpoint"
        )
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / config.temperature
    if config.top_k is not None and config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if config.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= config.top_p
        probabilities = probabilities.masked_fill(beyond.scatter(1, order, beyond), 0.0)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _compiled(model: FFTNet) -> Callable[[Tensor, State], tuple[Tensor, State]]:
    # Imported here because it takes a second.
    from torch._dynamo.exc import TorchDynamoException

    step = torch.compile(model.step)

    def checked(token_B: Tensor, state: State) -> tuple[Tensor, State]:
        try:
            return step(token_B, state)
        except TorchDynamoException as error:
            raise ValueError(
                "the decode step can't be compiled here, which needs a C++ compiler: leave out compile"
            ) from error

    return checked


@torch.inference_mode()
def generate(
    model: FFTNet, prompt: Sequence[int], config: SamplingConfig, *, stop: int | None = None
) -> Iterator[int]:
    """Write tokens after a prompt, one at a time.

    Args:
        model: a causal model, in evaluation mode.
        prompt: at least one id; start a text with the tokenizer's end-of-text token.
        config: how many and how chosen.
        stop: id that ends the text; it is not yielded.

    Yields:
        The ids as they are made.

    Raises:
        ValueError: if the prompt is empty, the model bidirectional or damaged, or compiling fails.
    """
    if not prompt:
        raise ValueError("the prompt is empty: start with the tokenizer's end-of-text token")
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(config.seed)
    tokens_BT = torch.tensor([list(prompt)], device=device)
    logits_BTV, state = model.prefill(tokens_BT, chunk_size=READ_CHUNK, logits_to_keep=1)
    logits_BV = logits_BTV[:, -1]
    step = _compiled(model) if config.compile else model.step
    for written in range(config.max_new_tokens):
        token_B = choose(logits_BV, config, generator)
        token = int(token_B)
        if token == stop:
            return
        yield token
        if written + 1 < config.max_new_tokens:
            logits_BV, state = step(token_B, state)
