"""Small models with randomised weights that several files of tests take."""

import torch
from conftest import randomise

from fftnet import FFTNet, FFTNetConfig
from fftnet.model.mixers import MIXERS

VOCAB = 11
CAUSAL = [name for name, mixer in MIXERS.items() if mixer.causal]  # pyright: ignore[reportAttributeAccessIssue]
FIXED = [name for name in CAUSAL if name != "attention"]
VARIANTS = [
    {},
    {"conv_width": 0},
    {"input_gate": False},
    {"conv_width": 0, "input_gate": False},
    {"conv_width": 1, "ffn_dim": 0},
    {"num_bins": 1, "num_heads": 1},
]


def make(**fields: object) -> FFTNet:
    values = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 2, "num_heads": 2, "max_seq_length": 16}
    model = FFTNet(FFTNetConfig(**(values | fields)))  # pyright: ignore[reportArgumentType]
    randomise(model)
    return model


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))
