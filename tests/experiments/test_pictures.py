"""Tables and pictures of the report as a reader sees them: names of layers, titles, and plain ticks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments import EXPERIMENTS, pictures, results
from experiments import __main__ as command
from experiments.report import experiment_class


def test_tables_and_legends_name_layers_as_the_readme_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    shutil.copy(results.RESULTS / "recall.jsonl", tmp_path)
    assert command.main(["report", "--results", str(tmp_path), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "results.md").read_text()
    for name in ("FFTNet", "FFTNet without keys", "attention", "GRU"):
        assert f"\n| {name} | " in page
    assert "addressed" not in page
    assert "causal_spectral" not in page
    assert [figure.get_suptitle() for figure in figures] == ["Associative recall"] * 2
    rates, state = ([text.get_text() for text in figure.legends[0].get_texts()] for figure in figures)
    assert {"attention", "FFTNet", "FFTNet without keys", "FFTNet, 4 bins", "GRU"} <= set(rates)
    assert {"attention (state grows)", "FFTNet", "FFTNet without keys"} <= set(state)
    # Five panels in two rows, so that a page does not shrink them to nothing.
    assert len({round(axes.get_position().y0, 2) for axes in figures[1].axes}) == 2


def test_no_two_arms_of_an_experiment_have_one_name() -> None:
    for name in EXPERIMENTS:
        experiment = experiment_class(name)()
        labels = [experiment.label(arm) for arm in experiment.arms_table]
        assert len(set(labels)) == len(labels)
    encoders = experiment_class("lra")()
    assert encoders.label("spectral") == "FFTNet (bidirectional)"
    assert encoders.label("addressed") == "FFTNet (causal)"


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.45, 15, ["0.5", "1", "2", "5", "10"]),
        (900, 30_000, ["1,000", "2,000", "5,000", "10k", "20k"]),
        (90_000, 3e6, ["100k", "200k", "500k", "1M", "2M"]),
    ],
)
def test_a_wide_axis_has_plain_numbers(low: float, high: float, labels: list[str]) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_xlim(low, high)
    pictures.widen(axes)
    figure.draw_without_rendering()
    ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert [tick.label1.get_text() for tick in ticks] == labels
