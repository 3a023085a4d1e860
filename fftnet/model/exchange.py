"""Exchange of checkpoints with Hugging Face Transformers, without importing the library.

Both sides use one folder: ``config.json`` with the fields of the native configuration, and weights under the
names of the native modules. The library's models with a head put ``model.`` in front of these names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fftnet.model.heads import CLASS_FIELDS
from fftnet.serialization import CheckpointError, writing

CAUSAL_ARCHITECTURE = "FFTNetForCausalLM"
MASKED_ARCHITECTURE = "FFTNetForMaskedLM"
SEQUENCE_ARCHITECTURE = "FFTNetForSequenceClassification"
IMAGE_ARCHITECTURE = "FFTNetForImageClassification"
SHIM_MODULE = "modeling_fftnet"
SHIM_FILE = f"{SHIM_MODULE}.py"


class Family(NamedTuple):
    """Models with one configuration class, as the library distinguishes them."""

    model_type: str
    """Name of the configuration in the library."""
    natives: tuple[str, ...]
    """Allowed names of the native model in ``architectures``."""
    auto_classes: Mapping[str, str]
    """Auto classes of the library to classes of ``fftnet.hf``."""

    @property
    def auto_map(self) -> dict[str, str]:
        """Field of ``config.json`` by which the library finds classes that were never imported."""
        return {auto: f"{SHIM_MODULE}.{name}" for auto, name in self.auto_classes.items()}

    def write_shim(self, directory: Path) -> None:
        """Write the module that ``auto_map`` names, which the library imports as remote code."""
        purpose = '"""Leads Transformers to the classes of the package: pip install fftnet[hf]."""'
        text = f"{purpose}\n\nfrom fftnet.hf import {', '.join(self.auto_classes.values())}\n"
        path = directory / SHIM_FILE
        with writing(path):
            path.write_text(text, encoding="utf-8")


LANGUAGE = Family(
    "fftnet",
    ("FFTNet", "FFTNetModel", CAUSAL_ARCHITECTURE, MASKED_ARCHITECTURE),
    {
        "AutoConfig": "FFTNetConfig",
        "AutoModel": "FFTNetModel",
        "AutoModelForCausalLM": CAUSAL_ARCHITECTURE,
        "AutoModelForMaskedLM": MASKED_ARCHITECTURE,
        "AutoModelForSequenceClassification": SEQUENCE_ARCHITECTURE,
        "AutoModelForTokenClassification": "FFTNetForTokenClassification",
    },
)
IMAGES = Family(
    "fftnet_vit",
    ("FFTNetViT", IMAGE_ARCHITECTURE),
    {"AutoConfig": "FFTNetViTConfig", "AutoModelForImageClassification": IMAGE_ARCHITECTURE},
)
LIBRARY_FIELDS = frozenset(
    {
        *("_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward", "dtype"),
        *("eos_token_id", "id2label", "is_encoder_decoder", "label2id", "model_type", "output_attentions"),
        *("output_hidden_states", "pad_token_id", "problem_type", "return_dict", "tie_word_embeddings"),
        *("transformers_version", "use_cache"),
    }
)
"""Fields of ``config.json`` that belong to the library: they do not change what a native model computes."""


def native_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of the native modules, whichever side saved them."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def labels_to_file(values: dict[str, Any]) -> dict[str, Any]:
    """Replace a native configuration's fields of classes by the library's ``id2label`` and ``label2id``."""
    if "class_names" not in values:
        return values
    names = values["class_names"]
    kept = {name: value for name, value in values.items() if name not in CLASS_FIELDS}
    return kept | {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def labels_from_file(values: dict[str, Any]) -> dict[str, Any]:
    """Add the native fields of classes to the fields of ``config.json``, if it has labels."""
    found = values.get("id2label")
    if found is None:
        return values
    try:
        # Keys are strings in JSON; classes 0 to K - 1 must all be there.
        names = tuple(str(found[str(index)]) for index in range(len(found)))
    except (KeyError, TypeError) as error:
        raise ValueError("its id2label does not number the classes from 0") from error
    return values | {"num_classes": len(names), "class_names": names}


def architecture_of(values: Any, path: Path) -> str | None:
    """Return the name of the model that ``config.json`` at ``path`` describes, None if it names none."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not describe a model: it holds no fields")
    names = values.get("architectures")
    if names is None or names == []:
        return None
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            f"{path} does not describe a model: architectures must be a list of one name, got {names}"
        )
    return names[0]
