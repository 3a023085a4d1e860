"""Configurations of the backbone and of models over tokens."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fftnet.fields import MAX_SIZE, MAX_VOCAB_SIZE, check_fields, check_range, documented
from fftnet.model.checks import head_dim
from fftnet.model.components import EMBEDDING_STD
from fftnet.model.mixers import MIXERS, mixer_class, mixer_config


@documented
@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Configuration of the stack of layers, shared by all models.

    Raises:
        ValueError: if a field is out of range, or a mixer is unknown or, in a causal model, not causal.
    """

    position_scale: ClassVar[float] = 1.0
    """Amplitude of the sinusoidal positions of a bidirectional model, as large as its input."""

    d_model: int = 128
    """Width D of a token."""
    num_heads: int = 2
    """Number of heads H; must divide d_model."""
    num_layers: int = 4
    """Number of residual blocks."""
    ffn_dim: int | None = None
    """Hidden width of the position-wise feed-forward (None: 4 * d_model; 0: no feed-forward)."""
    dropout: float = 0.0
    """Probability of dropping a value after the embedding and in every residual branch."""
    causal: bool = True
    """Every position sees only its past, as a language model must (False: the whole sequence, the default of
    --task image_classification)."""
    mixers: tuple[str, ...] = field(default=(), metadata={"choices": lambda: MIXERS})
    """Names of mixers, repeated over the layers (empty: addressed_spectral if causal, else spectral)."""
    mixer_configs: dict[str, Any] = field(default_factory=dict)
    """Configurations of mixers by name, instances or dictionaries of fields (missing: defaults)."""
    max_seq_length: int = 256
    """Length of a training window, in tokens. Not a limit: a trained model reads any length."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "d_model", "num_heads")
        check_range(self, 1, 4096, "num_layers")
        check_range(self, 1, 2**30, "max_seq_length")
        check_range(self, 0, MAX_VOCAB_SIZE, "ffn_dim")
        head_dim(self.d_model, self.num_heads)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        for name in self.mixer_pattern:
            # One layer that sees later tokens would make all layers above it see them.
            if self.causal and not mixer_class(name).causal:
                raise ValueError(f"causal=True needs causal mixers, but {name!r} sees the whole sequence")
        # Frozen dataclasses are written this way. From here on every mixer in use has a configuration.
        object.__setattr__(self, "mixer_configs", self._completed())

    @property
    def mixer_pattern(self) -> tuple[str, ...]:
        """Names of the mixers, before they are repeated over the layers."""
        return self.mixers or (("addressed_spectral",) if self.causal else ("spectral",))

    @property
    def layer_mixers(self) -> list[str]:
        """Name of the mixer of every layer."""
        pattern = self.mixer_pattern
        return [pattern[index % len(pattern)] for index in range(self.num_layers)]

    def _completed(self) -> dict[str, Any]:
        """Return a configuration for every mixer in use, and for no other."""
        given = {name: mixer_config(name, values) for name, values in self.mixer_configs.items()}
        for name, config in given.items():
            # Defaults of an unused mixer are ignored; any other value was meant to have an effect.
            if name not in self.mixer_pattern and config != mixer_config(name):
                used = ", ".join(dict.fromkeys(self.mixer_pattern))
                raise ValueError(f"mixer_configs sets fields of {name!r}, but the layers use {used}")
        return {name: given.get(name, mixer_config(name)) for name in self.mixer_pattern}


@documented
@dataclass(frozen=True, kw_only=True)
class FFTNetConfig(BackboneConfig):
    """Configuration of a model over tokens; errors are those of ``BackboneConfig``."""

    # As large as a new embedding: with 1, an untrained model would see little but positions.
    position_scale: ClassVar[float] = math.sqrt(2) * EMBEDDING_STD

    vocab_size: int
    """Number of ids V."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, MAX_VOCAB_SIZE, "vocab_size")
