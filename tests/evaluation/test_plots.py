"""Plots: titles, names of axes and lines, and plain numbers on the ticks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from models import make

from fftnet.evaluation import inspection_plots
from fftnet.evaluation.inspection import inspect_tokens
from fftnet.metrics.plots import plain_ticks, plot_confusion, plot_loss_by_position, plot_losses

HISTORY = [{"step": step, "train_loss": 40 / step, "loss": 44 / step} for step in range(10, 60, 10)]
NOWHERE = Path("unused.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that receives figures instead of files."""
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    return figures


def tick_labels(axis: Any) -> list[str]:
    """Return the labels of the ticks that lie on the axis."""
    axis.get_figure().draw_without_rendering()
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]


@pytest.mark.parametrize(
    ("side", "low", "high", "labels"),
    [
        ("y", 0.9, 3.6, ["1", "1.5", "2", "2.5", "3", "3.5"]),
        ("y", 1.25, 1.33, ["1.26", "1.28", "1.3", "1.32"]),
        ("y", 0.019, 3, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ("y", 2, 3000, ["2", "5", "10", "20", "50", "100", "200", "500", "1,000", "2,000"]),
        ("y", 2, 30_000, ["10", "100", "1,000", "10,000"]),
        ("x", 0.9, 3.6, ["1", "2", "3"]),
        ("x", 0.019, 3, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ("x", 2, 3000, ["10", "100", "1,000"]),
        ("x", 9e-6, 2, ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_a_logarithmic_axis_has_plain_numbers(side: str, low: float, high: float, labels: list[str]) -> None:
    axes = Figure().subplots()
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    plain_ticks(axis)
    assert tick_labels(axis) == labels


def test_the_loss_plot_has_a_thin_line_of_single_steps_under_the_means(drawn: list[Any]) -> None:
    logged = [[step, 42 / step] for step in range(2, 52, 2)]
    plot_losses(HISTORY, 0.5, NOWHERE, "tokens", logged)
    axes = drawn[0].axes[0]
    single, mean, validation, floor = axes.get_lines()
    assert single.get_xydata().tolist() == logged
    assert single.get_linewidth() < mean.get_linewidth()
    assert mean.get_ydata().tolist() == [row["train_loss"] for row in HISTORY]
    assert validation.get_ydata().tolist() == [row["loss"] for row in HISTORY]
    assert list(floor.get_ydata()) == [0.5, 0.5]
    assert axes.get_title() == "Training and validation loss"
    assert tick_labels(axes.yaxis) == ["0.5", "1", "2", "5", "10", "20"]


def test_positions_are_written_in_full_and_the_confusion_matrix_names_its_sides(drawn: list[Any]) -> None:
    rows = [{"first": 2**n - 1, "last": 2 ** (n + 1) - 2, "loss": 2 - 0.1 * n} for n in range(11)]
    plot_loss_by_position(rows, 64, 1.5, NOWHERE)
    axes = drawn[0].axes[0]
    assert axes.get_title() == "Loss by position in the document"
    assert {"1", "16", "1,024"} <= set(tick_labels(axes.xaxis))
    plot_confusion([[3, 1], [0, 2]], ["cat", "dog"], NOWHERE)
    axes = drawn[1].axes[0]
    names = (axes.get_title(), axes.get_ylabel(), axes.get_xlabel())
    assert names == ("Confusion matrix", "true", "predicted")
    # Row 0, the true cats: one was taken for a dog.
    assert {text.get_position(): text.get_text() for text in axes.texts}[1, 0] == "1"


def test_inspection_pictures_have_titles_and_the_names_of_layers(drawn: list[Any]) -> None:
    model = make(num_layers=1).float()
    tokens = torch.arange(9)
    seen = inspect_tokens(model, tokens)
    labels = [str(token) for token in tokens.tolist()]
    inspection_plots.plot_filters(seen, 8, NOWHERE)
    inspection_plots.plot_time_scales(seen, 16, NOWHERE)
    inspection_plots.plot_spectra(seen, labels, NOWHERE)
    inspection_plots.plot_weights(seen, 0, labels, NOWHERE)
    inspection_plots.plot_weights_at(seen, 8, labels, NOWHERE)
    titles = [figure.get_suptitle() for figure in drawn]
    assert len(set(titles)) == 5
    assert all(titles)
    filters, time_scales, spectra, weights, _ = drawn
    for figure in (filters, spectra, weights):
        assert figure.axes[0].get_title() == "layer 0, head 0, FFTNet (causal)"
    assert time_scales.axes[0].get_title() == "layer 0, FFTNet (causal)"
    for axis in (filters.axes[0].xaxis, time_scales.axes[0].xaxis, time_scales.axes[0].yaxis):
        assert [label for label in tick_labels(axis) if "$" in label or "e" in label] == []
