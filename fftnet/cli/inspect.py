"""``fftnet inspect``: pictures of what a trained model does with a text."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fftnet.api.load import find_checkpoint, load_checkpoint
from fftnet.cli.flags import ModelConfig, UsageError, parse
from fftnet.evaluation import inspection_plots as plots
from fftnet.evaluation.inspection import Inspection, LossByPosition, inspect_tokens, loss_by_position
from fftnet.evaluation.inspection_plots import MAX_TOKENS
from fftnet.fields import check_fields, check_range, documented
from fftnet.metrics.plots import plot_loss_by_position
from fftnet.utils.tokenizer import Tokenizer


@documented
@dataclass(frozen=True, kw_only=True)
class InspectionConfig:
    """Text to inspect, and the pictures."""

    prompt: str | None = None
    """Text of the pictures, at most 511 tokens."""
    file: str | None = None
    """UTF-8 file instead of a prompt: the pictures show its beginning, the loss by position all of it."""
    show: int = 96
    """Number of tokens of a file in the pictures."""
    position: int | None = None
    """Position of the token whose filter and weights are plotted; 0 is the end-of-text token before the text
    (default: the last one)."""
    output: str = "outputs/inspect"
    """Folder for the pictures, created if missing."""

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.file is None):
            raise ValueError("name a text: either with prompt or with file")
        check_fields(self)
        if not 2 <= self.show <= MAX_TOKENS:
            raise ValueError(f"show must lie between 2 and {MAX_TOKENS}, got {self.show}")
        check_range(self, 0, None, "position")


def run(argv: Sequence[str]) -> None:
    """Draw what a trained model does with a text: filters, spectra, what each token reads, losses."""
    (source, config), _ = parse("inspect", argv, (ModelConfig, InspectionConfig))
    text = _text(config)
    path = find_checkpoint(source.checkpoint)
    model, tokenizer = load_checkpoint(path, device=source.device)
    tokens = torch.tensor([tokenizer.eot, *tokenizer.encode(text)])
    shown = _shown(tokens, config)
    position = len(shown) - 1 if config.position is None else config.position
    if position >= len(shown):
        raise UsageError(
            f"position {position} is not shown: the pictures have {len(shown)} tokens, from 0 on"
        )
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inspection = inspect_tokens(model, shown)
        losses = loss_by_position(model, tokens) if model.config.causal else None
        window = model.config.max_seq_length
        for name, draw in _pictures(inspection, losses, tokenizer, position, window):
            draw(folder / name)
            print(folder / name, flush=True)
    except OSError as error:
        raise UsageError(
            f"the pictures can't be written to {folder} ({error.strerror}): choose another --output"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    for sentence in _left_out(inspection, model.config.causal):
        print(sentence, file=sys.stderr, flush=True)


def _text(config: InspectionConfig) -> str:
    text = config.prompt
    if config.file is not None:
        try:
            text = Path(config.file).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            place = f"{config.file} is not UTF-8 text (byte {error.start})"
            raise UsageError(f"{place}: convert it or take another file") from error
        except OSError as error:
            raise UsageError(f"{config.file} can't be read ({error.strerror}): name a text file") from error
    if not text:
        raise UsageError(f"{config.file or 'the prompt'} is empty: there is nothing to look at, give a text")
    return text


def _shown(tokens: Tensor, config: InspectionConfig) -> Tensor:
    if config.file is not None:
        return tokens[: config.show]
    if len(tokens) > MAX_TOKENS:
        raise UsageError(
            f"the prompt has {len(tokens) - 1} tokens, and a picture shows {MAX_TOKENS - 1}: shorten it, or "
            "put it into a --file, of which the pictures show the beginning"
        )
    return tokens


def _pictures(
    inspection: Inspection, losses: LossByPosition | None, tokenizer: Tokenizer, position: int, window: int
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield names and plot functions of the pictures for which the mixers have values."""
    labels = plots.token_labels(tokenizer, inspection.tokens.tolist())
    have = {name for numbers in inspection.layers for name, part in vars(numbers).items() if part is not None}
    if "filter" in have:
        yield "filters.png", partial(plots.plot_filters, inspection, position)
    if "time_scale" in have:
        yield "time_scales.png", partial(plots.plot_time_scales, inspection, window)
    if "spectrum" in have:
        yield "spectra.png", partial(plots.plot_spectra, inspection, labels)
    for layer, numbers in enumerate(inspection.layers):
        if numbers.weights is not None:
            yield f"weights_layer_{layer}.png", partial(plots.plot_weights, inspection, layer, labels)
    if "weights" in have:
        yield "weights_of_a_token.png", partial(plots.plot_weights_at, inspection, position, labels)
    if losses is not None:
        rows = [vars(row) for row in losses.carried]
        yield "loss_by_position.png", partial(plot_loss_by_position, rows, window, losses.fresh)


def _left_out(inspection: Inspection, causal: bool) -> Iterator[str]:
    """Yield sentences about pictures that are missing."""
    fields = {"filter": "filters, time scales and spectra", "weights": "weights of tokens"}
    if not causal:
        fields["filter"] = "filters"
        yield (
            "left out: time scales, spectra over time and loss by position, because a bidirectional model "
            "reads a text all at once"
        )
    for field, names in fields.items():
        layers = zip(inspection.mixers, inspection.layers, strict=True)
        without = {mixer for mixer, numbers in layers if getattr(numbers, field) is None}
        if without:
            yield f"left out: {names} of the layers with {', '.join(sorted(without))}, which have none"
