"""Pictures that several experiments draw."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from experiments.arms import ARMS
from experiments.base import FINISHED
from experiments.encoders import ENCODERS
from experiments.results import Line

if TYPE_CHECKING:
    from experiments.base import Experiment

COLOURS = (
    "#e0902f",
    "#8ab4d8",
    "#4b8bbe",
    "#7a9a4e",
    "#b5c98f",
    "#c0504d",
    "#e6a5a3",
    "#d67c79",
    "#8c2f2c",
    "#1f4e79",
    "#8064a2",
    "#9a9a9a",
)
"""Given to the arms in the order of their table."""


def colour(arm: str) -> str:
    """The colour of an arm, the same in every picture."""
    return COLOURS[list(dict.fromkeys([*ARMS, *ENCODERS])).index(arm) % len(COLOURS)]


def panels(count: int, width: float = 3.4, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A picture with so many panels beside each other."""
    figure = Figure(figsize=(max(width * count, 6.0), height), layout="constrained")
    found = figure.subplots(1, count, squeeze=False)[0]
    for axes in found:
        axes.grid(alpha=0.3)
    return figure, list(found)


def widen(axes: Axes) -> None:
    """Make the axis of x logarithmic, with numbers such as 2 M at 1, 2 and 5 of each power of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def over_learning_rates(experiment: "Experiment", lines: Sequence[Line], score: str) -> Figure:
    """The score of every run of the sweep: a panel for each case, a curve for each arm and weight decay."""
    cases = [case for case in experiment.cases if experiment.reported(lines, case)]
    figure, found = panels(max(len(cases), 1), width=4.6, height=3.8)
    for axes, case in zip(found, cases, strict=False):
        for arm in experiment.reported(lines, case):
            for decay in experiment.sweep.weight_decays:
                rows = [
                    line
                    for line in experiment.swept(lines, arm, case)
                    if line["weight_decay"] == decay and line["outcome"] == FINISHED
                ]
                rates = [line["learning_rate"] for line in rows]
                style = "--" if decay == 0 else "-"
                label = arm if len(experiment.sweep.weight_decays) == 1 else f"{arm}, decay {decay:g}"
                axes.plot(
                    rates,
                    [experiment.score(line) for line in rows],
                    style,
                    marker=".",
                    color=colour(arm),
                    label=label,
                )
        axes.set(xscale="log", xlabel="peak learning rate", ylabel=score, title=case)
        axes.legend(fontsize="xx-small")
    return figure
