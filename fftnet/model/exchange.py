"""What a checkpoint holds so that Hugging Face Transformers reads it, and what that library leaves in one.

Both sides write one folder: ``config.json`` with the fields of the native configuration, and weights under
the names of the native modules, which the library's models with a head put ``model.`` in front of. Nothing
here imports the library; ``fftnet.hf`` is where it does.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fftnet.serialization import writing

MODEL_TYPE = "fftnet"
BASE_PREFIX = "model."
"""In front of all weights but the head's, where a model with a head was saved by the library."""
TIED_HEAD = "lm_head.weight"
"""The library's name for the embedding where it serves as the head."""
CAUSAL_ARCHITECTURE = "FFTNetForCausalLM"
MASKED_ARCHITECTURE = "FFTNetForMaskedLM"
LANGUAGE_MODELS = ("FFTNet", "FFTNetModel", CAUSAL_ARCHITECTURE, MASKED_ARCHITECTURE)
"""Names under which a language model may stand in ``architectures``."""
SHIM_MODULE = "modeling_fftnet"
SHIM_FILE = f"{SHIM_MODULE}.py"
AUTO_CLASSES = {
    "AutoConfig": "FFTNetConfig",
    "AutoModel": "FFTNetModel",
    "AutoModelForCausalLM": CAUSAL_ARCHITECTURE,
    "AutoModelForMaskedLM": MASKED_ARCHITECTURE,
    "AutoModelForSequenceClassification": "FFTNetForSequenceClassification",
    "AutoModelForTokenClassification": "FFTNetForTokenClassification",
}
"""The library's classes to those of ``fftnet.hf``."""
AUTO_MAP = {auto: f"{SHIM_MODULE}.{name}" for auto, name in AUTO_CLASSES.items()}
"""Field of ``config.json`` by which the library finds the classes in a process that never imported them."""
LIBRARY_FIELDS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "tie_word_embeddings",
        "transformers_version",
        "use_cache",
    }
)
"""Fields of ``config.json`` that belong to the library: they do not change what a native model computes."""


def write_shim(directory: Path) -> None:
    """Write the module that ``AUTO_MAP`` points at: with ``trust_remote_code=True`` the library imports it.

    Raises:
        CheckpointError: if it can't be written.
    """
    purpose = '"""Leads Transformers to the classes of the package: pip install fftnet[hf]."""'
    text = f"{purpose}\n\nfrom fftnet.hf import {', '.join(AUTO_CLASSES.values())}\n"
    path = directory / SHIM_FILE
    with writing(path):
        path.write_text(text, encoding="utf-8")


def native_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of the native modules, whichever side has saved them."""
    return {name.removeprefix(BASE_PREFIX): tensor for name, tensor in tensors.items()}
