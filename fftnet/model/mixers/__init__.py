"""The table of mixers. To add one, add a file with its class and configuration, and a line in the table.

``fftnet.model.mixers.base.Mixer`` describes the interface.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fftnet.model.mixers.addressed_spectral import AddressedSpectralMixer
from fftnet.model.mixers.attention import AttentionMixer, BidirectionalAttentionMixer
from fftnet.model.mixers.base import Mixer
from fftnet.model.mixers.delta_spectral import DeltaSpectralMixer
from fftnet.model.mixers.fnet import FNetMixer
from fftnet.model.mixers.spectral import SpectralMixer

MIXERS: dict[str, type[Mixer]] = {
    "addressed_spectral": AddressedSpectralMixer,
    "delta_spectral": DeltaSpectralMixer,
    "spectral": SpectralMixer,
    "attention": AttentionMixer,
    "bidirectional_attention": BidirectionalAttentionMixer,
    "fnet": FNetMixer,
}


def mixer_class(name: str) -> type[Mixer]:
    """Return the class of a mixer; ValueError if the name is unknown."""
    if name == "causal_spectral":
        raise ValueError(
            "mixer 'causal_spectral' was removed in version 0.4: load its checkpoints with version 0.3, or "
            "train delta_spectral instead"
        )
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}; choose from {', '.join(MIXERS)}")
    return MIXERS[name]


def mixer_config(name: str, values: Any = None) -> Any:
    """Return the configuration of a mixer.

    ``values`` is a dictionary of fields as in ``config.json``, a configuration of this mixer, or None for the
    defaults. An unknown mixer or field, and a value out of range, is a ValueError.
    """
    kind = mixer_class(name).Config
    if isinstance(values, kind):
        return values
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"mixer {name!r} takes a {kind.__name__}, got {type(values).__name__}")
    # Checked by name here: the error of a dataclass would not list the fields.
    known = [field.name for field in fields(kind)]
    for field in values or {}:
        if field not in known:
            choice = f"choose from {', '.join(known)}" if known else "it has none"
            raise ValueError(f"mixer {name!r} has no field {field!r}; {choice}")
    return kind(**(values or {}))


def build_mixer(name: str, d_model: int, num_heads: int = 2, config: Any = None) -> Any:
    """Create the mixer of a name in ``MIXERS``; ``config`` as the ``values`` of ``mixer_config``."""
    return mixer_class(name)(d_model, num_heads, mixer_config(name, config))
