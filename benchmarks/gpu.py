"""FFTNet's causal operator and mixer against flash attention on a GPU.

Run ``python -m benchmarks.gpu`` on a machine with CUDA. All cases have equally many tokens, in rows of
different lengths. Matrix products and attention are bf16; our operator computes in float32, as everywhere.
First the model on the GPU is compared with the same model in float64 on the CPU.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import baselines
from benchmarks.measure import OURS, TimeBudget, machine, paired, rows, seconds_of
from benchmarks.parity import ParityError, require
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import write_json

WORKS = (baselines.FORWARD, baselines.BOTH)
PARITY_TOKENS = 515


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """Sizes of the benchmark."""

    width: int = 1024
    heads: int = 16
    tokens: int = 131072
    """Tokens of each case, in as many rows as fit."""
    lengths: Sequence[int] = tuple(2**n for n in range(9, 18))
    layers: int = 4
    """Layers of the language model that is trained."""
    train_tokens: int = 32768
    seconds: float = 0.5
    """Time after which a side that has run three times is not run again, in seconds."""

    @property
    def time_budget(self) -> TimeBudget:
        """Time budget of one comparison."""
        return TimeBudget(seconds=self.seconds, rounds=12, slow=5.0, stop=5.0)


def synchronised(run: Callable[[], object]) -> float:
    """Return the seconds of a call with all the work that it started on the GPU."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return seconds_of(whole)


def in_bf16(run: Callable[[], object], device: str) -> Callable[[], object]:
    """Return the call with bf16 matrix products."""

    def narrow() -> object:
        with torch.autocast(device, torch.bfloat16):
            return run()

    return narrow


def check_model(device: str) -> float:
    """Compare values and gradients of FFTNet on a device with those in float64 on the CPU.

    Returns:
        The largest difference, relative to the norm of what is compared.

    Raises:
        ParityError: naming what differs.
    """
    torch.manual_seed(0)
    model = baselines.language_model(OURS, 64, 4, 2).double()
    tokens_BT = torch.randint(0, baselines.VOCABULARY, (2, PARITY_TOKENS))
    expected = _values_and_gradients(model, tokens_BT)
    actual = _values_and_gradients(model.float().to(device), tokens_BT.to(device))
    # The comparison itself is in float64 on the CPU.
    actual = [x.cpu().double() for x in actual]
    require(f"the model on {device} and in float64 on the CPU", actual, expected)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(actual, expected, strict=True))


def _values_and_gradients(model: FFTNet, tokens_BT: torch.Tensor) -> list[torch.Tensor]:
    logits_BTV = model(tokens_BT)
    loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())
    return [logits_BTV.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def operator(settings: GpuSettings, batch: int, tokens: int, work: str) -> baselines.Calls:
    """Return the calls of the causal operator, flash attention, a linear layer and a pass over memory."""
    width, heads = settings.width, settings.heads
    inputs = baselines.op_inputs(batch, tokens, width, heads)
    # Layout of PyTorch's attention: heads before tokens.
    qkv = [torch.randn(batch, heads, tokens, width // heads, dtype=torch.bfloat16) for _ in range(3)]
    x_BTD = torch.randn(batch, tokens, width, dtype=torch.bfloat16)
    weight_DD = torch.randn(width, width, dtype=torch.bfloat16)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return {
        OURS: baselines.call(baselines.ours_keyed_mix, inputs, work),
        baselines.ATTENTION: baselines.call(attention, qkv, work),
        baselines.LINEAR: baselines.call(baselines.linear, [x_BTD, weight_DD], work),
        baselines.COPY: baselines.memory_pass(x_BTD.detach(), work),
    }


def mixer(settings: GpuSettings, batch: int, tokens: int, work: str) -> baselines.Calls:
    """Return the calls of the causal mixer and of attention, each with its projections."""
    return baselines.mixer(settings.width, settings.heads, batch, tokens, work)


def measured(settings: GpuSettings, device: str) -> Iterator[dict[str, Any]]:
    """Measure and yield all rows, shortest texts first."""
    clock = synchronised if device == "cuda" else seconds_of
    for suite, make in (("operator", operator), ("mixer", mixer)):
        for work in WORKS:
            for length in settings.lengths:
                batch = settings.tokens // length
                calls = make(settings, batch, length, work)
                # Autocast is part of every call, as in training.
                narrow = {side: in_bf16(run, device) for side, run in calls.items()}
                times = paired(narrow, settings.time_budget, clock)
                yield from (row.summary() for row in rows(suite, work, batch, length, times))
    for length in settings.lengths:
        # Training steps have fewer tokens: activations of all layers must fit into memory.
        if length <= settings.train_tokens:
            batch = settings.train_tokens // length
            sizes = (settings.width, settings.heads, settings.layers)
            calls = baselines.train(*sizes, batch, length, baselines.BF16)
            times = paired(calls, settings.time_budget, clock)
            yield from (row.summary() for row in rows("train", baselines.TRAIN, batch, length, times))


def main(argv: Sequence[str] | None = None, settings: GpuSettings | None = None) -> int:
    """Compare, measure and write JSON; return the exit status: 0, or 1 after one sentence about the error.

    Args:
        argv: flags.
        settings: sizes (default: the published ones).
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks_gpu.json"), help="the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    words = list(sys.argv[1:] if argv is None else argv)
    flags = parser.parse_args(words)
    if flags.device == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU with CUDA here", file=sys.stderr)
        return 1
    settings = settings or GpuSettings()
    try:
        off = check_model(flags.device)
    except ParityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found: list[dict[str, Any]] = []
    # How exact the measured model is stands next to its times.
    hardware = machine() | {"largest_difference_from_float64": off}
    if flags.device == "cuda":
        hardware |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    command = " ".join(["python -m benchmarks.gpu", *words])
    with torch.device(flags.device):
        for row in measured(settings, flags.device):
            found.append(row)
            ratio = row["times_ours"]
            note = "" if ratio is None else f", {ratio:.3g} times ours"
            print(
                f"{row['suite']}, {row['work']}, {row['side']}, B={row['batch']} T={row['tokens']}: "
                f"{row['seconds'] * 1e3:.3g} ms{note}",
                flush=True,
            )
            # After every row, so that an interrupted run keeps its results.
            write_json(flags.output, {"command": command, "machine": hardware, "rows": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
