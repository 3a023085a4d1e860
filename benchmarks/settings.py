"""Sizes of everything that is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import TimeBudget

Cases = Sequence[tuple[int, int]]
"""Pairs of batch and length."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of everything."""

    time_budget: TimeBudget
    width: int = 256
    heads: int = 4
    layers: int = 4
    op: Cases = ((16, 256), (1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 65536))
    mixer: Cases = ((1, 256), (1, 512), (1, 1024), (1, 4096), (1, 16384))
    bidirectional: Cases = ((1, 256), (1, 1024), (1, 4096), (1, 16384))
    train: Cases = ((16, 256), (8, 512), (4, 1024), (1, 4096))
    """As many tokens in every step."""
    encoder: Sequence[tuple[int, int, Cases]] = (
        (768, 12, ((8, 196), (8, 197))),
        (256, 4, ((1, 1024), (1, 2048), (1, 4096), (1, 16384))),
    )
    """Width, heads and cases: of a vision transformer, whose 197 tokens are a prime number, beside the 196
    without a class token; of Long Range Arena."""
    classifier: Cases = ((1, 4096),)
    positions: Sequence[int] = (256, 1024, 4096, 16384, 65536)
    """Where a token is written."""
    batches: Sequence[int] = (1, 16, 64)
    """Texts written at once, at the first position."""
    steps: int = 8
    """Decode steps that are timed as one run."""
    read_tokens: int = 1_000_000
    read_width: int = 128
    read_heads: int = 2
    memory_mixer: Cases = ((1, 4096), (1, 16384))
    memory_train: Cases = ((1, 1024), (1, 4096))
    attention_memory_tokens: int = 16384
    """Memory of attention is measured up to this length: beyond it one run takes minutes."""
    busy: tuple[int, int] = (16, 256)
    """Batch and length of the default model's training step beside a busy process."""
    busy_train_runs: int = 7
    busy_decode_runs: int = 30
    """Each of ``steps`` decode steps."""
    runtime_widths: Sequence[int] = (128, 256)
    """Widths of the models that all runtimes write with, with ``read_heads`` heads."""
    compiler: str = "inductor"
    """Backend of torch.compile among them."""
    checkpoint: str | None = None
    """A trained model whose bits per byte they measure; None measures none."""
    runtime_batches: int = 4
    """Batches of held-out windows that it reads."""


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
