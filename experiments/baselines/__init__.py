"""Mixers that the experiments compare with: a file each, and a line in the table."""

from experiments.baselines.ablated import Ablated
from experiments.baselines.conv_attention import ConvAttention
from experiments.baselines.gated_linear import GatedLinear
from experiments.baselines.gru import ConvGRU
from experiments.baselines.min_gru import MinGRU
from fftnet.model.mixers.base import Mixer

BASELINES: dict[str, type[Mixer]] = {
    "conv_attention": ConvAttention,
    "gru": ConvGRU,
    "min_gru": MinGRU,
    "gated_linear": GatedLinear,
    "ablated": Ablated,
}
