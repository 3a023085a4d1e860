"""Plots of the numbers of ``fftnet.evaluation.inspection``, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fftnet.evaluation.inspection import Inspection
from fftnet.metrics.plots import plain_ticks
from fftnet.utils.tokenizer import Tokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TOKENS = 512
"""Maximum number of tokens of a plot: with more, a token is less than a pixel or two."""
MAX_LABELS = 96
"""Maximum number of tokens that an axis writes out; with more, it shows positions."""
LONGEST_LABEL = 8
GREY = "#888888"
# Colour-blind readers can tell these apart, and the maps viridis for sizes and twilight for phases.
HEAD_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HEAD_MARKERS = "osD^vP"
NAMES = {
    "addressed_spectral": "FFTNet (causal)",
    "delta_spectral": "FFTNet (causal, delta rule)",
    "spectral": "FFTNet (bidirectional)",
    "bidirectional_attention": "attention",
}
"""Mixer to its name in titles, if that differs."""
VISIBLE = {" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"}


def token_labels(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Return tokens as short visible strings: signs for blanks, codes for what the font can't draw."""
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
    """Plot the read filter of the token at ``position`` over frequency, and the base filter."""
    layers = _having(inspection, "filter")
    figure, grid = _grid(len(layers), layers[0][1].filter.shape[1], (3.4, 2.3))
    phases: Any = None
    label = f"token {position}" if len(layers[0][1].filter) > 1 else "of this text"
    for row, (index, numbers) in zip(grid, layers, strict=True):
        has_phase = numbers.filter.is_complex()
        size = torch.abs if has_phase else torch.real
        # A bidirectional layer has one filter for the whole text.
        filter_HF = numbers.filter[min(position, len(numbers.filter) - 1)]
        for head, axes in enumerate(row):
            turns_F = numbers.frequency[head].abs()
            base_F = size(numbers.base_filter[head]).numpy()
            axes.scatter(turns_F.numpy(), base_F, s=24, facecolors="none", edgecolors=GREY, label="base")
            style: dict[str, Any] = {"c": HEAD_COLOURS[0]}
            if has_phase:
                style = {"c": filter_HF[head].angle().numpy(), "cmap": "twilight"}
                style |= {"vmin": -torch.pi, "vmax": torch.pi}
            style |= {"s": 22, "edgecolors": "black", "linewidths": 0.4, "label": label}
            points = axes.scatter(turns_F.numpy(), size(filter_HF[head]).numpy(), **style)
            phases = points if has_phase else phases
            _log_frequency(axes, turns_F)
            axes.axhline(0, color=GREY, linewidth=0.6)
            axes.set_title(_title(inspection, index, head), fontsize=8)
            axes.grid(alpha=0.25)
        row[0].set_ylabel("size of the filter" if has_phase else "filter, real", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("frequency, turns per token", fontsize=8)
    _legend(figure, grid[0][0])
    if phases is not None:
        figure.colorbar(phases, ax=[axes for row in grid for axes in row], label="phase, radians", shrink=0.8)
    _save(figure, "Read filters", path)


def plot_time_scales(inspection: Inspection, window: int, path: Path) -> None:
    """Plot every bin by its time scale and its period; ``window`` is the length of a training window."""
    layers = _having(inspection, "time_scale")
    figure, ((*row,),) = _grid(1, len(layers), (3.8, 3.6))
    for axes, (index, numbers) in zip(row, layers, strict=True):
        scale_HF = numbers.time_scale
        period_HF = 1 / numbers.frequency.abs().clamp(min=1e-9)
        for head, (x_F, y_F) in enumerate(zip(scale_HF, period_HF, strict=True)):
            style: dict[str, Any] = {"s": 22, "alpha": 0.8, "marker": HEAD_MARKERS[head % len(HEAD_MARKERS)]}
            style["color"] = HEAD_COLOURS[head % len(HEAD_COLOURS)]
            axes.scatter(x_F.numpy(), y_F.numpy(), label=f"head {head}", **style)
        # On this line a bin turns once while it fades; below it, more often.
        ends = [float(scale_HF.min()), float(scale_HF.max())]
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
    """Plot the magnitude of the spectrum of every prefix: bins, sorted by time scale, over tokens."""
    layers = _having(inspection, "spectrum")
    figure, grid = _grid(len(layers), layers[0][1].spectrum.shape[1], (_width(len(labels)), 2.6))
    for row, (index, numbers) in zip(grid, layers, strict=True):
        for head, axes in enumerate(row):
            # Neighbouring rows then have similar time scales.
            scale_F, order_F = numbers.time_scale[head].sort()
            shown_FT = numbers.spectrum[:, head, order_F].T.numpy()
            image = axes.imshow(
                shown_FT, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest"
            )
            figure.colorbar(image, ax=axes, label="|Z|", pad=0.01)
            ticks = range(0, len(scale_F), max(1, len(scale_F) // 6))
            scales = [float(scale_F[tick]) for tick in ticks]
            names = [f"{scale:,.0f}" if scale >= 10 else f"{scale:.2g}" for scale in scales]
            axes.set_yticks(list(ticks), names, fontsize=7)
            _token_axis(axes.xaxis, labels)
            axes.set_title(_title(inspection, index, head), fontsize=8)
    _outer_labels(grid, _axis_name(labels), "bin's time scale, tokens")
    _save(figure, "Spectrum of the prefix", path)


def plot_weights(inspection: Inspection, layer: int, labels: Sequence[str], path: Path) -> None:
    """Plot the shares that every token of a layer reads of the others, a panel for each head."""
    ((_, numbers),) = [found for found in _having(inspection, "weights") if found[0] == layer]
    share_HTT = shares(numbers.weights)
    width = _width(len(labels))
    figure, ((*row,),) = _grid(1, len(share_HTT), (width, width))
    hidden_TT = ~_sees(share_HTT)
    image: Any = None
    for head, axes in enumerate(row):
        image = _share_image(axes, share_HTT[head].masked_fill(hidden_TT, torch.nan))
        _token_axis(axes.xaxis, labels)
        _token_axis(axes.yaxis, labels)
        axes.set_title(_title(inspection, layer, head), fontsize=9)
    _outer_labels([row], f"is read: {_axis_name(labels)}", f"reads: {_axis_name(labels)}")
    figure.colorbar(image, ax=row, label="share of what is read", extend="max", shrink=0.8, pad=0.01)
    _save(figure, "Weights of the tokens that each token reads", path)


def plot_weights_at(inspection: Inspection, position: int, labels: Sequence[str], path: Path) -> None:
    """Plot the shares that the token at ``position`` reads, a row for each layer and head."""
    rows: dict[str, Tensor] = {}
    # Tokens after the last one that any layer reads are left out of the axis.
    last = position
    for index, numbers in _having(inspection, "weights"):
        share_HTT = shares(numbers.weights)
        last = max(last, int(_sees(share_HTT)[position].nonzero().max()))
        rows |= {f"layer {index}, head {head}": share_TT[position] for head, share_TT in enumerate(share_HTT)}
    read = labels[: last + 1]
    figure, (((axes),),) = _grid(1, 1, (max(4.5, _width(len(read))) + 1.2, 0.34 * len(rows) + 1.3))
    image = _share_image(axes, torch.stack(list(rows.values()))[:, : last + 1])
    _token_axis(axes.xaxis, read)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set_xlabel(_axis_name(read))
    axes.set_title(f"token {position} “{labels[position]}”", fontsize=9, parse_math=False)
    figure.colorbar(image, ax=axes, label="share", extend="max", pad=0.01)
    _save(figure, "Weights of the tokens that one token reads", path)


def shares(weights: Tensor) -> Tensor:
    """Return weights (..., T) without signs, divided by their sum."""
    # The mixers normalize their outputs, so that only proportions matter.
    size = weights.abs()
    return size / size.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def _sees(share_HTT: Tensor) -> Tensor:
    """Return a mask (T, T) of the tokens that a token can read: in a causal mixer itself and earlier ones."""
    everything_TT = torch.ones(share_HTT.shape[1:], dtype=torch.bool)
    return everything_TT if share_HTT.triu(1).any() else everything_TT.tril()


def _share_image(axes: "Axes", share: Tensor) -> Any:
    from matplotlib.colors import PowerNorm

    # Most shares are small: a square root shows them, and the largest, those of the first tokens, are cut.
    most = max(float(share[~share.isnan()].quantile(0.99)), 1e-6)
    norm = PowerNorm(0.5, vmin=0, vmax=most)
    return axes.imshow(share.numpy(), aspect="auto", cmap="viridis", norm=norm, interpolation="nearest")


def _having(inspection: Inspection, field: str) -> list[tuple[int, Any]]:
    """Return index and numbers of the layers that have a number."""
    return [
        (index, numbers)
        for index, numbers in enumerate(inspection.layers)
        if getattr(numbers, field) is not None
    ]


def _grid(rows: int, columns: int, panel: tuple[float, float]) -> tuple["Figure", list[list["Axes"]]]:
    """Return a figure with panels of a width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * columns + 0.6, panel[1] * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _width(tokens: int) -> float:
    """Return the width of a panel in inches that leaves room for the labels of its tokens."""
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
    # A dollar in a text must not begin a formula.
    axis.set_ticks(range(len(labels)), labels, fontsize=6, parse_math=False)
    axis.set_tick_params(length=0, pad=1)
    if axis.axis_name == "x":
        for tick, label in zip(axis.get_ticklabels(), labels, strict=True):
            tick.set_rotation(90 if len(label) > 1 else 0)


def _log_frequency(axes: "Axes", turns_F: Tensor) -> None:
    """Set a logarithmic axis for learned frequencies, which span decades; those of a grid include 0."""
    if float(turns_F.min()) > 0:
        axes.set_xscale("log")
        # Limits at whole decades keep the labels of minor ticks apart.
        axes.set_xlim(float(10 ** turns_F.min().log10().floor()), float(10 ** turns_F.max().log10().ceil()))
        plain_ticks(axes.xaxis)
        axes.tick_params(labelsize=8)


def _outer_labels(grid: Sequence[Sequence["Axes"]], x: str, y: str) -> None:
    """Label the axes at the left and at the bottom of a grid."""
    for axes in grid[-1]:
        axes.set_xlabel(x, fontsize=8)
    for row in grid:
        row[0].set_ylabel(y, fontsize=8)


def _legend(figure: "Figure", axes: "Axes") -> None:
    # Above all panels it covers nothing.
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), fontsize=7)


def _save(figure: "Figure", title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
