"""Pictures that several experiments draw, and the colours of the models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from experiments.base import FINISHED
from experiments.models import MODELS
from experiments.results import Line
from fftnet.metrics.plots import plain_number, plain_ticks

if TYPE_CHECKING:
    from experiments.base import Experiment

COLOURS = {
    "addressed": "#1f4e79",
    "spectral": "#4b8bbe",
    "attention": "#e0902f",
    "gated_linear_matched": "#c0504d",
    "min_gru": "#8064a2",
    "gru": "#4d4d4d",
    "gated_linear": "#e6a5a3",
    "attention_matched": "#f2c88f",
    "addressed_4": "#b9d3ea",
    "addressed_8": "#8ab4d8",
    "addressed_32": "#12a5a5",
    "gated_linear_8": "#d8d8d8",
    "gated_linear_64": "#8c2f2c",
    "fnet": "#9a9a9a",
    "5 anchors": "#c9a227",
    "129 anchors": "#2d9d78",
    "spectral with attention": "#b5478f",
    "spectral with addresses": "#6c71c4",
    "spectral with three addressed": "#7b5b3a",
}
"""Model to colour. Models that are not named take them in turn, except for those of ``WHOLE``."""
WHOLE = ("addressed", "spectral")
"""Layers of the ablations, whose colours must differ from those of the layers without a part."""
COLUMNS = 3
"""Largest number of panels next to each other; with more their text is too small on a page."""


def colour(model: str) -> str:
    """Return the colour of a model, the same in every picture."""
    if model in COLOURS:
        return COLOURS[model]
    others = [name for name in MODELS if name not in COLOURS]
    # Models without a colour of their own take those of others, which are in other pictures.
    spare = [found for name, found in COLOURS.items() if name not in WHOLE]
    return spare[others.index(model) % len(spare)]


def panels(count: int, width: float = 3.4, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a picture and its panels, in rows of at most ``COLUMNS`` and of equal length if possible."""
    # Rounded up; then as many columns as fill all rows evenly.
    rows = -(-count // COLUMNS)
    columns = -(-count // rows)
    figure = Figure(figsize=(max(width * columns, 6.0), height * rows), layout="constrained")
    found = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    # The last row may have empty places.
    for axes in found[count:]:
        axes.remove()
    for axes in found[:count]:
        axes.grid(alpha=0.3)
    return figure, found[:count]


def widen(axes: Axes) -> None:
    """Make the axis of x logarithmic, with numbers such as 0.5, 2,000 and 2M."""
    # State sizes, tokens and seconds span several orders of magnitude.
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    large = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(lambda x, _: large(x) if x >= 10_000 else plain_number(x))


def legend(figure: Figure) -> None:
    """Add one legend for all panels next to them."""
    found = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        width, height = figure.get_size_inches()
        # Wider by the longest label in the small font, with its marker.
        figure.set_size_inches(width + 0.6 + 0.06 * max(map(len, found)), height)
        figure.legend(list(found.values()), list(found), loc="outside right upper", fontsize="x-small")


def over_learning_rates(experiment: "Experiment", lines: Sequence[Line], score: str) -> dict[str, Figure]:
    """Draw the scores of the sweep: a panel for each case, a curve for each model and weight decay.

    Returns:
        The picture by its name, without cases that have one learning rate only; or an empty dictionary.
    """
    cases = [
        case
        for case in experiment.cases
        if experiment.reported(lines, case)
        and len({line["learning_rate"] for line in lines if line["case"] == case}) > 1
    ]
    if not cases:
        return {}
    figure, found = panels(len(cases), width=4.6, height=3.8)
    first, *others = experiment.sweep.weight_decays
    for axes, case in zip(found, cases, strict=False):
        # Ticks at the learning rates that were run.
        shown = set()
        for model in experiment.reported(lines, case):
            for decay in (first, *others):
                rows = [
                    line
                    for line in experiment.swept(lines, model, case)
                    if line["weight_decay"] == decay and line["outcome"] == FINISHED
                ]
                rates = [line["learning_rate"] for line in rows]
                shown |= set(rates)
                axes.plot(
                    rates,
                    [experiment.score(line) for line in rows],
                    "-" if decay == first else "--",
                    marker="o",
                    markersize=4,
                    markerfacecolor=colour(model) if decay == first else "white",
                    color=colour(model),
                    label=experiment.label(model) if decay == first else None,
                )
        hollow = "".join(f"; hollow: weight decay {decay:g}" for decay in others)
        axes.set(xscale="log", xlabel=f"peak learning rate{hollow}", ylabel=score, title=case)
        axes.set_xticks(sorted(shown), [f"{rate:g}" for rate in sorted(shown)])
        axes.xaxis.set_minor_formatter(NullFormatter())
    legend(figure)
    return {"learning_rates": figure}
