"""What a model is made of, as values."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """Everything a mixer may ask for; each takes what it needs.

    Raises:
        ValueError: if a field is out of range.
    """

    d_model: int = 128
    """Width D of a token."""
    num_heads: int = 16
    """Heads H that share the width; must divide d_model."""
    num_bins: int | None = None
    """Frequencies a head: 4 when causal, max_seq_length // 2 + 1 anchors when bidirectional (None)."""
    mlp_hidden_dim: int | None = None
    """Hidden width of the MLP that turns the context into the modulation (None: d_model)."""
    conv_width: int = 4
    """Taps of the causal depth-wise convolution before the prefix transform; 0 leaves it out."""
    input_gate: bool = True
    """Multiply the values by a second projection before the prefix transform (v <- k * v)."""
    max_seq_length: int = 256
    """Tokens of a training window. No limit: a model reads any length afterwards."""

    def __post_init__(self) -> None:
        for name in ("d_model", "num_heads", "max_seq_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_bins", "mlp_hidden_dim"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 or left out, got {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide d_model={self.d_model}")
        if self.conv_width < 0:
            raise ValueError(f"conv_width must be 0 or more, got {self.conv_width}")

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the modulation's MLP."""
        return self.mlp_hidden_dim or self.d_model


@dataclass(frozen=True, kw_only=True)
class FFTNetConfig(MixerConfig):
    """A whole model.

    Raises:
        ValueError: if a field is out of range.
    """

    vocab_size: int
    """Tokens V that the model knows."""
    num_layers: int = 4
    """Residual blocks."""
    ffn_dim: int | None = None
    """Hidden width of the position-wise feed-forward (None: 4 * d_model; 0: none, the bare mixing layer)."""
    dropout: float = 0.0
    """Probability of dropping a value after the embedding and in every residual branch."""
    causal: bool = True
    """Every position sees only its past, as a language model must; False sees the whole sequence."""
    mixers: tuple[str, ...] = ()
    """Names of mixers, repeated over the layers (empty: causal_spectral when causal, else spectral)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mixers", tuple(self.mixers))
        for name in ("vocab_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.ffn_dim is not None and self.ffn_dim < 0:
            raise ValueError(f"ffn_dim must be 0 or more, got {self.ffn_dim}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    @property
    def layer_mixers(self) -> list[str]:
        """The mixer's name of every layer."""
        pattern = self.mixers or (("causal_spectral",) if self.causal else ("spectral",))
        return [pattern[index % len(pattern)] for index in range(self.num_layers)]

    @property
    def feed_forward_dim(self) -> int:
        """Hidden width of the feed-forward, 0 for none."""
        return 4 * self.d_model if self.ffn_dim is None else self.ffn_dim
