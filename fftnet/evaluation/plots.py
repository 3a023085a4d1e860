"""Pictures, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COUNTED = 20
"""Classes of a confusion matrix whose counts are written into it."""
MAX_LABELS = 60
"""Classes that are named beside it; of more only some."""


def plot_losses(
    history: Sequence[Mapping[str, Any]], entropy_floor: float | None, path: Path, unit: str = "targets"
) -> None:
    """Draw training and validation loss over the steps, and the entropy of the data where it is known.

    Args:
        history: rows with ``step``, ``train_loss`` and ``loss``.
        entropy_floor: the lowest loss that is possible.
        path: of the PNG.
        unit: what the loss is a mean over.
    """
    figure, axes = _picture()
    steps = [row["step"] for row in history]
    axes.plot(steps, [row["train_loss"] for row in history], label="training", color="#8ab4d8")
    axes.plot(steps, [row["loss"] for row in history], label="validation", color="#1f4e79", marker=".")
    if entropy_floor is not None:
        label = "entropy of the data, the lowest possible"
        axes.axhline(entropy_floor, label=label, color="#c0504d", linestyle="--")
    axes.set(xlabel="step", ylabel=f"loss, mean over {unit}", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_loss_by_position(
    by_position: Sequence[Mapping[str, Any]], window: int, window_loss: float, path: Path
) -> None:
    """Draw the loss by position in the document: where it still falls beyond the window, context is used.

    Args:
        by_position: rows with ``first``, ``last`` and ``loss``, in nats per token.
        window: tokens of a training window.
        window_loss: nats per token where every window starts without a state.
        path: of the PNG.
    """
    figure, axes = _picture()
    middles = [(row["first"] + row["last"]) / 2 + 1 for row in by_position]
    losses = [row["loss"] for row in by_position]
    axes.plot(middles, losses, label="state carried from the start", color="#1f4e79", marker=".")
    label = f"fresh state every {window} tokens, on average"
    axes.axhline(window_loss, label=label, color="#8ab4d8", linestyle="--")
    axes.axvline(window, label="end of the training window", color="#c0504d", linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="position in the document, from 1", ylabel="nats per token")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str], path: Path) -> None:
    """Draw which class was taken for which: the part of each class's rows, and how many, where that fits.

    Args:
        confusion: (K, K) rows of class i that were taken for class j.
        class_names: K names.
        path: of the PNG.
    """
    figure, axes = _picture()
    size = len(class_names)
    side = min(max(4.2, 0.5 * size + 2), 16)
    figure.set_size_inches(side + 1, side)
    parts = [[count / max(sum(row), 1) for count in row] for row in confusion]
    shown = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, label="part of the class's rows")
    labelled = range(0, size, -(-size // MAX_LABELS))
    axes.set_xticks(labelled, [class_names[k] for k in labelled], rotation=90 if size > 4 else 0)
    axes.set_yticks(labelled, [class_names[k] for k in labelled])
    axes.set(xlabel="answer", ylabel="label")
    if size <= MAX_COUNTED:
        for i, row in enumerate(confusion):
            for j, count in enumerate(row):
                color = "white" if parts[i][j] > 0.5 else "black"
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=color)
    figure.savefig(path, dpi=120)


def _picture() -> tuple["Figure", "Axes"]:
    # Imported here because it takes a third of a second, which other commands need not wait for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    return figure, figure.subplots()
