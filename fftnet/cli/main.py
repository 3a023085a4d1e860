"""The command line: ``fftnet train``, ``fftnet generate``, ``fftnet evaluate``."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fftnet.cli.flags import Presets, UsageError, parse
from fftnet.data.documents import SYNTHETIC, DataError
from fftnet.evaluation.plots import plot_loss_by_position
from fftnet.evaluation.report import EvaluationConfig, evaluation_report, seen_in_training, trained_with
from fftnet.generation import SamplingConfig, generate
from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import CONFIG_FILE, WEIGHTS_FILE, CheckpointError, write_json
from fftnet.tasks import TASKS
from fftnet.training.accelerator import EngineConfig, TrainingError, pick_device
from fftnet.training.budget import BudgetConfig
from fftnet.training.checkpoints import BEST, MANIFEST, SaveConfig, verify
from fftnet.training.optim import OptimConfig
from fftnet.utils.dataset import (
    DataConfig,
    load_data,
    training_texts,
)
from fftnet.utils.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from fftnet.utils.trainer import Extras, TrainConfig, Trainer

RUN_FILE = "run.json"
SAMPLE_TOKENS = 100
TRAIN_COMMAND = "python main.py --d_model 128 --num_layers 4 --num_epochs 30 --save_model"


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is learned."""

    task: str = "next_token"
    """Objective: next_token (causal models) or masked_token (bidirectional ones)."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}; choose from {', '.join(TASKS)}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which model is used."""

    checkpoint: str | None = None
    """Folder with config.json and model.safetensors (default: the newest under outputs/)."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What is continued."""

    prompt: str = ""
    """Text to continue; empty starts a new one."""


def train(argv: Sequence[str]) -> None:
    """Train a model on text and write checkpoints, a loss curve and metrics."""
    kinds = (DataConfig, TaskConfig, OptimConfig, BudgetConfig, TrainConfig, EngineConfig, SaveConfig)
    classes: Presets = {BackboneConfig: {"mixer_configs": {}}, **{cls: {} for cls in kinds}}
    backbone, data, task_config, optim, budget, config, engine, saving = parse(
        "train", train.__doc__, argv, classes
    )
    tokenizer = load_tokenizer(data.tokenizer, corpus=training_texts(data), vocab_size=data.vocab_size)
    task = TASKS[task_config.task]
    model_config = FFTNetConfig(**vars(backbone), vocab_size=tokenizer.vocab_size + task.extra_tokens)
    splits = load_data(data, tokenizer, model_config.max_seq_length)
    torch.manual_seed(config.seed)
    try:
        model = FFTNet(model_config)
        objective = task(model)
    except ValueError as error:
        raise UsageError(str(error)) from error
    run = {"model": asdict(model_config), "data": asdict(data), "task": asdict(task_config)}

    def save_extras(directory: Path) -> None:
        model.save_config(directory)
        tokenizer.save(directory)
        write_json(directory / RUN_FILE, run)

    def sample(weights: dict[str, Tensor]) -> str:
        # A copy on the CPU writes, because the model may be compiled or split among processes.
        writer = FFTNet(model_config).eval()
        writer.load_state_dict(weights)
        sampling = SamplingConfig(max_new_tokens=SAMPLE_TOKENS)
        return tokenizer.decode(list(generate(writer, [tokenizer.eot], sampling, stop=tokenizer.eot)))

    extras = Extras(
        token_bytes=tokenizer.token_bytes(),
        floor=splits.floor,
        save_extras=save_extras,
        fingerprint=run | {"tokenizer": tokenizer.fingerprint},
        sample=sample if model_config.causal else None,
    )
    trainer = Trainer(
        model,
        objective,
        splits.train,
        splits.valid,
        train_config=config,
        budget_config=budget,
        optim_config=optim,
        engine_config=engine,
        save_config=saving,
        extras=extras,
    )
    trainer.train()


def newest_checkpoint(root: Path) -> Path:
    """The checkpoint of the newest run under ``root``: its best one where there is one.

    Raises:
        CheckpointError: if there is none; the sentence says which command makes one.
    """
    found = [path.parent for path in root.rglob(WEIGHTS_FILE) if (path.parent / CONFIG_FILE).is_file()]
    if not found:
        raise CheckpointError(f"no checkpoint under {root}/; make one with: {TRAIN_COMMAND}")
    newest = max(found, key=lambda path: (path / WEIGHTS_FILE).stat().st_mtime)
    best = newest.parent / BEST
    return best if (best / WEIGHTS_FILE).is_file() else newest


def _load(config: CheckpointConfig) -> tuple[FFTNet, Tokenizer, Path]:
    if config.checkpoint is None:
        path = newest_checkpoint(Path("outputs"))
    else:
        path = Path(config.checkpoint)
        if path.is_dir() and not (path / CONFIG_FILE).is_file():
            path = newest_checkpoint(path)
    if (path / MANIFEST).is_file():
        verify(path)
    model, tokenizer = FFTNet.from_pretrained(path), Tokenizer.load(path)
    extra_tokens = model.config.vocab_size - tokenizer.vocab_size
    if extra_tokens not in {task.extra_tokens for task in TASKS.values()}:
        raise CheckpointError(
            f"{path} holds a tokenizer of {tokenizer.vocab_size} tokens and a model of "
            f"{model.config.vocab_size}: put back the tokenizer files that were saved with the model"
        )
    return model.to(pick_device(config.device)), tokenizer, path


def write(argv: Sequence[str]) -> None:
    """Continue a prompt with a trained model, printing the text as it is made."""
    checkpoint_config, prompt_config, sampling = parse(
        "generate", write.__doc__, argv, {CheckpointConfig: {}, PromptConfig: {}, SamplingConfig: {}}
    )
    model, tokenizer, path = _load(checkpoint_config)
    if not model.config.causal:
        raise UsageError(f"{path} is bidirectional and can't write; train a model with causal=True")
    say(f"{path}: {model.num_parameters():,} parameters")
    prompt = [tokenizer.eot, *tokenizer.encode(prompt_config.prompt)]
    stream, written, start = tokenizer.stream(), 0, 0.0
    print(prompt_config.prompt, end="", flush=True)
    try:
        for token in generate(model, prompt, sampling, stop=tokenizer.eot):
            print(stream.push(token), end="", flush=True)
            written += 1
            start = start or time.perf_counter()
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(stream.finish(), flush=True)
    speed = (written - 1) / (time.perf_counter() - start) if written > 1 else 0.0
    say(f"{written} tokens, {speed:.0f} tokens/s after the first")


def measure(argv: Sequence[str]) -> None:
    """Measure a trained model on a text: in windows, and on whole documents of any length, by position."""
    if argv and not argv[0].startswith("-"):
        argv = ["--checkpoint", *argv]
    own: Presets = {CheckpointConfig: {}, EvaluationConfig: {}}
    checkpoint_config, config, data_config = parse(
        "evaluate", measure.__doc__, argv, own | {DataConfig: {"tokenizer": "bytes", "vocab_size": 257}}
    )
    model, tokenizer, path = _load(checkpoint_config)
    if config.plot is not None and (data_config.data == [SYNTHETIC] or not model.config.causal):
        raise UsageError("plot needs a causal model and documents: name a real text with --data")
    objective, trained = trained_with(model, path / RUN_FILE)
    if warning := seen_in_training(trained, data_config, config.whole):
        say(f"warning: {warning}")
    report = evaluation_report(model, objective, tokenizer, config, data_config)
    try:
        print(json.dumps({"checkpoint": str(path), **report}, indent=2, allow_nan=False), flush=True)
    except ValueError as error:
        raise CheckpointError(
            f"the losses of {path} are not finite: its weights are damaged, take another checkpoint"
        ) from error
    if config.plot is not None:
        rows, length = report["whole_documents"]["by_position"], model.config.max_seq_length
        try:
            plot_loss_by_position(rows, length, report["loss"], Path(config.plot))
        except OSError as error:
            raise UsageError(f"the plot {config.plot} could not be written: {error.strerror}") from error


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "generate": write,
    "evaluate": measure,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 after one sentence on what was wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in _COMMANDS:
        asked = bool(words) and words[0] in ("-h", "--help")
        print("usage: fftnet {train,generate,evaluate} [flags]; each takes --help", file=sys.stderr)
        return 0 if asked else 2
    # Of the processes of a run, the first one speaks, and of errors one on each machine.
    first, first_here = (os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("fftnet").setLevel(logging.INFO if first else logging.ERROR)
    try:
        _COMMANDS[words[0]](words[1:])
    except (UsageError, DataError, TokenizerError, CheckpointError, TrainingError) as error:
        if first_here:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def say(line: str) -> None:
    """Tell the user something that is not the result: to stderr."""
    print(line, file=sys.stderr, flush=True)
