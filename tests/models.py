"""Small models with random weights, shared by several test files."""

from dataclasses import replace

import torch
from conftest import randomise

from fftnet import FFTNet, FFTNetConfig
from fftnet.model.mixers import MIXERS

VOCAB = 11
CAUSAL = [name for name, mixer in MIXERS.items() if mixer.causal]
FIXED = [name for name in CAUSAL if name != "attention"]
VARIANTS = [
    {},
    {"addressed_spectral": {"context_horizon": 3}},
    {"addressed_spectral": {"num_bins": 1, "conv_size": 2}, "num_heads": 1, "ffn_dim": 0},
    {"delta_spectral": {"context_horizon": 3, "expand": 1, "num_bins": 9, "tracking": True}},
    {"delta_spectral": {"num_bins": 1, "conv_size": 2, "expand": 3}, "num_heads": 1},
]
"""Fields of a model; the fields of a mixer are under its name, and only for models with this mixer."""
HYBRIDS = [("addressed_spectral", "attention"), ("attention", "delta_spectral")]
MODELS = [
    *({"mixers": (name,)} for name in CAUSAL),
    *({"mixers": pattern} for pattern in HYBRIDS),
    *({"mixers": (next(name for name in MIXERS if name in variant),), **variant} for variant in VARIANTS[1:]),
]
"""Fields of every kind of model with a state."""
ENCODERS = [
    *({"causal": False, "mixers": (name,)} for name in MIXERS if name not in CAUSAL),
    {"causal": False, "mixers": ("fnet", "spectral")},
    {"causal": False, "mixers": ("spectral", "bidirectional_attention")},
]
"""Fields of every kind of bidirectional model."""


def make(**fields: object) -> FFTNet:
    """Return a small model in float64; the fields of a mixer are given under its name."""
    values = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 2, "num_heads": 2, "max_seq_length": 16}
    own = {name: fields.pop(name) for name in MIXERS if name in fields}
    config = FFTNetConfig(**(values | fields))  # pyright: ignore[reportArgumentType]
    used = {name: own[name] for name in own if name in config.mixer_pattern}
    return randomise(FFTNet(replace(config, mixer_configs=config.mixer_configs | used)))


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))
