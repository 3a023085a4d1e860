"""The table of mixers. A new one is a file here, its configuration included, and a line in the table.

See ``fftnet.model.mixers.base.Mixer`` for what a mixer is.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fftnet.model.mixers.addressed_spectral import AddressedSpectralMixer
from fftnet.model.mixers.attention import AttentionMixer
from fftnet.model.mixers.base import Mixer
from fftnet.model.mixers.bidirectional_attention import BidirectionalAttentionMixer
from fftnet.model.mixers.causal_spectral import CausalSpectralMixer
from fftnet.model.mixers.fnet import FNetMixer
from fftnet.model.mixers.spectral import SpectralMixer

MIXERS: dict[str, type[Mixer]] = {
    "addressed_spectral": AddressedSpectralMixer,
    "causal_spectral": CausalSpectralMixer,
    "spectral": SpectralMixer,
    "attention": AttentionMixer,
    "bidirectional_attention": BidirectionalAttentionMixer,
    "fnet": FNetMixer,
}


def mixer_class(name: str) -> type[Mixer]:
    """The mixer of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in MIXERS:
        raise ValueError(f"unknown mixer {name!r}; choose from {', '.join(MIXERS)}")
    return MIXERS[name]


def mixer_config(name: str, values: Any = None) -> Any:
    """The configuration of the mixer of that name.

    Args:
        name: of the mixer.
        values: a dictionary of fields as it stands in config.json, a finished configuration, or None for the
            defaults.

    Raises:
        ValueError: if there is no such mixer or field, a value is out of range, or the configuration is that
            of another mixer.
    """
    kind = mixer_class(name).Config
    if isinstance(values, kind):
        return values
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"mixer {name!r} takes a {kind.__name__}, got {type(values).__name__}")
    values = dict(values or {})
    known = [field.name for field in fields(kind)]
    unknown = [field for field in values if field not in known]
    if unknown:
        choice = f"choose from {', '.join(known)}" if known else "it has none"
        raise ValueError(f"mixer {name!r} has no field {unknown[0]!r}; {choice}")
    return kind(**values)


def build_mixer(name: str, d_model: int, num_heads: int = 2, config: Any = None) -> Any:
    """Make the mixer of that name.

    Args:
        name: in ``MIXERS``.
        d_model: width D of a token.
        num_heads: H, which must divide D.
        config: see ``mixer_config``.

    Raises:
        ValueError: if there is none of that name, or it can't have these sizes.
    """
    return mixer_class(name)(d_model, num_heads, mixer_config(name, config))
