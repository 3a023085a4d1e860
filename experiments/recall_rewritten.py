"""Associative recall in which keys are written several times and the last value counts."""

import numpy as np

from experiments.base import Sweep
from experiments.recall import Recall, RecallSettings, Size, draw_pairs, with_queries
from experiments.training import Batch

WRITES = 2
"""Writes of a row for each of its keys, on average."""


class RewrittenRecall(Recall):
    """Twice as many writes as keys: what a memory forgets counts as much as what it keeps."""

    name = "recall_rewritten"
    title = "Associative recall of rewritten keys"
    about = (
        "As above, but a row of K keys holds 2 K writes in any order: each key once, and K more of keys "
        "drawn at random. The value that was written last must be said."
    )
    # Weight decay has changed nothing in ``recall``.
    sweep = Sweep(learning_rates=Recall.sweep.learning_rates, weight_decays=Recall.sweep.weight_decays[:1])
    settings = RecallSettings(
        trained=((64, 4), (64, 8), (128, 16), (256, 32)),
        tested=((64, 4), (64, 8), (128, 16), (256, 32), (512, 64)),
    )

    def batch(self, generator: np.random.Generator, rows: int, size: Size) -> Batch:
        """Rows of one size."""
        return rewritten_batch(generator, rows, size, self.settings.vocab_size)


def rewritten_batch(generator: np.random.Generator, rows: int, size: Size, vocab_size: int) -> Batch:
    """Rows of 2 K writes of K keys, and every key asked for once.

    Args:
        generator: decides all.
        rows: B.
        size: tokens T and keys K, 6 K <= T.
        vocab_size: V, more than 2 K.

    Returns:
        Ids int64 (B, T), and targets (B, T): at each query the value written last.
    """
    tokens, pairs = size
    keys_BK, _ = draw_pairs(generator, rows, pairs, vocab_size)
    again_BK = generator.integers(0, pairs, (rows, (WRITES - 1) * pairs))
    all_BK = np.broadcast_to(np.arange(pairs), (rows, pairs))
    which_BW = generator.permuted(np.concatenate([all_BK, again_BK], axis=1), axis=1)
    written_BW = generator.integers(vocab_size // 2, vocab_size, which_BW.shape)
    last_BK = np.empty((rows, pairs), dtype=np.int64)
    for write in range(which_BW.shape[1]):
        np.put_along_axis(last_BK, which_BW[:, write, None], written_BW[:, write, None], axis=1)
    named_BW = np.take_along_axis(keys_BK, which_BW, axis=1)
    written = np.stack([named_BW, written_BW], axis=2).reshape(rows, -1)
    return with_queries(generator, written, keys_BK, last_BK, tokens)
