"""The arms of the classification experiments, as data, and the only place that builds a model of one.

A new arm is a line in the table. The models are the package's own, around one or several of its mixers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.arms import TOLERANCE, count_parameters
from experiments.errors import ExperimentError
from experiments.pairs import PairClassifier
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.config import BackboneConfig
from fftnet.model.mixers.spectral import SpectralMixer
from fftnet.model.vit import FFTNetViT, ViTConfig

LONG = ("lra", "images")
BRIEF = ("lra_brief",)
ALL = (*LONG, *BRIEF)
ABLATION = ("ablation_paper",)
BIDIRECTIONAL = "FFTNet (bidirectional)"


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The mixers of a classifier with all their choices."""

    mixers: tuple[str, ...]
    """Names in fftnet's table of mixers, repeated over the layers."""
    causal: bool = False
    """Whether the model is the causal one."""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Name of a mixer to fields of its own configuration; what is left out has its default."""
    without: str = ""
    """A part of the paper's layer that is taken out, a name in ``PARTS``."""
    experiments: tuple[str, ...] = ALL
    """Names of the experiments that run it unless told otherwise."""
    label: str = ""
    """Name in tables and legends (default: the name of the arm)."""

    def definition(self) -> dict[str, Any]:
        """What decides its results."""
        return {
            "mixers": list(self.mixers),
            "causal": self.causal,
            "config": dict(self.config),
            "without": self.without,
        }


def _fix(parameter: Tensor) -> None:
    nn.init.zeros_(parameter)
    parameter.requires_grad_(False)


def _without_base_filter(mixer: SpectralMixer) -> None:
    _fix(mixer.filter.base_filter)


def _without_modulation(mixer: SpectralMixer) -> None:
    for parameter in mixer.filter.modulation.parameters():
        _fix(parameter)


def _without_modrelu(mixer: SpectralMixer) -> None:
    _fix(mixer.activation.bias)


PARTS: dict[str, Callable[[SpectralMixer], None]] = {
    "base filter": _without_base_filter,
    "modulation": _without_modulation,
    "modReLU": _without_modrelu,
}
"""Part of the paper's layer to a function that fixes its parameters where they change nothing."""

ENCODERS: dict[str, Encoder] = {
    "attention": Encoder(mixers=("bidirectional_attention",)),
    "spectral": Encoder(label=BIDIRECTIONAL, mixers=("spectral",), experiments=(*ALL, *ABLATION)),
    "causal_spectral": Encoder(label="FFTNet without keys", mixers=("causal_spectral",), causal=True),
    "addressed": Encoder(label="FFTNet (causal)", mixers=("addressed_spectral",), causal=True),
    "fnet": Encoder(label="FNet", mixers=("fnet",)),
    "spectral with attention": Encoder(
        label=f"{BIDIRECTIONAL} + attention", mixers=("spectral", "bidirectional_attention")
    ),
    "spectral with causal_spectral": Encoder(
        label=f"{BIDIRECTIONAL} + FFTNet without keys",
        mixers=("spectral", "causal_spectral"),
        experiments=BRIEF,
    ),
    "spectral with addresses": Encoder(
        label=f"{BIDIRECTIONAL} + FFTNet (causal)",
        mixers=("spectral", "addressed_spectral"),
        experiments=LONG,
    ),
    "spectral with three addressed": Encoder(
        label=f"{BIDIRECTIONAL} + 3 FFTNet (causal)",
        mixers=("spectral", *("addressed_spectral",) * 3),
        experiments=LONG,
    ),
    **{
        f"causal_spectral without {part}": Encoder(
            label=f"FFTNet without keys or {part}",
            mixers=("causal_spectral",),
            causal=True,
            config={"causal_spectral": field},
            experiments=BRIEF,
        )
        for part, field in (("convolution", {"conv_size": 0}), ("gate", {"input_gate": False}))
    },
    **{
        f"without {part}": Encoder(mixers=("spectral",), without=part, experiments=ABLATION) for part in PARTS
    },
    **{
        f"{count} anchors": Encoder(
            mixers=("spectral",), config={"spectral": {"num_anchors": count}}, experiments=ABLATION
        )
        for count in (5, 129)
    },
}
"""Name to arm, in the order of every report. The causal arms see the past only; the hybrids have two kinds of
layers, repeated in the order given."""


def encoder(name: str) -> Encoder:
    """The arm of that name.

    Raises:
        ExperimentError: if there is none.
    """
    if name not in ENCODERS:
        raise ExperimentError(f"there is no arm {name!r}; choose from {', '.join(ENCODERS)}")
    return ENCODERS[name]


def build(
    name: str,
    config: SequenceClassifierConfig | ViTConfig,
    parameters: int,
    seed: int,
    num_anchors: int | None = None,
    pairs: bool = False,
) -> FFTNetForSequenceClassification | FFTNetViT | PairClassifier:
    """The model of an arm, its start values drawn from the seed.

    Args:
        name: of the arm.
        config: sizes and pooling; the mixers and the form are the arm's, the feed-forward's width is what is
            matched.
        parameters: learned numbers of the whole model, what is taken out included.
        seed: of the start values.
        num_anchors: frequencies of the paper's layer, where the arm does not say how many (None: the
            package's default).
        pairs: rows are two texts, and the model is the encoder of each, with a comparison behind it that is
            not counted.

    Raises:
        ExperimentError: if there is no such arm, it can't have these sizes, or its parameters can't be
            brought within 2 % of what they are matched to.
    """
    arm = _with_anchors(encoder(name), num_anchors)
    one, two = (_count(_with_mixers(config, arm, ffn_dim)) for ffn_dim in (1, 2))
    ffn_dim = max(1 + round((parameters - one) / (two - one)), 1)
    chosen = _with_mixers(config, arm, ffn_dim)
    torch.manual_seed(seed)
    model = _model(chosen)
    count = count_parameters(model)
    if abs(count / parameters - 1) > TOLERANCE:
        raise ExperimentError(f"arm {name!r} can't have {parameters:,} parameters: the nearest is {count:,}")
    for module in model.modules():
        if arm.without and isinstance(module, SpectralMixer):
            PARTS[arm.without](module)
    if pairs:
        assert isinstance(model, FFTNetForSequenceClassification)
        return PairClassifier(model)
    return model


def _with_anchors(arm: Encoder, num_anchors: int | None) -> Encoder:
    if num_anchors is None or "spectral" not in arm.mixers or "spectral" in arm.config:
        return arm
    return replace(arm, config={**arm.config, "spectral": {"num_anchors": num_anchors}})


def _with_mixers(config: Any, arm: Encoder, ffn_dim: int) -> Any:
    try:
        return replace(
            config,
            mixers=arm.mixers,
            mixer_configs=dict(arm.config),
            causal=arm.causal,
            ffn_dim=ffn_dim,
        )
    except ValueError as error:
        raise ExperimentError(f"an arm of {', '.join(arm.mixers)} can't be built: {error}") from error


def _model(config: BackboneConfig) -> FFTNetForSequenceClassification | FFTNetViT:
    if isinstance(config, ViTConfig):
        return FFTNetViT(config)
    assert isinstance(config, SequenceClassifierConfig)
    return FFTNetForSequenceClassification(config)


def _count(config: BackboneConfig) -> int:
    with torch.device("meta"):
        return count_parameters(_model(config))
