"""What a run trains on, step by step: easier data first, then its own."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.sequences.base import Rows
from fftnet.protocols import Batch


class Part(NamedTuple):
    """A stage with its rows at hand; the last one has no end."""

    train: Rows
    steps: int
    rows: int


class Course:
    """Batches by the number of the step, stage by stage.

    Args:
        parts: the stages, the last of which goes on for as long as it is asked.
        seed: of the order of the rows.
    """

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        *self._before, (_, self._own) = [(part.steps, part.train.batches(part.rows, seed)) for part in parts]

    @property
    def before(self) -> int:
        """Steps of all stages but the last."""
        return sum(steps for steps, _ in self._before)

    def epochs(self, steps: int) -> float:
        """How often so many steps of a run see each row of the last stage."""
        return max(steps - self.before, 0) / self._own.num_batches

    def batch(self, step: int) -> Batch:
        """The batch of a step of the run."""
        batches = self._own
        for steps, earlier in self._before:
            if step < steps:
                batches = earlier
                break
            step -= steps
        return batches.batch(*divmod(step, batches.num_batches))
