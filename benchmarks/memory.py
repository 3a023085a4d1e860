"""Memory: each job is a process of its own, which :func:`run_job` starts and this module is."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from benchmarks import sides
from benchmarks.measure import OURS

WARM_UP = 64
"""Tokens of the call before, which loads what the process needs once."""
CHUNK = 4096
"""Tokens that a long text is read in."""


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status; the largest ever resident where there is no such file.

    Not ``ru_maxrss`` where it can be helped: it survives exec on Linux, so a child would start with its
    parent's peak and every growth below that would read as zero.
    """
    path = Path("/proc/self/status")
    if path.is_file():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which the peak of resident memory during ``run`` exceeds what was resident before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return max(_status("VmHWM") - before, 0)


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state))


def peak(
    suite: str, side: str, width: int, heads: int, layers: int, batch: int, tokens: int
) -> dict[str, int]:
    """Peak memory of one forward and backward pass of a mixer, or of one training step of a model."""

    def make(tokens: int) -> Callable[[], object]:
        if suite == "train":
            return sides.train(width, heads, layers, batch, tokens)[side]
        return sides.mixer(width, heads, batch, tokens, sides.BOTH)[side]

    make(WARM_UP)()
    return {"growth_bytes": peak_growth(make(tokens))}


@torch.no_grad()
def read(width: int, heads: int, layers: int, tokens: int) -> dict[str, float]:
    """Read a long text in pieces, keeping the last logits only."""
    model = sides.language_model(sides.LANGUAGE_MODELS[OURS], width, heads, layers)
    tokens_BT = torch.randint(0, sides.VOCABULARY, (1, tokens))
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


JOBS = {"peak": peak, "read": read}


def run_job(name: str, **arguments: int | str) -> dict[str, Any]:
    """Run one of :data:`JOBS` in a fresh process with as many threads as this one.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    job = json.dumps({"name": name, "threads": torch.get_num_threads(), "arguments": arguments})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"],
        input=job,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    print(json.dumps(JOBS[asked["name"]](**asked["arguments"])))
