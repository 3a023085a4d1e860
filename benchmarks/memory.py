"""Memory: functions that ``benchmarks.jobs.run_job`` calls, each in a new process."""

import gc
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from benchmarks import baselines
from benchmarks.measure import OURS

WARM_UP = 64
"""Tokens of the warm-up, which loads everything that a process needs once."""
CHUNK = 4096
"""Tokens of a chunk of a long text."""


def _status(field: str) -> int:
    """Return a field of /proc/self/status in bytes, or the peak of resident memory without that file."""
    # ru_maxrss survives exec on Linux: a child would start with its parent's peak, and smaller growth would
    # read as 0.
    path = Path("/proc/self/status")
    if path.is_file():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_growth(run: Callable[[], object]) -> int:
    """Return the growth of the peak of resident memory during a call, in bytes."""
    # Garbage that is freed during the call would hide as much of its growth.
    gc.collect()
    with suppress(OSError):
        # 5 resets the peak of resident memory to its current value.
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return max(_status("VmHWM") - before, 0)


def state_bytes(state: Any) -> int:
    """Return the bytes of all tensors of a state."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state))


def peak_of_pass(
    suite: str, side: str, width: int, heads: int, layers: int, batch: int, tokens: int
) -> dict[str, int]:
    """Measure the peak memory of a mixer's forward and backward pass, or of a model's training step."""

    def make(tokens: int) -> Callable[[], object]:
        if suite == "train":
            return baselines.train(width, heads, layers, batch, tokens)[side]
        return baselines.mixer(width, heads, batch, tokens, baselines.BOTH)[side]

    # Kernels and buffers that are made once must not count.
    make(WARM_UP)()
    return {"growth_bytes": peak_growth(make(tokens))}


@torch.no_grad()
def read_text(width: int, heads: int, layers: int, tokens: int) -> dict[str, float]:
    """Read a long text in chunks and keep the last logits only."""
    model = baselines.language_model(OURS, width, heads, layers)
    tokens_BT = torch.randint(0, baselines.VOCABULARY, (1, tokens))
    # The warm-up also gives the size of the state after few tokens.
    _, state = model.prefill(tokens_BT[:, :WARM_UP], logits_to_keep=1)
    states = []
    start = time.perf_counter()
    growth = peak_growth(
        lambda: states.append(model.prefill(tokens_BT, chunk_size=CHUNK, logits_to_keep=1)[1])
    )
    return {
        "growth_bytes": growth,
        "state_bytes": state_bytes(states[0]),
        "state_bytes_at_start": state_bytes(state),
        "seconds": time.perf_counter() - start,
    }
