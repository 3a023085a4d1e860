"""An exponential moving average of the weights, which often generalises better than the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Exponential moving average of a module's parameters.

    The decay rises to its value over the first steps, as ``min(decay, (1 + n) / (10 + n))``, so that the
    random start is forgotten at once.

    Args:
        module: whose parameters are averaged; they may be sharded.
        decay: part of the average that a step keeps, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._parameters = list(module.parameters())
        self._decay = decay
        self.updates = 0
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        for value, parameter in zip(self._values, self._parameters, strict=True):
            value.lerp_(parameter, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def restore(self, updates: int) -> None:
        """Let the average be the weights as they are now, after so many updates."""
        for value, parameter in zip(self._values, self._parameters, strict=True):
            value.copy_(parameter)
        self.updates = updates

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the average where the weights are, and the weights back in the end, bit by bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self._values, self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
