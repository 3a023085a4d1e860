"""Models of all experiments: one table, one builder, one parameter matcher.

A new model is one entry of ``MODELS``. Every entry can be built as a language model (``FFTNet`` over tokens)
and as a classifier, so that it can run in every experiment.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.baselines import BASELINES
from experiments.baselines.ablated import PARTS
from experiments.pairs import PairClassifier
from experiments.results import ExperimentError
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.mixers import MIXERS, mixer_class
from fftnet.model.mixers.spectral import SpectralMixer
from fftnet.model.vit import FFTNetViT, ViTConfig

TOLERANCE = 0.02
"""Largest relative difference between the parameters of a model and the number that it is matched to."""
BIDIRECTIONAL = "FFTNet (bidirectional)"


@dataclass(frozen=True, kw_only=True)
class Model:
    """The mixers of a model with all their choices."""

    mixers: tuple[str, ...]
    """Names in fftnet's table of mixers or in that of the baselines, repeated over the layers."""
    encoder: tuple[str, ...] = ()
    """Mixers of the classifier, if they differ from those of the language model."""
    num_heads: int = 4
    """Heads H of the language model. Classifiers have the heads of their data set's settings."""
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Name of a mixer to fields of its own configuration; all other fields have their defaults."""
    without: str = ""
    """Part of the paper's layer that is removed from the classifier, a name in ``REMOVERS``."""
    experiments: tuple[str, ...] = ()
    """Names of the experiments that run the model by default."""
    label: str = ""
    """Name in tables and legends (default: the name of the model)."""

    @property
    def classifier_mixers(self) -> tuple[str, ...]:
        """Mixers of the classifier, repeated over the layers."""
        return self.encoder or self.mixers

    @property
    def causal(self) -> bool:
        """True if all mixers of the classifier are causal."""
        return all(_mixer_class(name).causal for name in self.classifier_mixers)

    def language_definition(self) -> dict[str, Any]:
        """Return the choices that decide the results of the language model; stored lines hold this form."""
        # Language models have one kind of mixer; stored lines name it alone.
        (mixer,) = self.mixers
        return {"mixer": mixer, "num_heads": self.num_heads, "config": dict(self.config.get(mixer, {}))}

    def classifier_definition(self) -> dict[str, Any]:
        """Return the choices that decide the results of the classifier; stored lines hold this form."""
        return {
            "mixers": list(self.classifier_mixers),
            "causal": self.causal,
            "config": self.classifier_config(),
            "without": self.without,
        }

    def classifier_config(self) -> dict[str, Any]:
        """Return the configurations of those mixers that the classifier has."""
        return {name: dict(fields) for name, fields in self.config.items() if name in self.classifier_mixers}


REMOVERS: dict[str, Callable[[SpectralMixer], list[Tensor]]] = {
    "base filter": lambda mixer: [mixer.filter.base_filter],
    "modulation": lambda mixer: list(mixer.filter.modulation.parameters()),
    "modReLU": lambda mixer: [mixer.activation.bias],
}
"""Part of the paper's layer to its parameters, which have no effect at 0."""

RECALL = ("recall",)
TASKS = (*RECALL, "tracking", "mad")
LANGUAGE = ("language", "positions")
MUON = ("language_muon",)
SEQUENCES = (
    *TASKS,
    *LANGUAGE,
    *MUON,
    "recall_rewritten",
    "language_time",
    "language_long",
    "positions_long",
)
LONG = ("lra", "images")
BRIEF = ("lra_brief",)
CLASSIFICATION = (*LONG, *BRIEF)
ALL = (*SEQUENCES, *CLASSIFICATION)
ABLATIONS = ("ablation_recall", "ablation_language")
OURS = (*ALL, *ABLATIONS)
PAPER = ("ablation_paper",)


def _ablation(part: str) -> Model:
    """Return the causal layer without a part; as a classifier the paper's layer without it, if it has it."""
    # Three parts are those of the paper's layer; the ablation of that layer removes them there.
    shared = part in REMOVERS
    return Model(
        mixers=("ablated",),
        encoder=("spectral",) if shared else (),
        num_heads=2,
        config={"ablated": {"without": part}},
        without=part if shared else "",
        experiments=(*ABLATIONS, *PAPER) if shared else ABLATIONS,
    )


MODELS: dict[str, Model] = {
    # Both have the state of the others.
    "delta": Model(
        mixers=("delta_spectral",),
        num_heads=8,
        config={"delta_spectral": {"expand": 4, "num_bins": 4}},
        label="FFTNet (delta rule)",
        experiments=SEQUENCES,
    ),
    "delta_16": Model(
        mixers=("delta_spectral",),
        num_heads=2,
        config={"delta_spectral": {"expand": 1, "num_bins": 16}},
        label="FFTNet (delta rule, 16 bins)",
        experiments=(*RECALL, "recall_rewritten"),
    ),
    "addressed": Model(mixers=("addressed_spectral",), num_heads=2, label="FFTNet", experiments=OURS),
    "attention": Model(mixers=("conv_attention",), encoder=("bidirectional_attention",), experiments=ALL),
    "spectral": Model(mixers=("spectral",), label=BIDIRECTIONAL, experiments=(*CLASSIFICATION, *PAPER)),
    "causal_spectral": Model(
        mixers=("causal_spectral",),
        num_heads=16,
        label="FFTNet without keys",
        experiments=(*TASKS, *LANGUAGE, *CLASSIFICATION),
    ),
    "fnet": Model(mixers=("fnet",), label="FNet", experiments=CLASSIFICATION),
    "gated_linear": Model(
        mixers=("gated_linear",),
        config={"gated_linear": {"key_dim": 32}},
        label="gated linear",
        experiments=TASKS,
    ),
    "gated_linear_matched": Model(
        mixers=("gated_linear",),
        num_heads=2,
        config={"gated_linear": {"key_dim": 32, "matched": True}},
        label="gated linear (matched)",
        experiments=(*RECALL, "recall_rewritten", *LANGUAGE),
    ),
    "attention_matched": Model(
        mixers=("conv_attention",),
        config={"conv_attention": {"matched": True}},
        label="attention (matched)",
        experiments=RECALL,
    ),
    "min_gru": Model(mixers=("min_gru",), label="minGRU", experiments=(*TASKS, *LANGUAGE)),
    "gru": Model(mixers=("gru",), label="GRU", experiments=(*TASKS, *LANGUAGE)),
    **{
        name: Model(mixers=(name,), label=label, experiments=(*TASKS, "recall_rewritten", *LANGUAGE, *others))
        for name, label, others in (
            ("mamba2", "Mamba-2", MUON),
            ("gated_delta_net", "Gated DeltaNet", ()),
            ("kimi_delta", "Kimi Delta Attention", ()),
            ("xlstm", "xLSTM", ()),
            ("rg_lru", "RG-LRU", ()),
        )
    },
    **{
        f"addressed_{bins}": Model(
            mixers=("addressed_spectral",),
            num_heads=2,
            config={"addressed_spectral": {"num_bins": bins}},
            label=f"FFTNet, {bins} bins",
            experiments=RECALL,
        )
        for bins in (4, 8, 32)
    },
    **{
        f"gated_linear_{width}": Model(
            mixers=("gated_linear",),
            config={"gated_linear": {"key_dim": width}},
            label=f"gated linear (keys of {width})",
            experiments=RECALL,
        )
        for width in (8, 64)
    },
    # Two kinds of layers, repeated in this order.
    **{
        f"spectral with {name}": Model(
            mixers=("spectral", *mixers), label=f"{BIDIRECTIONAL} + {label}", experiments=experiments
        )
        for name, mixers, label, experiments in (
            ("attention", ("bidirectional_attention",), "attention", CLASSIFICATION),
            ("causal_spectral", ("causal_spectral",), "FFTNet without keys", BRIEF),
            ("addresses", ("addressed_spectral",), "FFTNet (causal)", LONG),
            ("three addressed", ("addressed_spectral",) * 3, "3 FFTNet (causal)", LONG),
        )
    },
    **{
        f"causal_spectral without {part}": Model(
            mixers=("causal_spectral",),
            config={"causal_spectral": fields},
            label=f"FFTNet without keys or {part}",
            experiments=BRIEF,
        )
        for part, fields in (("convolution", {"conv_size": 0}), ("gate", {"input_gate": False}))
    },
    **{f"without {part}": _ablation(part) for part in PARTS},
    **{
        f"{count} anchors": Model(
            mixers=("spectral",),
            config={"spectral": {"num_anchors": count}},
            label=f"{BIDIRECTIONAL}, {count} anchors",
            experiments=PAPER,
        )
        for count in (5, 129)
    },
}
"""Name to model, in the order of every report."""


def find(name: str) -> Model:
    """Return the model of that name.

    Raises:
        ExperimentError: if it does not exist.
    """
    if name not in MODELS:
        raise ExperimentError(f"there is no model {name!r}; choose from {', '.join(MODELS)}")
    return MODELS[name]


def _mixer_class(name: str) -> Any:
    return BASELINES[name] if name in BASELINES else mixer_class(name)


@contextmanager
def _building(name: str) -> Iterator[None]:
    """Let the package know the baselines within the block, and turn its errors about sizes into ours."""
    # Models are built from names of mixers. Outside of the block the package and its flags do not know them.
    MIXERS.update(BASELINES)
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"model {name!r} can't be built: {error}") from error
    finally:
        for baseline in BASELINES:
            MIXERS.pop(baseline, None)


def build_language_model(
    name: str, *, vocab_size: int, d_model: int, num_layers: int, parameters: int | None, seed: int
) -> FFTNet:
    """Build the language model of a name, with start values drawn from the seed.

    Args:
        name: name in ``MODELS``.
        vocab_size: tokens V.
        d_model: width D.
        num_layers: residual blocks.
        parameters: learned numbers of the whole model, reached by the width of the feed-forward. None: no
            feed-forward, so that models differ by their mixers only.
        seed: random seed for weight initialization.

    Raises:
        ExperimentError: if there is no such model, its mixers can't have these sizes, or its parameters can't
            be brought within 2 % of the wanted number.
    """
    model = find(name)
    with _building(name):
        config = FFTNetConfig(
            vocab_size=vocab_size,
            d_model=d_model,
            num_heads=model.num_heads,
            num_layers=num_layers,
            mixers=model.mixers,
            mixer_configs={mixer: dict(model.config.get(mixer, {})) for mixer in model.mixers},
            ffn_dim=0,
        )
    return _matched(name, config, parameters, seed)


def build_classifier(
    name: str,
    config: SequenceClassifierConfig | ViTConfig,
    parameters: int,
    seed: int,
    num_anchors: int | None = None,
    pairs: bool = False,
) -> FFTNetForSequenceClassification | FFTNetViT | PairClassifier:
    """Build the classifier of a name, with start values drawn from the seed.

    Args:
        name: name in ``MODELS``.
        config: sizes and pooling. Mixers and causality come from the table, and the
            width of the feed-forward is matched.
        parameters: learned numbers of the whole model, including a part that is removed.
        seed: random seed for weight initialization.
        num_anchors: frequencies of the paper's layer, unless the model sets them (None: default).
        pairs: rows are two texts. The model encodes each; the comparison behind it is not counted.

    Raises:
        ExperimentError: as ``build_language_model``.
    """
    model = find(name)
    configs = model.classifier_config()
    if num_anchors is not None and "spectral" in model.classifier_mixers:
        # The model's own number of anchors wins.
        configs = {"spectral": {"num_anchors": num_anchors}} | configs
    with _building(name):
        chosen = replace(
            config, mixers=model.classifier_mixers, mixer_configs=configs, causal=model.causal, ffn_dim=1
        )
    built = _matched(name, chosen, parameters, seed)
    # After matching, so that a layer without a part has the feed-forward of the whole one.
    for module in built.modules():
        if model.without and isinstance(module, SpectralMixer):
            for parameter in REMOVERS[model.without](module):
                nn.init.zeros_(parameter)
                parameter.requires_grad_(False)
    return PairClassifier(built) if pairs else built


def _matched(name: str, config: BackboneConfig, parameters: int | None, seed: int) -> Any:
    """Build a model whose feed-forward is as wide as brings it nearest to a number of parameters."""
    with _building(name):
        if parameters is not None:
            # Parameters are linear in the width, so two widths give all others. Meta tensors take no memory.
            with torch.device("meta"):
                one, two = (count_parameters(_made(replace(config, ffn_dim=width))) for width in (1, 2))
            config = replace(config, ffn_dim=max(1 + round((parameters - one) / (two - one)), 1))
        torch.manual_seed(seed)
        model = _made(config)
    count = count_parameters(model)
    if parameters is not None and abs(count / parameters - 1) > TOLERANCE:
        raise ExperimentError(
            f"model {name!r} can't have {parameters:,} parameters: the nearest is {count:,}"
        )
    return model


def _made(config: BackboneConfig) -> Any:
    # The configuration of a classifier of texts is also one of a language model, so the order matters.
    if isinstance(config, ViTConfig):
        return FFTNetViT(config)
    if isinstance(config, SequenceClassifierConfig):
        return FFTNetForSequenceClassification(config)
    assert isinstance(config, FFTNetConfig)
    return FFTNet(config)


def count_parameters(model: nn.Module) -> int:
    """Return the learned numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_state(model: FFTNet) -> int | None:
    """Return the numbers that a layer carries from token to token, or None if they grow with the text."""
    # A key-value cache grows with the text.
    if any(layer.mixer.grows for layer in model.backbone.layers):  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return sum(tensor.numel() for tensor in model.init_state(1)[0] if tensor.is_floating_point())
