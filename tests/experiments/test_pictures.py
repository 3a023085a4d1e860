"""The report as a reader sees it: the committed page, names of layers, titles, plain ticks."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments import EXPERIMENTS, models, pictures
from experiments import __main__ as command
from experiments.report import experiment_class


def test_the_stored_lines_give_the_committed_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Any] = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.update({path.name: figure}))
    assert command.main(["report", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    committed = (command.DOCS / "results.md").read_text(encoding="utf-8")
    assert page == committed, "run `python -m experiments report`"
    assert set(figures) == {path.name for path in (command.DOCS / "results").glob("*.png")}
    assert "addressed" not in page
    rates, state = (figures[f"recall_{name}.png"] for name in ("learning_rates", "state"))
    assert rates.get_suptitle() == "Associative recall"
    shown = [{text.get_text() for text in figure.legends[0].get_texts()} for figure in (rates, state)]
    assert {"attention", "FFTNet", "gated linear", "FFTNet, 4 bins", "GRU"} <= shown[0]
    assert {"attention (state grows)", "FFTNet", "gated linear"} <= shown[1]
    # Five panels in two rows, so that a page does not shrink them to nothing.
    assert len({round(axes.get_position().y0, 2) for axes in state.axes}) == 2


def test_no_two_models_of_an_experiment_have_one_name() -> None:
    for name in EXPERIMENTS:
        experiment = experiment_class(name)()
        labels = [experiment.label(model) for model in models.MODELS]
        assert len(set(labels)) == len(labels)
    classification = experiment_class("lra")()
    assert classification.label("spectral") == "FFTNet (bidirectional)"
    assert classification.label("addressed") == "FFTNet (causal)"


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
