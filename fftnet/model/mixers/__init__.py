"""The table of mixers. A new one is a file here and a line in the table.

A mixer is built from a :class:`~fftnet.model.config.MixerConfig` and maps (B, T, D) to (B, T, D). A causal
one also carries a state, a tuple of tensors: what it has read, as a value. The spectral state has one size
however much was read; attention's grows with every token.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from fftnet.model.config import MixerConfig
from fftnet.model.mixers.attention import AttentionMixer
from fftnet.model.mixers.causal_spectral import CausalSpectralMixer
from fftnet.model.mixers.fnet import FNetMixer
from fftnet.model.mixers.spectral import SpectralMixer

State = Any
"""A tree of tensors (tuples), made by ``init_state`` and by nothing else."""


class CausalMixer(Protocol):
    """What a mixer with ``causal = True`` offers beside ``forward(x_BTD, mask_BT=None)``."""

    causal: bool

    def init_state(self, batch_size: int) -> State:
        """The state before the first token."""
        ...

    def prefill(self, x_BTD: Tensor, state: State, mask_BT: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix T tokens that follow what ``state`` has read."""
        ...

    def step(self, x_BD: Tensor, state: State) -> tuple[Tensor, State]:
        """Mix one token."""
        ...


MIXERS: dict[str, type[nn.Module]] = {
    "causal_spectral": CausalSpectralMixer,
    "spectral": SpectralMixer,
    "attention": AttentionMixer,
    "fnet": FNetMixer,
}


def build_mixer(name: str, config: MixerConfig) -> Any:
    """Make the mixer of that name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}; choose from {', '.join(MIXERS)}")
    return MIXERS[name](config)
