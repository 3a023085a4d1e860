"""In which numbers a run computes: the names of precisions, and the choice that ``auto`` makes."""

import os
import time
from functools import lru_cache
from typing import Any

import torch
from torch import nn

AUTO = "auto"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Precision to accelerate's word for it. In the narrow ones matrix products alone are narrow: weights, their
updates, the residual stream, the kernels' sums and the loss stay in float32."""
LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""The variable in which ``accelerate launch`` hands on its precision."""
BF16_WIDTH = 128
"""Width from which ``auto`` takes bf16 where the processor has it.

A training step of the default mixer is so many times faster in bf16, on a core with AVX512-BF16 (batch 16,
window 256, four layers): 1.3 times at D = 32, 1.6 at 64, 2.3 at 128, 2.9 at 256; causal_spectral 2.6 and 3.2
times at 128 and 256, attention 1.6 and 2.4 times. Below 128 little is won, and in a small model float32 is
easier to reason about.
"""
LEAST_GAIN = 1.3
"""How many times faster products must be in bf16 for ``auto`` to take it on a CPU.

Having the instructions is not enough: processors were seen with a gain of 2.4 to 5.8, and, with the same
instructions, one of 0.9 to 1.0, on which a training step in bf16 took 1.4 times as long as in float32.
"""


def resolve(precision: str, device: torch.device, model: nn.Module) -> str | None:
    """The precision that is meant; None where ``accelerate launch`` has chosen it.

    Args:
        precision: a name in ``PRECISIONS``, or ``auto``.
        device: on which the run computes.
        model: its ``config.d_model``, where it has one, is its width; a model of unknown width is narrow.
    """
    if precision != AUTO:
        return precision
    if LAUNCHED in os.environ:
        return None
    pays = width_of(model) >= BF16_WIDTH and has_bf16(device)
    if pays and device.type == "cpu":
        pays = product_gain() >= LEAST_GAIN
    return "bf16" if pays else "fp32"


@lru_cache(maxsize=1)
def product_gain() -> float:
    """How many times faster the CPU multiplies matrices in bf16 than in float32: the best of a few tries.

    Measured once in a process, in some 50 ms.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1024, 256).to(dtype)
        weight = torch.randn(1024, 256).to(dtype)
        tries = []
        for _ in range(7):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def width_of(model: nn.Module) -> int:
    """The width D of a model that says it in its configuration, else 0."""
    config: Any = getattr(model, "config", None)
    return getattr(config, "d_model", 0)


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 matrices itself, rather than by way of float32.

    On a CPU that takes AVX512-BF16 or AMX and oneDNN, which uses them. oneDNN alone is no sign: where the
    processor has neither, it emulates bf16, slower than float32. Other devices than CPUs and CUDA's are not
    asked, since nobody has measured there.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def name_of(mixed_precision: str) -> str:
    """The precision for accelerate's word; a word without one (fp8) is its own."""
    names = {word: name for name, word in PRECISIONS.items()}
    return names.get(mixed_precision, mixed_precision)
