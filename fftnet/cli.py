"""The command line: ``fftnet train``, ``fftnet generate``, ``fftnet evaluate``.

Flags are the fields of the configuration classes, and their help is the fields' docstrings.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_origin

import torch
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from fftnet.checkpoint import CheckpointError, read_json, write_json, writing
from fftnet.corpora.documents import SYNTHETIC, DataError
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import CONFIG_FILE, WEIGHTS_FILE, FFTNet
from fftnet.optim import OptimConfig
from fftnet.plots import plot_loss_by_position
from fftnet.tasks import TASKS
from fftnet.tasks.evaluation import evaluate
from fftnet.tasks.generate import SamplingConfig, generate
from fftnet.tasks.long_documents import evaluate_documents
from fftnet.utils.dataset import (
    TEST,
    DataConfig,
    load_data,
    load_passages,
    load_whole,
    training_texts,
    windows_of,
)
from fftnet.utils.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from fftnet.utils.trainer import TrainConfig, Trainer, TrainingError, pick_device

RUN_FILE = "run.json"
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


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured."""

    whole: bool = False
    """Measure all of a text, not its test split: for text that the model was not trained on."""
    max_tokens: int | None = None
    """Stop after about so many tokens (default: take all)."""
    plot: str | None = None
    """PNG file for the loss by position in the document: does the model use long context?"""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


class UsageError(Exception):
    """A wrong flag or value: one sentence for the user."""


Presets = dict[type, dict[str, Any]]
"""Configuration classes of a command, and the fields that are no flags with a value that passes checks."""


def _parse(program: str, argv: Sequence[str], classes: Presets) -> list[Any]:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"fftnet {program}", description=_COMMANDS[program].__doc__, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file of flags; flags behind it win over it.")
    flags = {cls: [f for f in fields(cls) if f.name not in preset] for cls, preset in classes.items()}
    for cls, preset in classes.items():
        parser.add_class_arguments(cls, skip=set(preset))
    known = [field for group in flags.values() for field in group]
    switches = {field.name for field in known if field.type is bool}
    lists = {field.name for field in known if get_origin(field.type) in (list, tuple)}
    try:
        values = parser.parse_args(_spell_out(argv, switches, lists))
        return [
            cls(**preset, **{field.name: values[field.name] for field in flags[cls]})
            for cls, preset in classes.items()
        ]
    except (ArgumentError, ValueError) as error:
        sentence = " ".join(str(error).split())
        raise UsageError(f"{sentence} (fftnet {program} --help explains every flag)") from error


def _spell_out(argv: Sequence[str], switches: set[str], lists: set[str]) -> list[str]:
    """Let a switch stand alone or behind ``no_``, and a list take several words, as users write them."""
    words, spelled = list(argv), []
    while words:
        word = words.pop(0)
        name = word[2:] if word.startswith("--") else ""
        alone = not words or words[0].startswith("--")
        if name in switches and alone:
            spelled.append(f"{word}=true")
        elif name.startswith("no_") and name[3:] in switches:
            spelled.append(f"--{name[3:]}=false")
        elif name in lists and not alone:
            taken = []
            while words and not words[0].startswith("--"):
                taken.append(words.pop(0))
            spelled.append(f"{word}={taken[0] if taken[0].startswith('[') else json.dumps(taken)}")
        else:
            spelled.append(word)
    return spelled


def train(argv: Sequence[str]) -> None:
    """Train a model on text and write checkpoints, a loss curve and metrics."""
    classes: Presets = {
        FFTNetConfig: {"vocab_size": 1},
        **{cls: {} for cls in (DataConfig, TaskConfig, OptimConfig, TrainConfig)},
    }
    model_config, data_config, task_config, optim_config, train_config = _parse("train", argv, classes)
    tokenizer = load_tokenizer(
        data_config.tokenizer, corpus=training_texts(data_config), vocab_size=data_config.vocab_size
    )
    task = TASKS[task_config.task]
    model_config = replace(model_config, vocab_size=tokenizer.vocab_size + task.extra_tokens)
    splits = load_data(data_config, tokenizer, model_config.max_seq_length)
    torch.manual_seed(train_config.seed)
    try:
        model = FFTNet(model_config)
        objective = task(model)
    except ValueError as error:
        raise UsageError(str(error)) from error
    run = {
        name: asdict(config)
        for name, config in (("model", model_config), ("data", data_config), ("task", task_config))
    }

    def save_extras(directory: Path) -> None:
        model.save_config(directory)
        tokenizer.save(directory)
        write_json(directory / RUN_FILE, run)

    say(f"{model.num_parameters():,} parameters, {tokenizer.vocab_size} tokens in {tokenizer.name!r}")
    trainer = Trainer(
        model,
        objective,
        splits.train,
        splits.valid,
        train_config=train_config,
        optim_config=optim_config,
        token_bytes=tokenizer.token_bytes(),
        floor=splits.floor,
        save_extras=save_extras,
        fingerprint=run | {"optim": asdict(optim_config)},
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
    best = newest.parent / "best"
    return best if best in found else newest


def _load(config: CheckpointConfig) -> tuple[FFTNet, Tokenizer, Path]:
    if config.checkpoint is None:
        path = newest_checkpoint(Path("outputs"))
    else:
        path = Path(config.checkpoint)
        if path.is_dir() and not (path / CONFIG_FILE).is_file():
            path = newest_checkpoint(path)
    model = FFTNet.from_pretrained(path).to(pick_device(config.device))
    return model, Tokenizer.load(path), path


def write(argv: Sequence[str]) -> None:
    """Continue a prompt with a trained model, printing the text as it is made."""
    checkpoint_config, prompt_config, sampling = _parse(
        "generate", argv, {CheckpointConfig: {}, PromptConfig: {}, SamplingConfig: {}}
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
    checkpoint_config, config, data_config = _parse(
        "evaluate", argv, own | {DataConfig: {"tokenizer": "bytes", "vocab_size": 257}}
    )
    model, tokenizer, path = _load(checkpoint_config)
    task = TASKS[read_json(path / RUN_FILE)["task"]["task"]](model)
    length, sizes = model.config.max_seq_length, tokenizer.token_bytes()
    passages = None
    if data_config.data == [SYNTHETIC]:
        batches = load_data(data_config, tokenizer, length).test
    else:
        name = "text" if config.whole else "test split"
        passages = (
            load_whole(data_config, tokenizer)
            if config.whole
            else load_passages(data_config, tokenizer)[TEST]
        )
        batches = windows_of(passages, data_config, length, None, name)
    if config.plot is not None and (passages is None or not model.config.causal):
        raise UsageError("plot needs a causal model and documents: name a real text with --data")
    most = config.max_tokens and -(-config.max_tokens // (data_config.batch_size * length))
    metrics = evaluate(model, task, batches, token_bytes=sizes, max_batches=most)
    report = {"checkpoint": str(path), "split": "all" if config.whole else "test", **asdict(metrics)}
    if passages is not None and model.config.causal:
        read = evaluate_documents(
            model,
            passages.tokens,
            *passages.documents(),
            batch_size=data_config.batch_size,
            token_bytes=sizes,
            max_tokens=config.max_tokens,
        )
        report["whole_documents"] = asdict(read)
        if config.plot is not None:
            with writing(Path(config.plot)):
                rows = report["whole_documents"]["by_position"]
                plot_loss_by_position(rows, length, metrics.loss, Path(config.plot))
    print(json.dumps(report, indent=2))


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
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("fftnet").setLevel(logging.INFO)
    try:
        _COMMANDS[words[0]](words[1:])
    except (UsageError, DataError, TokenizerError, CheckpointError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def say(line: str) -> None:
    """Tell the user something that is not the result: to stderr."""
    print(line, file=sys.stderr, flush=True)
