"""Pictures of what ``fftnet.evaluation.inspection`` computes, as PNG files.

Colours do not need red told from green: viridis for sizes, twilight for phases, which go in a circle, and the
palette of Okabe and Ito for heads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fftnet.evaluation.inspection import Inspection, MixerNumbers
from fftnet.metrics.plots import plain_ticks
from fftnet.utils.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TOKENS = 512
"""Tokens of a picture: with more of them, a token is less than a pixel or two."""
MAX_LABELS = 96
"""Tokens that are written out on an axis; where there are more, positions are."""
LONGEST_LABEL = 8
DPI = 130
GREY = "#888888"
HEAD_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HEAD_MARKERS = "osD^vP"
NAMES = {
    "addressed_spectral": "FFTNet (causal)",
    "causal_spectral": "FFTNet without keys",
    "spectral": "FFTNet (bidirectional)",
    "bidirectional_attention": "attention",
}
"""Name of a mixer in the configuration to its name in a title; the others have the same one."""
VISIBLE = {" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"}


def token_labels(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Tokens as short strings that can be seen: blanks as signs, what can't be drawn by its code."""
    # Imported here because it takes a third of a second, which other commands need not wait for.
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    labels = []
    for token in tokens:
        text = tokenizer.decode_bytes([token]).decode("utf-8", errors="backslashreplace")
        text = "".join(VISIBLE.get(sign, sign) for sign in text)
        drawn = "".join(
            sign if sign.isprintable() and font.get_char_index(ord(sign)) else f"U+{ord(sign):X}"
            for sign in text
        )
        cut = drawn if len(drawn) <= LONGEST_LABEL else f"{drawn[: LONGEST_LABEL - 1]}…"
        labels.append("<end>" if token == tokenizer.eot else cut)
    return labels


def plot_filters(inspection: Inspection, position: int, path: Path) -> None:
    """Draw the read filters over frequency: the base, and what the text has made of it.

    Args:
        inspection: with filters in some layer.
        position: of the token whose filter is drawn.
        path: of the PNG.
    """
    layers = _having(inspection, "filter")
    figure, grid = _grid(len(layers), _heads(layers[0][1].filter), (3.4, 2.3))
    dots: Any = None
    told = f"token {position}" if len(_part(layers[0][1].filter)) > 1 else "of this text"
    for row, (index, numbers) in zip(grid, layers, strict=True):
        filter_THF = _part(numbers.filter)
        of_token_HF = filter_THF[min(position, len(filter_THF) - 1)]
        for head, axes in enumerate(row):
            turns_F = _part(numbers.frequency)[head].abs()
            base_F = _part(numbers.base_filter)[head]
            size = torch.abs if filter_THF.is_complex() else torch.real
            axes.scatter(
                turns_F.numpy(), size(base_F).numpy(), s=24, facecolors="none", edgecolors=GREY, label="base"
            )
            style: dict[str, Any] = {"s": 22, "edgecolors": "black", "linewidths": 0.4, "label": told}
            if filter_THF.is_complex():
                style |= {
                    "c": of_token_HF[head].angle().numpy(),
                    "cmap": "twilight",
                    "vmin": -torch.pi,
                    "vmax": torch.pi,
                }
            else:
                style |= {"c": HEAD_COLOURS[0]}
            points = axes.scatter(turns_F.numpy(), size(of_token_HF[head]).numpy(), **style)
            dots = points if filter_THF.is_complex() else dots
            _log_frequency(axes, turns_F)
            axes.axhline(0, color=GREY, linewidth=0.6)
            axes.set_title(_title(inspection, index, head), fontsize=8)
            axes.grid(alpha=0.25)
        row[0].set_ylabel("size of the filter" if filter_THF.is_complex() else "filter, real", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("frequency, turns per token", fontsize=8)
    _legend(figure, grid[0][0])
    if dots is not None:
        figure.colorbar(dots, ax=[axes for row in grid for axes in row], label="phase, radians", shrink=0.8)
    _save(figure, "Read filters", path)


def plot_time_scales(inspection: Inspection, window: int, path: Path) -> None:
    """Draw every bin by the time in which it fades and the period in which it turns.

    Args:
        inspection: with time scales in some layer.
        window: tokens of a training window.
        path: of the PNG.
    """
    layers = _having(inspection, "time_scale")
    figure, ((*row,),) = _grid(1, len(layers), (3.8, 3.6))
    for axes, (index, numbers) in zip(row, layers, strict=True):
        time_scale_HF = _part(numbers.time_scale)
        period_HF = 1 / _part(numbers.frequency).abs().clamp(min=1e-9)
        for head in range(len(time_scale_HF)):
            style: dict[str, Any] = {
                "color": HEAD_COLOURS[head % len(HEAD_COLOURS)],
                "marker": HEAD_MARKERS[head % len(HEAD_MARKERS)],
            }
            x, y = time_scale_HF[head].numpy(), period_HF[head].numpy()
            axes.scatter(x, y, s=22, alpha=0.8, label=f"head {head}", **style)
        ends = [float(time_scale_HF.min()), float(time_scale_HF.max())]
        axes.plot(ends, ends, color=GREY, linewidth=0.8, label="turns once while it fades")
        axes.axvline(window, color=GREY, linestyle=":", label="training window")
        axes.set(xscale="log", yscale="log")
        axes.set_title(_title(inspection, index), fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            plain_ticks(axis)
            axis.set_tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    _outer_labels([row], "time scale, tokens", "period, tokens")
    _legend(figure, row[0])
    _save(figure, "Time scale and period of the bins", path)


def plot_spectra(inspection: Inspection, labels: Sequence[str], path: Path) -> None:
    """Draw the magnitude of the spectrum of every prefix: bins, from the shortest time scale up, by tokens.

    Args:
        inspection: with spectra in some layer.
        labels: of the tokens.
        path: of the PNG.
    """
    layers = _having(inspection, "spectrum")
    width = _width(len(labels))
    figure, grid = _grid(len(layers), _heads(layers[0][1].spectrum), (width, 2.6))
    for row, (index, numbers) in zip(grid, layers, strict=True):
        for head, axes in enumerate(row):
            order = _part(numbers.time_scale)[head].argsort()
            image = axes.imshow(
                _part(numbers.spectrum)[:, head, order].T.numpy(),
                aspect="auto",
                origin="lower",
                cmap="viridis",
                interpolation="nearest",
            )
            figure.colorbar(image, ax=axes, label="|Z|", pad=0.01)
            shown = range(0, len(order), max(1, len(order) // 6))
            scales = _part(numbers.time_scale)[head, order][shown].tolist()
            axes.set_yticks(
                list(shown),
                [f"{scale:,.0f}" if scale >= 10 else f"{scale:.2g}" for scale in scales],
                fontsize=7,
            )
            _token_axis(axes.xaxis, labels)
            axes.set_title(_title(inspection, index, head), fontsize=8)
    _outer_labels(grid, _axis_name(labels), "bin's time scale, tokens")
    _save(figure, "Spectrum of the prefix", path)


def plot_weights(inspection: Inspection, layer: int, labels: Sequence[str], path: Path) -> None:
    """Draw what every token reads: its shares of the tokens that it sees, a picture for each head.

    Args:
        inspection: with weights in that layer.
        layer: index of the layer.
        labels: of the tokens.
        path: of the PNG.
    """
    share_HTT = shares(_part(inspection.layers[layer].weights))
    width = _width(len(labels))
    figure, ((*row,),) = _grid(1, len(share_HTT), (width, width))
    sees_TT = _sees(share_HTT)
    image: Any = None
    for head, axes in enumerate(row):
        seen = share_HTT[head].masked_fill(~sees_TT, torch.nan)
        image = _share_image(axes, seen)
        _token_axis(axes.xaxis, labels)
        _token_axis(axes.yaxis, labels)
        axes.set_title(_title(inspection, layer, head), fontsize=9)
    _outer_labels([row], f"is read: {_axis_name(labels)}", f"reads: {_axis_name(labels)}")
    figure.colorbar(image, ax=row, label="share of what is read", extend="max", shrink=0.8, pad=0.01)
    _save(figure, "Weights of the tokens that each token reads", path)


def plot_weights_at(inspection: Inspection, position: int, labels: Sequence[str], path: Path) -> None:
    """Draw what one token reads, a row for each layer and head.

    Args:
        inspection: with weights in some layer.
        position: of the token that reads.
        labels: of the tokens.
        path: of the PNG.
    """
    rows = []
    names = []
    last = position
    for index, numbers in _having(inspection, "weights"):
        share_HTT = shares(_part(numbers.weights))
        last = max(last, int(_sees(share_HTT)[position].nonzero().max()))
        for head, share_T in enumerate(share_HTT[:, position]):
            rows.append(share_T)
            names.append(f"layer {index}, head {head}")
    read = labels[: last + 1]
    figure, (((axes),),) = _grid(1, 1, (max(4.5, _width(len(read))) + 1.2, 0.34 * len(rows) + 1.3))
    image = _share_image(axes, torch.stack(rows)[:, : last + 1])
    _token_axis(axes.xaxis, read)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel(_axis_name(read))
    token = labels[position]
    axes.set_title(f"token {position} “{token}”", fontsize=9, parse_math=False)
    figure.colorbar(image, ax=axes, label="share", extend="max", pad=0.01)
    _save(figure, "Weights of the tokens that one token reads", path)


def shares(weights: Tensor) -> Tensor:
    """Weights (..., T) without signs, in proportion to their sum: what is read is normed afterwards."""
    size = weights.abs()
    return size / size.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def _sees(share_HTT: Tensor) -> Tensor:
    """Whether a token sees another, (T, T): all of them, or of a causal mixer itself and the earlier ones."""
    everything_TT = torch.ones(share_HTT.shape[1:], dtype=torch.bool)
    return everything_TT if share_HTT.triu(1).any() else everything_TT.tril()


def _share_image(axes: "Axes", share: Tensor) -> Any:
    from matplotlib.colors import PowerNorm

    # Most shares are small: the root shows them, and the largest, as of the first tokens, leave the scale.
    most = max(float(share[~share.isnan()].quantile(0.99)), 1e-6)
    norm = PowerNorm(0.5, vmin=0, vmax=most)
    return axes.imshow(share.numpy(), aspect="auto", cmap="viridis", norm=norm, interpolation="nearest")


def _having(inspection: Inspection, field: str) -> list[tuple[int, MixerNumbers]]:
    return [
        (index, numbers)
        for index, numbers in enumerate(inspection.layers)
        if getattr(numbers, field) is not None
    ]


def _part(x: Tensor | None) -> Tensor:
    assert x is not None
    return x


def _heads(x: Tensor | None) -> int:
    return _part(x).shape[1]


def _grid(rows: int, columns: int, panel: tuple[float, float]) -> tuple["Figure", list[list["Axes"]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * columns + 0.6, panel[1] * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _width(tokens: int) -> float:
    """Inches of a panel with so many tokens, enough to write them out where they are."""
    return min(max(0.1 * tokens, 3.2), 9.6)


def _title(inspection: Inspection, layer: int, head: int | None = None) -> str:
    mixer = inspection.mixers[layer]
    part = "" if head is None else f", head {head}"
    return f"layer {layer}{part}, {NAMES.get(mixer, mixer)}"


def _axis_name(labels: Sequence[str]) -> str:
    return "token" if len(labels) <= MAX_LABELS else "position, tokens"


def _token_axis(axis: Any, labels: Sequence[str]) -> None:
    if len(labels) > MAX_LABELS:
        axis.set_tick_params(labelsize=7)
        return
    # A dollar is a dollar, not the beginning of a formula.
    axis.set_ticks(range(len(labels)), labels, fontsize=6, parse_math=False)
    axis.set_tick_params(length=0, pad=1)
    if axis.axis_name == "x":
        for tick, label in zip(axis.get_ticklabels(), labels, strict=True):
            tick.set_rotation(90 if len(label) > 1 else 0)


def _log_frequency(axes: "Axes", turns_F: Tensor) -> None:
    """A logarithmic axis for learned frequencies, which span decades; a linear one for those of a grid."""
    if float(turns_F.min()) > 0:
        axes.set_xscale("log")
        # Within whole decades the labels of their parts do not overlap.
        axes.set_xlim(float(10 ** turns_F.min().log10().floor()), float(10 ** turns_F.max().log10().ceil()))
        plain_ticks(axes.xaxis)
        axes.tick_params(labelsize=8)


def _outer_labels(grid: Sequence[Sequence["Axes"]], x: str, y: str) -> None:
    for axes in grid[-1]:
        axes.set_xlabel(x, fontsize=8)
    for row in grid:
        row[0].set_ylabel(y, fontsize=8)


def _legend(figure: "Figure", axes: "Axes") -> None:
    """Above all panels, where it covers nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), fontsize=7)


def _save(figure: "Figure", title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=DPI)
