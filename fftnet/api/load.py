"""Trained models from Python: loaded, and measured. Training is in ``fftnet.api.train``."""

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
"""In a checkpoint: the model, data and task of its training, and a prompt to start with if any, as JSON."""


def find_checkpoint(path: str | Path | None = None) -> Path:
    """The folder of a checkpoint, whole as far as its manifest tells.

    Args:
        path: a checkpoint, or a folder of runs, of which the newest counts; None: ``outputs``.

    Raises:
        CheckpointError: if there is none, or one of its files is missing or damaged.
    """
    folder = Path("outputs" if path is None else path)
    if path is None or (folder.is_dir() and not (folder / CONFIG_FILE).is_file()):
        folder = newest_checkpoint(folder)
    if os.path.lexists(folder / MANIFEST_FILE):
        verify(folder)
    return folder


def classifier_kind(folder: Path) -> type[PretrainedModel] | None:
    """The class of the classifier that a checkpoint holds, None where it holds another model.

    Raises:
        CheckpointError: if its configuration is missing or damaged.
    """
    path = folder / CONFIG_FILE
    name = architecture_of(read_json(path), path)
    return next((kind for kind in READERS if name in (kind.__name__, *kind.other_names)), None)


def default_prompt(folder: Path) -> str:
    """Return the prompt that comes with a checkpoint, the optional ``prompt`` of its ``run.json``."""
    run = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    prompt = run.get("prompt") if isinstance(run, dict) else None
    return prompt if isinstance(prompt, str) else ""


def load(path: str | Path | None = None, *, device: str = "auto") -> tuple[FFTNet, Tokenizer]:
    """Load a trained model and its tokenizer.

        >>> model, tokenizer = fftnet.load("outputs/best")

    Args:
        path: a checkpoint, or a folder of runs, of which the newest counts; None: ``outputs``.
        device: cpu, cuda, or auto: cuda where there is one.

    Returns:
        The model in evaluation mode, and the tokenizer that it was trained with, also as
        ``model.tokenizer``.

    Raises:
        UserError: naming the file that is missing or damaged, or the device that can't be used.
    """
    return load_checkpoint(find_checkpoint(path), device=device)


def load_checkpoint(folder: Path, *, device: str = "auto") -> tuple[FFTNet, Tokenizer]:
    """The model and the tokenizer of a folder from ``find_checkpoint``, whose checksums are not taken again.

    Args:
        folder: of one checkpoint.
        device: as in ``load``.

    Raises:
        UserError: as ``load``.
    """
    if classifier_kind(folder) is not None:
        raise CheckpointError(
            f"{folder} is a classifier, not a language model: use fftnet predict or fftnet evaluate, in "
            "Python fftnet.load_classifier"
        )
    model = FFTNet.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    known = {tokenizer.vocab_size + task.extra_tokens for task in LANGUAGE_TASKS.values()}
    if model.config.vocab_size not in known:
        raise CheckpointError(
            f"{folder} holds a tokenizer of {tokenizer.vocab_size} tokens and a model of "
            f"{model.config.vocab_size}: put back the tokenizer files that were saved with the model"
        )
    model.tokenizer = tokenizer
    return model.to(pick_device(device)), tokenizer
