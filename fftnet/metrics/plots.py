"""Plots of losses and of confusion matrices, as PNG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure


def plot_losses(
    history: Sequence[Mapping[str, Any]],
    entropy_floor: float | None,
    path: Path,
    unit: str = "targets",
    logged: Sequence[Sequence[float]] = (),
) -> None:
    """Plot training and validation loss over the steps, and pairs of step and loss of single steps."""
    figure, axes = _picture("Training and validation loss")
    # Single steps come first, so that the means are drawn over them.
    if logged:
        axes.plot(*zip(*logged, strict=True), label="training, single steps", color="#a9c7e4", linewidth=0.7)
    steps = [row["step"] for row in history]
    label = "training, mean since the last evaluation"
    axes.plot(steps, [row["train_loss"] for row in history], label=label, color="#5b93c7", marker=".")
    axes.plot(steps, [row["loss"] for row in history], label="validation", color="#1f4e79", marker=".")
    if entropy_floor is not None:
        label = "entropy of the data, the lowest possible"
        axes.axhline(entropy_floor, label=label, color="#c0504d", linestyle="--")
    axes.set(xlabel="step", ylabel=f"loss, mean over {unit}", yscale="log")
    plain_ticks(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_loss_by_position(
    by_position: Sequence[Mapping[str, Any]], window: int, window_loss: float, path: Path
) -> None:
    """Plot nats per token by position; a fall beyond the window shows the use of long context."""
    figure, axes = _picture("Loss by position in the document")
    # Each range is drawn at its middle. Positions from 1: a logarithm has no 0.
    middles = [(row["first"] + row["last"]) / 2 + 1 for row in by_position]
    losses = [row["loss"] for row in by_position]
    axes.plot(middles, losses, label="state carried from the start", color="#1f4e79", marker=".")
    label = f"fresh state every {window} tokens, on average"
    axes.axhline(window_loss, label=label, color="#8ab4d8", linestyle="--")
    axes.axvline(window, label="end of the training window", color="#c0504d", linestyle=":")
    axes.set(xlabel="position in the document, from 1", ylabel="nats per token")
    axes.set_xscale("log", base=2)
    plain_ticks(axes.xaxis, base=2)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str], path: Path) -> None:
    """Plot the share of each true class's rows (first index) by predicted class, and small counts."""
    figure, axes = _picture("Confusion matrix")
    size = len(class_names)
    side = min(max(4.2, 0.5 * size + 2), 16)
    figure.set_size_inches(side + 1, side)
    parts = [[count / max(sum(row), 1) for count in row] for row in confusion]
    shown = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, label="share of the true class's rows")
    # At most 60 classes are named, and the counts of at most 20 are readable.
    labelled = range(0, size, -(-size // 60))
    axes.set_xticks(labelled, [class_names[k] for k in labelled], rotation=90 if size > 4 else 0)
    axes.set_yticks(labelled, [class_names[k] for k in labelled])
    axes.set(xlabel="predicted", ylabel="true")
    if size <= 20:
        for i, row in enumerate(confusion):
            for j, count in enumerate(row):
                # Readable on dark and on light cells.
                color = "white" if parts[i][j] > 0.5 else "black"
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=color)
    figure.savefig(path, dpi=120)


def plain_ticks(axis: "XAxis | YAxis", base: int = 10) -> None:
    """Label a logarithmic axis of finished data with plain numbers: 1.5 and 20,000, not 2 x 10^4."""
    # Matplotlib is imported late: it takes a third of a second, which other commands need not wait for.
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    # Labels side by side need more room than those above each other.
    most_ticks, most_decades = (7, 2.5) if axis.axis_name == "x" else (12, 4)
    if base == 10 and decades < 1:
        locator = MaxNLocator(most_ticks // 2 + 1, steps=[1, 2, 5, 10])
    elif base == 10 and decades < most_decades:
        locator = LogLocator(subs=(1.0, 2.0, 5.0), numticks=most_ticks)
    else:
        locator = LogLocator(base=base, numticks=most_ticks)
    axis.set_major_locator(locator)
    axis.set_major_formatter(lambda x, _: plain_number(x))
    axis.set_minor_locator(NullLocator())


def plain_number(value: float) -> str:
    """Write a number without an exponent: ``0.00002``, ``1.5`` or ``20,000``."""
    return f"{value:,.9f}".rstrip("0").rstrip(".")


def _picture(title: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes
