"""Pictures of the stored measurements: time and memory over the length, and the overview of the README."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.baselines import ATTENTION, BOTH, COPY, EAGER, LINEAR, MORE_BINS, PAIR, PRODUCTS, TRAIN
from benchmarks.encoders import FNET
from benchmarks.measure import OURS
from benchmarks.report import Results
from fftnet.metrics.plots import plain_ticks

Value = tuple[float, float, float]
"""Lower quartile, median, upper quartile; three equal numbers if there is only one."""
COLOURS = {
    OURS: "#1f4e79",
    MORE_BINS: "#4f81bd",
    PRODUCTS: "#4bacc6",
    EAGER: "#c0504d",
    ATTENTION: "#e0902f",
    LINEAR: "#7a9a4e",
    FNET: "#8064a2",
    PAIR: "#8ab4d8",
    COPY: "#9a9a9a",
}
NAMES = {
    OURS: "FFTNet",
    MORE_BINS: "FFTNet, 32 bins",
    PRODUCTS: "FFTNet, linear layers alone",
    EAGER: "FFTNet, eager PyTorch",
    PAIR: "rfft + irfft",
    COPY: "one pass over memory",
}
"""Side to its name in legends; the others have the same one."""
BIDIRECTIONAL = {name: text.replace("FFTNet", "FFTNet (bidirectional)") for name, text in NAMES.items()}


def _curves(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    of: Callable[[Mapping[str, Any]], Value],
    names: Mapping[str, str] = NAMES,
) -> None:
    for side in dict.fromkeys(row["side"] for row in rows):
        own = sorted((row for row in rows if row["side"] == side), key=lambda row: row["tokens"])
        tokens = [row["tokens"] for row in own]
        values = [of(row) for row in own]
        medians = [median for _, median, _ in values]
        axes.plot(tokens, medians, label=names.get(side, side), color=COLOURS[side], marker=".")
        # The band is the range of the quartiles.
        axes.fill_between(
            tokens,
            [low for low, _, _ in values],
            [high for *_, high in values],
            color=COLOURS[side],
            alpha=0.2,
        )
    axes.set(xscale="log", yscale="log")
    # The measured lengths are the ticks.
    ticks = sorted({row["tokens"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    if rows:
        plain_ticks(axes.yaxis)
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        # A long legend stands above the lines.
        is_long = len(axes.get_lines()) > 3
        axes.set_ylim(low, high * (high / low) ** (0.45 * is_long))
        axes.legend(fontsize="small", loc="upper left" if is_long else "best")


def _milliseconds(row: Mapping[str, Any]) -> Value:
    lower, upper = row["seconds_quartiles"]
    return lower * 1e3, row["seconds"] * 1e3, upper * 1e3


def plot_length(results: Results, path: Path) -> None:
    """Draw time and memory over the length, log-log, of ours and the baselines.

    Args:
        results: of all suites; one that was not run leaves its panel empty.
        path: of the PNG.
    """
    figure = Figure(figsize=(13, 7.8), layout="constrained")
    figure.suptitle("Time and peak memory over sequence length")
    grid = figure.subplots(2, 3)
    for axes, suite, work, title in (
        (grid[0, 0], "op", BOTH, "causal operator"),
        (grid[0, 1], "mixer", BOTH, "causal mixer"),
        (grid[0, 2], "bidirectional", BOTH, "bidirectional mixer"),
        (grid[1, 0], "train", TRAIN, "training step, same number of tokens"),
    ):
        rows = [row for row in results.get(suite, ()) if row["work"] == work]
        names = BIDIRECTIONAL if suite == "bidirectional" else NAMES
        _curves(axes, [row for row in rows if row["batch"] == 1 or suite == "train"], _milliseconds, names)
        unit = "milliseconds" if work == TRAIN else f"milliseconds, {work}"
        axes.set(title=title, xlabel="tokens T", ylabel=unit)
    for axes, of, title in (
        # Memory has one number for each case, without quartiles.
        (grid[1, 1], "mixer", "causal mixer, memory"),
        (grid[1, 2], "train", "training step, one sequence, memory"),
    ):
        rows = [row for row in results.get("memory", ()) if row["of"] == of and row["growth_bytes"]]
        _curves(axes, rows, lambda row: (row["growth_bytes"] / 1e6,) * 3)
        axes.set(title=title, xlabel="tokens T", ylabel="MB")
    figure.savefig(path, dpi=120)


def plot_overview(sections: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw decoding speed and training step time of FFTNet and attention, for the README.

    Args:
        sections: suite to its stored section: settings, machine and rows. A suite that
            was not run leaves its panel empty.
        path: file name of the PNG.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    decoding, training = figure.subplots(1, 2)
    rows = [row for row in sections.get("write", {}).get("rows", ()) if row["batch"] == 1]
    _two_lines(decoding, rows, lambda row: 1 / row["seconds"], "attention with a KV cache", "{:,.0f}")
    decoding.set_title("Decoding speed: higher is better", fontsize="medium")
    decoding.set(xlabel="context length, tokens", ylabel="tokens per second")
    rows = sections.get("train", {}).get("rows", ())
    _two_lines(training, rows, lambda row: row["seconds"], "attention", "{:.2f} s")
    training.set_title("Training step: lower is better", fontsize="medium")
    training.set(xlabel="sequence length, tokens", ylabel="seconds")
    figure.supxlabel(_caption(sections), fontsize="x-small", color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)


def _two_lines(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    value_of: Callable[[Mapping[str, Any]], float],
    attention: str,
    unit: str,
) -> None:
    """Draw one line per side over the length, and write the value at the right end."""
    # Two colours that differ in brightness, two markers and two line styles: also clear without colours.
    for side, name, style in ((OURS, "FFTNet", "o-"), (ATTENTION, attention, "s--")):
        own = sorted((row for row in rows if row["side"] == side), key=lambda row: row["tokens"])
        if own:
            values = [value_of(row) for row in own]
            tokens = [row["tokens"] for row in own]
            axes.plot(tokens, values, style, label=name, color=COLOURS[side], linewidth=2)
            axes.annotate(
                unit.format(values[-1]),
                (tokens[-1], values[-1]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                weight="bold",
                color=COLOURS[side],
            )
    axes.set_xscale("log")
    ticks = sorted({row["tokens"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    if rows:
        axes.margins(x=0.1)
        # From zero, so that heights compare as the numbers do; headroom for the values.
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.legend(fontsize="small", loc="best")


def _caption(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Hardware and sizes of the two suites, from their stored sections."""
    if "write" not in sections or "train" not in sections:
        return ""
    machine, settings = (sections["train"].get(name) for name in ("machine", "settings"))
    if not machine or not settings:
        return ""
    batch, tokens = settings["train"][0]
    return (
        f"CPU with {machine['instruction_set']}, {machine['threads']} threads, {machine['dtype']}, "
        f"PyTorch {machine['torch'].split('+')[0]}. {settings['layers']} layers, width {settings['width']}; "
        f"{batch * tokens:,} tokens per training step. Medians."
    )
