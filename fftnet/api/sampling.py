"""Sampling of the next token of each row from its logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fftnet.fields import MAX_COUNT, check_fields, check_range, documented


@documented
@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Number of new tokens, and how each is chosen."""

    max_new_tokens: int = 300
    """Maximum number of new tokens; generation stops earlier if the model ends the text."""
    temperature: float = 0.8
    """Sampling temperature: below 1 sharpens the distribution, above 1 flattens it, 0 is greedy decoding."""
    top_k: int | None = None
    """Number of most likely tokens to sample from (default: all)."""
    top_p: float = 1.0
    """Nucleus sampling: total probability of the most likely tokens to sample from."""
    seed: int = 0
    """Random seed of the samples; prompt number i of a batch uses seed + i."""
    compile: bool = False
    """Compilation of the decode step: several times the speed, after half a minute the first time."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_COUNT, "max_new_tokens", "top_k")
        check_range(self, 0, None, "temperature")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")


def sample(logits: Tensor, config: SamplingConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample one token per row from logits (B, V), and return int64 ids (B,).

    Temperature, top_k and top_p are applied in this order. Each row has a generator, on the device of the
    logits, so that rows are independent.

    Raises:
        ValueError: if a row has no finite logit.
    """
    # Half precision would tie scores that differ.
    scores_BV = logits.float()
    if not torch.isfinite(scores_BV.amax(dim=-1)).all():
        raise ValueError(
            "the logits are not finite: the model's weights are damaged, take another checkpoint"
        )
    # float32 can't divide by a smaller temperature; there, only the most likely token has any probability.
    if config.temperature < torch.finfo(scores_BV.dtype).tiny:
        return scores_BV.argmax(dim=-1)
    # The maximum becomes 0, so that the division cannot overflow to inf - inf in the softmax.
    scores_BV = (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / config.temperature
    if config.top_k is not None and config.top_k < scores_BV.shape[-1]:
        least_B1 = scores_BV.topk(config.top_k, dim=-1).values[:, -1:]
        above_BV = scores_BV > least_B1
        tied_BV = scores_BV == least_B1
        # Of tied scores the first ones are kept, as by argmax, so that exactly top_k remain.
        fits_BV = tied_BV.cumsum(dim=-1) <= config.top_k - above_BV.sum(dim=-1, keepdim=True)
        scores_BV = scores_BV.masked_fill(~(above_BV | tied_BV & fits_BV), -torch.inf)
    probabilities_BV = scores_BV.softmax(dim=-1)
    if config.top_p < 1.0:
        ordered_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
        beyond_BV = ordered_BV.cumsum(dim=-1) - ordered_BV >= config.top_p
        # The most likely token stays even if top_p rounds to 0.
        beyond_BV[:, 0] = False
        probabilities_BV = probabilities_BV.masked_fill(beyond_BV.scatter(1, order_BV, beyond_BV), 0.0)
    # One call per row, because multinomial takes one generator for all rows.
    drawn = [
        torch.multinomial(row_V, 1, generator=generator)
        for row_V, generator in zip(probabilities_BV, generators, strict=True)
    ]
    return torch.cat(drawn)
