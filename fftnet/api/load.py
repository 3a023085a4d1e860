"""Checkpoints: found, and loaded as a language model with its tokenizer."""

import os
from pathlib import Path

from fftnet.devices import pick_device
from fftnet.model.exchange import architecture_of
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.pretrained import PretrainedModel
from fftnet.serialization import CONFIG_FILE, CheckpointError, read_json
from fftnet.tasks import LANGUAGE_TASKS
from fftnet.tasks.readers import READERS
from fftnet.training.manifest import MANIFEST_FILE, newest_checkpoint, verify
from fftnet.utils.tokenizer import Tokenizer

RUN_FILE = "run.json"
"""File of a checkpoint: model, data and task of its training, and an optional first prompt, as JSON."""


def find_checkpoint(path: str | Path | None = None) -> Path:
    """Return the folder of a checkpoint, verified against its manifest if it has one.

    Args:
        path: a checkpoint, or a folder of runs, of which the newest is taken (None: ``outputs``).

    Raises:
        CheckpointError: if no checkpoint is found, or one of its files is missing or damaged.
    """
    folder = Path("outputs" if path is None else path)
    if path is None or (folder.is_dir() and not (folder / CONFIG_FILE).is_file()):
        folder = newest_checkpoint(folder)
    # Models that were saved with save_pretrained have no manifest.
    if os.path.lexists(folder / MANIFEST_FILE):
        verify(folder)
    return folder


def classifier_kind(folder: Path) -> type[PretrainedModel] | None:
    """Return the class of the classifier in a checkpoint, None for another kind of model."""
    path = folder / CONFIG_FILE
    name = architecture_of(read_json(path), path)
    return next((kind for kind in READERS if name in (kind.__name__, *kind.other_names)), None)


def default_prompt(folder: Path) -> str:
    """Return the optional ``prompt`` in the ``run.json`` of a checkpoint, else an empty string."""
    run = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    prompt = run.get("prompt") if isinstance(run, dict) else None
    return prompt if isinstance(prompt, str) else ""


def load(path: str | Path | None = None, *, device: str = "auto") -> tuple[FFTNet, Tokenizer]:
    """Load a trained model and its tokenizer.

        >>> model, tokenizer = fftnet.load("outputs/best")

    Args:
        path: a checkpoint, or a folder of runs, of which the newest is taken (None: ``outputs``).
        device: cpu, cuda, or auto (cuda if available, else cpu).

    Returns:
        The model in evaluation mode and its tokenizer, which is also ``model.tokenizer``.

    Raises:
        UserError: naming the file that is missing or damaged, or the device that can't be used.
    """
    return load_checkpoint(find_checkpoint(path), device=device)


def load_checkpoint(folder: Path, *, device: str = "auto") -> tuple[FFTNet, Tokenizer]:
    """Load the model and the tokenizer of a folder that ``find_checkpoint`` has verified; see ``load``."""
    if classifier_kind(folder) is not None:
        raise CheckpointError(
            f"{folder} is a classifier, not a language model: use fftnet predict or fftnet evaluate, in "
            "Python fftnet.load_classifier"
        )
    model = FFTNet.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    # A masked language model has one more token than its tokenizer.
    known = {tokenizer.vocab_size + task.extra_tokens for task in LANGUAGE_TASKS.values()}
    if model.config.vocab_size not in known:
        raise CheckpointError(
            f"{folder} holds a tokenizer of {tokenizer.vocab_size} tokens and a model of "
            f"{model.config.vocab_size}: put back the tokenizer files that were saved with the model"
        )
    model.tokenizer = tokenizer
    return model.to(pick_device(device)), tokenizer
