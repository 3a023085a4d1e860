"""Training from Python: one configuration in, a trained model out."""

import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fftnet.api.generate import generate
from fftnet.api.load import RUN_FILE
from fftnet.api.run_config import RunConfig, configure
from fftnet.api.start import load_start
from fftnet.data.files import DIGEST
from fftnet.devices import pick_device
from fftnet.metrics.averages import evaluate
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.pretrained import PretrainedModel
from fftnet.serialization import as_json, read_json, write_json
from fftnet.tasks import LANGUAGE_TASKS, TASKS
from fftnet.tasks.base import Prepared, Request
from fftnet.tasks.readers import READERS
from fftnet.training.accelerator import TrainingError, launched_rank
from fftnet.training.config import Callbacks, RunMetadata
from fftnet.training.manifest import BEST, LAST
from fftnet.training.report import listed
from fftnet.training.run_folder import METRICS_FILE, claimed
from fftnet.utils.tokenizer import Tokenizer
from fftnet.utils.trainer import Trainer

__all__ = ["TrainingResult", "train"]

SAMPLE_TOKENS = 100
"""Length of the text that is shown at every evaluation."""


class TrainingResult(NamedTuple):
    """A finished run."""

    model: nn.Module
    """Model with its last weights, in evaluation mode."""
    tokenizer: Tokenizer | None
    """Tokenizer of the model; None for images."""
    history: list[dict[str, Any]]
    """One row per evaluation: losses, metrics, speed. If the task measures the test split, ``test`` in the
    last row holds its loss and metrics, and the weights that were measured: best or last."""
    folder: Path
    """Output folder with checkpoints, metrics and loss plot; ``fftnet.load`` reads it."""


def train(config: RunConfig | None = None, **flags: Any) -> TrainingResult:
    """Train a model: read the data, make the tokenizer and the model, train to the end of the budget.

        >>> model, tokenizer, history, folder = fftnet.train(data="my.txt", d_model=64, max_steps=200)
        >>> config = RunConfig(data=DataConfig(data=["python-docs"]), budget=BudgetConfig(max_steps=360))
        >>> model, tokenizer, history, folder = fftnet.train(config)

    Args:
        config: model, data, task, optimizer and budget of the run.
        **flags: instead of ``config``, the flags of ``fftnet train``; settings of a mixer or a task are a
            dictionary, such as ``addressed_spectral={"num_bins": 8}``.

    Raises:
        TypeError: if there is no such flag.
        ValueError: if model, task and data do not fit together.
        UserError: if data can't be read, a checkpoint can't be written, another run is in the output folder,
            or training can't continue.
    """
    if config is None:
        config = configure(**flags)
    elif flags or not isinstance(config, RunConfig):
        given = f"both ({', '.join(flags)})" if flags else repr(config)
        raise ValueError(f"train takes a RunConfig or keywords such as data='my.txt', got {given}")
    # The trainer claims the folder again. This comes first because reading data may take long.
    with claimed(config.save, main=launched_rank() == 0):
        return _train(config)


def _train(config: RunConfig) -> TrainingResult:
    request = Request(model=config.model, data=config.data, settings=config.task.settings)
    prepared = TASKS[config.task.task].prepare(request)
    tokenizer, splits = prepared.tokenizer, prepared.splits
    # The same initial weights on every process and in every run of this seed.
    torch.manual_seed(config.train.seed)
    model = prepared.build_model()
    data, task_settings = asdict(config.data), config.task.described()
    described = {"model": asdict(model.config), "data": data, "task": task_settings}
    if config.start.init_from is not None:
        load_start(model, tokenizer, config.start.init_from)
        described["start"] = asdict(config.start)

    def save_files(directory: Path) -> None:
        model.save_config(directory)
        if tokenizer is not None:
            tokenizer.save(directory)
        prepared.save_files(directory)
        write_json(directory / RUN_FILE, described | {DIGEST: splits.digest})

    callbacks = Callbacks(
        save_files=save_files,
        check_files=lambda directory: check_data(directory, described, splits.digest),
        sample=_sampler(model, tokenizer),
    )
    # Tokenizers with the same name may differ, for example two that were trained on different texts.
    read = {} if tokenizer is None else {"tokenizer": tokenizer.fingerprint}
    trainer = Trainer(
        model,
        prepared.objective,
        splits.train,
        splits.valid,
        train_config=config.train,
        budget_config=config.budget,
        optim_config=config.optim,
        accelerator_config=config.accelerator,
        save_config=config.save,
        metadata=RunMetadata(entropy_floor=splits.entropy_floor, fingerprint=described | read),
        callbacks=callbacks,
    )
    history = trainer.train()
    model.eval()
    # generate(result.model, "text") then finds the tokenizer.
    if isinstance(model, FFTNet):
        model.tokenizer = tokenizer
    if prepared.measure_test:
        test = _measure_test(model, prepared, config, trainer)
        history[-1] |= {} if test is None else {"test": test}
    if config.save.save_model:
        best = trainer.checkpointer.best()
        example = example_command(model, best)
        trainer.report(f"saved to {best}" + (f"; try: {example}" if example else ""))
    return TrainingResult(model, tokenizer, history, trainer.output)


def check_data(folder: Path, described: dict[str, Any], digest: str | None) -> str | None:
    """Refuse to resume a checkpoint if the data under the same names have changed since.

    Return a line for the user if a change can't be detected, else None. The run that resumes is ``described``
    by model, data and task; ``digest`` is that of its data, None if unknown.
    """
    run = folder / RUN_FILE
    stored = read_json(run) if run.is_file() else {}
    asked = as_json(described)
    # The checkpointer compares settings, such as names of data and the task.
    if any(stored.get(name) != asked[name] for name in ("data", "task")) or stored.get(DIGEST) == digest:
        return None
    names = ", ".join(asked["data"]["data"])
    if stored.get(DIGEST) is None or digest is None:
        unknown = f"{folder} holds no digest of its data: changes of {names} since are not noticed"
        if asked["task"]["task"] in LANGUAGE_TASKS:
            return unknown
        return (
            f"{unknown}, and held-out rows may train now, because an earlier version split them differently"
        )
    raise TrainingError(
        f"{names} has changed since this run began: put it back as it was, or train in another output_dir"
    )


def _measure_test(
    model: PretrainedModel, prepared: Prepared, config: RunConfig, trainer: Trainer
) -> dict[str, Any] | None:
    """Measure the test split with the best weights (the last without checkpoints); add it to metrics.json.

    Return None on other processes than the main one, and for a sharded model without checkpoints.
    """
    # Sharded weights without a checkpoint can't be measured on one process.
    spread = config.accelerator.strategy == "fsdp" and not config.save.save_model
    if spread or launched_rank() != 0:
        return None
    kept = LAST
    if config.save.save_model:
        folder = trainer.checkpointer.best()
        kept = BEST if folder.name == BEST else LAST
        model = type(model).from_pretrained(folder).to(pick_device(config.accelerator.device))
    metrics = evaluate(model, prepared.objective, prepared.splits.test)
    test = {"weights": kept, "targets": int(metrics.count), **metrics.named()}
    results = trainer.output / METRICS_FILE
    write_json(results, read_json(results) | {"test": test})
    trainer.report(f"test split, {kept} weights: {listed(metrics.named())}")
    return test


def example_command(model: nn.Module, checkpoint: Path) -> str | None:
    """Return a command that uses a trained model, None for models of other tasks."""
    words = shlex.quote(str(checkpoint))
    if isinstance(model, tuple(READERS)):
        return f"fftnet predict {words} FILE"
    if isinstance(model, FFTNet):
        return f"fftnet generate {words}" if model.config.causal else f"fftnet evaluate {words} --data FILE"
    return None


def _sampler(model: nn.Module, tokenizer: Tokenizer | None) -> Callable[[dict[str, Tensor]], str] | None:
    if tokenizer is None or not isinstance(model, FFTNet) or not model.config.causal:
        return None
    config = model.config

    def sample(weights: dict[str, Tensor]) -> str:
        # Generate with a copy on the CPU, because the model may be compiled or sharded.
        writer = FFTNet(config).eval()
        writer.load_state_dict(weights)
        return generate(writer, "", max_new_tokens=SAMPLE_TOKENS, tokenizer=tokenizer)

    return sample
