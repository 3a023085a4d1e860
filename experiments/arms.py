"""The arms of all experiments, as data, and the only place that builds a model of one.

A new arm is a line in the table. Every model is the same stack around another mixer: tied embedding, fftnet's
own layers, norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from experiments.baselines import BASELINES
from experiments.baselines.ablated import PARTS
from experiments.errors import ExperimentError
from fftnet.model.components import RMSNorm, TiedEmbedding
from fftnet.model.fftnet_layer import FFTNetLayer
from fftnet.model.mixers import MIXERS, build_mixer

TOLERANCE = 0.02
"""Largest distance between the parameters of an arm and what they are matched to."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A mixer with all its choices."""

    mixer: str
    """A name in fftnet's table of mixers or in that of the baselines."""
    num_heads: int = 4
    """Heads H, which must divide the width."""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of the mixer's own configuration; what is left out has its default."""
    experiments: tuple[str, ...]
    """Names of the experiments that run it unless told otherwise."""
    label: str = ""
    """Name in tables and legends (default: the name of the arm)."""

    def definition(self) -> dict[str, Any]:
        """What decides its results."""
        return {"mixer": self.mixer, "num_heads": self.num_heads, "config": dict(self.config)}


RECALL = ("recall",)
TASKS = (*RECALL, "tracking", "mad")
LANGUAGE = ("language", "positions")
RIVALS = (*TASKS, *LANGUAGE, "recall_rewritten", "language_time", "language_long", "positions_long")
ABLATIONS = ("ablation_recall", "ablation_language")
ARMS: dict[str, Arm] = {
    "attention": Arm(mixer="conv_attention", experiments=RIVALS),
    "addressed": Arm(
        label="FFTNet", mixer="addressed_spectral", num_heads=2, experiments=(*RIVALS, *ABLATIONS)
    ),
    "attention_matched": Arm(
        label="attention, matched start",
        mixer="conv_attention",
        config={"matched": True},
        experiments=RECALL,
    ),
    "causal_spectral": Arm(
        label="FFTNet without keys",
        mixer="causal_spectral",
        num_heads=16,
        experiments=(*TASKS, *LANGUAGE),
    ),
    "gated_linear": Arm(
        label="gated linear attention", mixer="gated_linear", config={"key_dim": 32}, experiments=TASKS
    ),
    "gated_linear_matched": Arm(
        label="gated linear attention, matched start",
        mixer="gated_linear",
        num_heads=2,
        config={"key_dim": 32, "matched": True},
        experiments=(*RECALL, "recall_rewritten", *LANGUAGE),
    ),
    "min_gru": Arm(label="minGRU", mixer="min_gru", experiments=(*TASKS, *LANGUAGE)),
    "gru": Arm(label="GRU", mixer="gru", experiments=(*TASKS, *LANGUAGE)),
    **{
        f"addressed_{bins}": Arm(
            label=f"FFTNet, {bins} bins",
            mixer="addressed_spectral",
            num_heads=2,
            config={"num_bins": bins},
            experiments=RECALL,
        )
        for bins in (4, 8, 32)
    },
    **{
        f"gated_linear_{width}": Arm(
            label=f"gated linear attention, keys of {width}",
            mixer="gated_linear",
            config={"key_dim": width},
            experiments=RECALL,
        )
        for width in (8, 64)
    },
    **{
        f"without {part}": Arm(mixer="ablated", num_heads=2, config={"without": part}, experiments=ABLATIONS)
        for part in PARTS
    },
}
"""Name to arm, in the order of every report."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a model, alike for all arms."""

    vocab_size: int
    """Tokens V."""
    d_model: int
    """Width D."""
    num_layers: int
    """Residual blocks."""
    parameters: int | None
    """Learned numbers of the whole model, met by the width of the feed-forward; None: no feed-forward, so
    that arms differ by what their mixers have."""


def arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        ExperimentError: if there is none, or its mixer is not registered.
    """
    if name not in ARMS:
        raise ExperimentError(f"there is no arm {name!r}; choose from {', '.join(ARMS)}")
    found = ARMS[name]
    if found.mixer not in BASELINES and found.mixer not in MIXERS:
        raise ExperimentError(f"arm {name!r} needs the mixer {found.mixer!r}, which is not registered")
    return found


class Stack(nn.Module):
    """Tied embedding, residual blocks around mixers, norm: token ids to logits.

    Args:
        name: of the arm.
        sizes: all but the parameters.
        ffn_dim: hidden width of the feed-forward; 0: none.

    Raises:
        ExperimentError: if there is no such arm, or its mixer can't have these sizes.
    """

    def __init__(self, name: str, sizes: Sizes, ffn_dim: int) -> None:
        super().__init__()
        self.embedding = TiedEmbedding(sizes.vocab_size, sizes.d_model)
        blocks = [
            FFTNetLayer(sizes.d_model, _mixer(name, sizes.d_model), ffn_dim=ffn_dim)
            for _ in range(sizes.num_layers)
        ]
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(sizes.d_model)

    def init_state(self, batch_size: int) -> tuple[Any, ...]:
        """The state before the first token, one entry a layer.

        Raises:
            ValueError: if the mixer has no state.
        """
        return tuple(layer.init_state(batch_size) for layer in self.layers)  # pyright: ignore

    def forward(
        self, tokens: Tensor, state: tuple[Any, ...] | None = None
    ) -> Tensor | tuple[Tensor, tuple[Any, ...]]:
        """Logits (B, T, V) of int64 ids (B, T); with a state the pair of these and the new state."""
        if state is None:
            return self.embedding(self.hidden(tokens))
        states = []
        x_BTD = self.embedding(tokens)
        for layer, layer_state in zip(self.layers, state, strict=True):
            x_BTD, layer_state = layer(x_BTD, None, layer_state)
            states.append(layer_state)
        return self.embedding(self.norm(x_BTD)), tuple(states)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Hidden states (B, T, D) behind the last norm."""
        x_BTD = self.embedding(tokens)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return self.norm(x_BTD)


def _mixer(name: str, d_model: int) -> nn.Module:
    wanted = arm(name)
    try:
        if wanted.mixer in BASELINES:
            kind = BASELINES[wanted.mixer]
            return kind(d_model, wanted.num_heads, kind.Config(**wanted.config))
        return build_mixer(wanted.mixer, d_model, wanted.num_heads, wanted.config)
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"arm {name!r} can't be built for width {d_model}: {error}") from error


def build(name: str, sizes: Sizes, seed: int) -> Stack:
    """The model of an arm, its start values drawn from the seed.

    Raises:
        ExperimentError: if there is no such arm, its mixer can't have these sizes, or its parameters can't be
            brought within 2 % of what they are matched to.
    """
    ffn_dim = 0 if sizes.parameters is None else _matching_width(name, sizes, sizes.parameters)
    torch.manual_seed(seed)
    model = Stack(name, sizes, ffn_dim)
    count = count_parameters(model)
    if sizes.parameters is not None and abs(count / sizes.parameters - 1) > TOLERANCE:
        raise ExperimentError(
            f"arm {name!r} can't have {sizes.parameters:,} parameters: the nearest is {count:,}"
        )
    return model


def _matching_width(name: str, sizes: Sizes, parameters: int) -> int:
    one, two = (count_parameters(Stack(name, sizes, ffn_dim)) for ffn_dim in (1, 2))
    return max(1 + round((parameters - one) / (two - one)), 1)


def count_parameters(model: nn.Module) -> int:
    """Learned numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_state(model: Stack) -> int | None:
    """Numbers that a layer carries from token to token, the convolution's included; None where they grow."""
    try:
        state = model.init_state(1)[0]
    except ValueError:
        return None
    if getattr(type(state), "growing", None):
        return None
    return sum(tensor.numel() for tensor in state if tensor.is_floating_point())
