"""Models of all experiments: one table.

A new model is one entry of ``MODELS``. ``experiments.building`` builds every entry as a language model and as
a classifier, so that it can run in every experiment.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from experiments.baselines import BASELINES
from experiments.baselines.ablated import PARTS
from experiments.results import ExperimentError
from fftnet.model.mixers import mixer_class
from fftnet.model.mixers.spectral import SpectralMixer

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
    """Name of a mixer to fields of its configuration; all other fields have their defaults."""
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
CLASSIFICATION = (*LONG, "lra_brief")
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
    # All have the state of the others.
    "delta": Model(
        mixers=("delta_spectral",),
        num_heads=8,
        config={"delta_spectral": {"expand": 4, "num_bins": 4}},
        label="FFTNet (delta rule)",
        experiments=SEQUENCES,
    ),
    "delta_8": Model(
        mixers=("delta_spectral",),
        config={"delta_spectral": {"expand": 2, "num_bins": 8}},
        label="FFTNet (delta rule, 8 bins)",
        experiments=("lra_brief", "recall_rewritten"),
    ),
    "delta_16": Model(
        mixers=("delta_spectral",),
        num_heads=2,
        config={"delta_spectral": {"expand": 1, "num_bins": 16}},
        label="FFTNet (delta rule, 16 bins)",
        experiments=(*RECALL, "recall_rewritten"),
    ),
    "delta_tracking": Model(
        mixers=("delta_spectral",),
        num_heads=8,
        config={"delta_spectral": {"expand": 4, "num_bins": 4, "tracking": True}},
        label="FFTNet (delta rule, tracking)",
        experiments=("tracking",),
    ),
    "addressed": Model(mixers=("addressed_spectral",), num_heads=2, label="FFTNet", experiments=OURS),
    "attention": Model(mixers=("conv_attention",), encoder=("bidirectional_attention",), experiments=ALL),
    "spectral": Model(mixers=("spectral",), label=BIDIRECTIONAL, experiments=(*CLASSIFICATION, *PAPER)),
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
            ("addresses", ("addressed_spectral",), "FFTNet (causal)", LONG),
            ("three addressed", ("addressed_spectral",) * 3, "3 FFTNet (causal)", LONG),
        )
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
