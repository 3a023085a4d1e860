"""Baseline mixers that the experiments compare with FFTNet's: one entry of the table each."""

from experiments.baselines.ablated import Ablated
from experiments.baselines.conv_attention import ConvAttention
from experiments.baselines.gated_linear import GatedLinear
from experiments.baselines.peers import PEERS
from experiments.baselines.recurrent import ConvGRU, MinGRU
from fftnet.model.mixers.base import Mixer

BASELINES: dict[str, type[Mixer]] = {
    "conv_attention": ConvAttention,
    "gru": ConvGRU,
    "min_gru": MinGRU,
    "gated_linear": GatedLinear,
    "ablated": Ablated,
    **PEERS,
}
