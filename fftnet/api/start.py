"""Training that starts from the weights of another run, such as those of a language model."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fftnet import serialization
from fftnet.api.load import classifier_kind, find_checkpoint
from fftnet.fields import documented
from fftnet.model.classifier import SequenceClassifierConfig
from fftnet.model.exchange import native_names
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.pretrained import PretrainedModel
from fftnet.model.vit import ViTConfig
from fftnet.serialization import WEIGHTS_FILE, CheckpointError
from fftnet.tasks.text import sizes_of
from fftnet.utils.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

EMBEDDING = "embedding.weight"
OF_IMAGES = ("image_size", "patch_size", "pooling")
"""Fields of an image model that are settings of its task."""


@documented
@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Initial weights of a run."""

    init_from: str | None = None
    """Checkpoint whose weights initialize the model; its sizes and tokenizer become the defaults, and a head
    for other classes is initialized at random (default: all weights are initialized at random)."""


def flag_defaults(path: str | Path) -> dict[str, Any]:
    """Return default flag values read from the checkpoint of ``--init_from``, by name.

    These are sizes, mixers and their fields, pooling, and the tokenizer or the patches.
    """
    folder = find_checkpoint(path)
    # The model is loaded to check that its weights have the sizes of its configuration.
    config = (classifier_kind(folder) or FFTNet).from_pretrained(folder).config
    found = sizes_of(config)
    # Flags have a field each, such as addressed_spectral.num_bins.
    mixers = found.pop("mixer_configs")
    found |= {f"{name}.{field}": value for name in mixers for field, value in asdict(mixers[name]).items()}
    if isinstance(config, ViTConfig):
        return found | {f"image_classification.{name}": getattr(config, name) for name in OF_IMAGES}
    if isinstance(config, SequenceClassifierConfig):
        found["classification.pooling"] = config.pooling
    return found | {"tokenizer": str(folder)}


def load_start(model: PretrainedModel, tokenizer: Tokenizer | None, path: str | Path) -> None:
    """Initialize a new model with the weights of a checkpoint.

    The head of a classifier is loaded if both have the same classes; otherwise it keeps its random weights.
    The embedding of the mask token, the last id, is dropped if the model has no such token, and keeps its
    random weights if the checkpoint has none.

    Raises:
        CheckpointError: if there is no checkpoint, it is damaged, or of other sizes or another tokenizer.
    """
    folder = find_checkpoint(path)
    kind = classifier_kind(folder) or FFTNet
    if tokenizer is not None and Tokenizer.load(folder).fingerprint != tokenizer.fingerprint:
        raise CheckpointError(
            f"{folder} was trained with another tokenizer: leave --tokenizer out, or name the folder there"
        )
    own = model.state_dict()
    # Equal numbers of classes are not enough: their names must agree, too.
    same_classes = isinstance(model, kind) and _classes(kind.read_config(folder)) == _classes(model.config)
    anew = [] if same_classes else [name for name in own if name.startswith(model.head_prefixes)]

    def adapted(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = native_names(stored)
        if not same_classes:
            found = {name: t for name, t in found.items() if not name.startswith(kind.head_prefixes)}
        if EMBEDDING in found and EMBEDDING in own and found[EMBEDDING].shape[1:] == own[EMBEDDING].shape[1:]:
            # The tokenizers are equal, so that a difference in rows is the mask token.
            stored_VD, own_VD = found[EMBEDDING], own[EMBEDDING]
            found[EMBEDDING] = torch.cat([stored_VD[: len(own_VD)], own_VD[len(stored_VD) :]])
        return found | {name: own[name] for name in anew}

    serialization.load_weights(model, folder / WEIGHTS_FILE, adapted)
    logger.info("starts from %s%s", folder, f"; anew: {', '.join(anew)}" if anew else "")


def _classes(config: Any) -> Any:
    return getattr(config, "num_classes", 0), getattr(config, "class_names", ())
