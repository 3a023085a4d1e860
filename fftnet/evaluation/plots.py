"""Pictures, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def _picture() -> tuple["Figure", "Axes"]:
    # Imported here because it takes a third of a second, which other commands need not wait for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    return figure, figure.subplots()
