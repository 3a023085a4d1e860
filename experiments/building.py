"""Builder of all models: as language models or classifiers, with a matched number of parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from experiments.baselines import BASELINES
from experiments.models import REMOVERS, find
from experiments.pairs import PairClassifier
from experiments.results import ExperimentError
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.mixers import MIXERS
from fftnet.model.mixers.spectral import SpectralMixer
from fftnet.model.vit import FFTNetViT, ViTConfig

TOLERANCE = 0.02
"""Largest relative difference between the parameters of a model and the number that it is matched to."""


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
