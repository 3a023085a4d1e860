"""Sizes of all benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import TimeBudget

Cases = Sequence[tuple[int, int]]
"""Pairs of batch and length."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of all suites."""

    time_budget: TimeBudget
    width: int = 256
    heads: int = 4
    layers: int = 4
    op: Cases = ((16, 256), (1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536))
    mixer: Cases = ((1, 256), (1, 512), (1, 1024), (1, 4096), (1, 16384))
    bidirectional: Cases = ((1, 256), (1, 1024), (1, 4096), (1, 16384))
    train: Cases = ((16, 256), (8, 512), (4, 1024), (1, 4096))
    """Batches and lengths of training steps, with equally many tokens."""
    encoder: Sequence[tuple[int, int, Cases]] = (
        (768, 12, ((8, 196), (8, 197))),
        (256, 4, ((1, 1024), (1, 2048), (1, 4096), (1, 16384))),
    )
    """Width, heads and cases: a vision transformer (197 tokens with the class token, a prime number, and 196
    without it), and Long Range Arena."""
    classifier: Cases = ((1, 4096),)
    positions: Sequence[int] = (256, 1024, 4096, 16384, 65536)
    """Context lengths of decode steps."""
    batches: Sequence[int] = (1, 16, 64)
    """Numbers of texts that are decoded at once, at the first position."""
    steps: int = 8
    """Decode steps of one timed run."""
    read_tokens: int = 1_000_000
    read_width: int = 128
    read_heads: int = 2
    memory_mixer: Cases = ((1, 4096), (1, 16384))
    memory_train: Cases = ((1, 1024), (1, 4096))
    attention_memory_tokens: int = 16384
    """Largest length of attention in memory measurements; longer runs take minutes."""
    busy: tuple[int, int] = (16, 256)
    """Batch and length of the default model's training step next to a busy process."""
    busy_train_runs: int = 7
    busy_decode_runs: int = 30
    """Runs of ``steps`` decode steps."""
    runtime_widths: Sequence[int] = (128, 256)
    """Widths of the models of all runtimes, with ``read_heads`` heads."""
    compiler: str = "inductor"
    """Backend of torch.compile."""
    checkpoint: str | None = None
    """Trained model whose bits per byte are measured (None: none)."""
    runtime_batches: int = 4
    """Batches of held-out windows for the bits per byte."""


QUICK = Settings(time_budget=TimeBudget(seconds=0.3, slow=2.0, stop=10.0))
FULL = Settings(
    time_budget=TimeBudget(seconds=3.0, slow=20.0, stop=20.0),
    mixer=tuple((1, 2**n) for n in range(8, 17)),
    bidirectional=((1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536)),
    train=((16, 256), (8, 512), (4, 1024), (2, 2048), (1, 4096), (1, 16384)),
    classifier=((4, 1024), (2, 2048), (1, 4096), (1, 16384)),
    memory_mixer=((1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536)),
    memory_train=((1, 256), (1, 1024), (1, 4096), (1, 16384)),
    busy_train_runs=15,
)
