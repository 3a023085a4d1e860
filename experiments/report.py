"""Report: docs/results.md and its pictures, made from the lines of all experiments by one command."""

import textwrap
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from experiments import EXPERIMENTS, results
from experiments.base import Experiment
from experiments.results import ExperimentError, Line

PAGE = "results.md"
PICTURES = "results"
"""Folder of the pictures, next to the page."""
COLUMNS = 100
"""Characters of a line of text."""
HEAD = """# Results

What FFTNet's layers learn next to attention, recurrent networks and FNet: recall, language, state tracking
and classification. Every section starts with the best model. `python -m experiments NAME` repeats an
experiment; `python -m experiments report` writes this page from the lines in `experiments/results/`.

"FFTNet" alone is the causal layer, and "FFTNet (bidirectional)" the layer of the paper. Attention stands
behind the same short convolution as FFTNet, except in classification.
`±` is half the distance from the smallest to the largest seed; a number without it is one seed."""


def experiment_class(name: str) -> type[Experiment]:
    """Return the experiment of that name.

    Raises:
        ExperimentError: if the name is unknown.
    """
    if name not in EXPERIMENTS:
        raise ExperimentError(
            f"there is no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}, or report"
        )
    module, kind = EXPERIMENTS[name].split(":")
    return getattr(import_module(f"experiments.{module}"), kind)


def write(folder: Path, output: Path, say: Callable[[str], None]) -> Path:
    """Write the page and its pictures.

    Args:
        folder: folder of the result files.
        output: folder of the page.
        say: function that reports what is left out.

    Returns:
        The page's path.

    Raises:
        ExperimentError: if there are no lines at all, some are damaged, or a file can't be written.
    """
    sections = []
    for name in EXPERIMENTS:
        lines = results.read(folder / f"{name}.jsonl", say)
        experiment = experiment_class(name)()
        current = experiment.current(lines)
        if len(current) < len(lines):
            say(f"{name}: {len(lines) - len(current)} lines of other configurations are left out")
        if current:
            sections.append(_section(experiment, current, output))
    if not sections:
        raise ExperimentError(
            f"there is nothing to report: {folder} holds no lines of the current configurations"
        )
    page = output / PAGE
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n\n".join([wrapped(HEAD), *sections]) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExperimentError(f"{page} can't be written: {error.strerror}") from error
    return page


def _section(experiment: Experiment, lines: list[Line], output: Path) -> str:
    parts = [f"## {experiment.title}"]
    void = experiment.control(lines)
    if void is not None:
        parts.append(f"**{void[0].upper()}{void[1:]}.**")
    # The first paragraph says who wins; the description follows it.
    winner, *tables = experiment.tables(lines).split("\n\n")
    parts += [winner, experiment.about, *tables]
    for name, figure in experiment.pictures(lines).items():
        # Pictures are also shown without the page around them.
        figure.suptitle(experiment.title)
        path = output / PICTURES / f"{experiment.name}_{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without the program's version in it, the same lines give the same file.
            figure.savefig(path, dpi=120, metadata={"Software": None})
        except OSError as error:
            raise ExperimentError(f"{path} can't be written: {error.strerror}") from error
        parts.append(f"![{experiment.title}: {name.replace('_', ' ')}]({PICTURES}/{path.name})")
    parts.append(_origin(lines))
    return wrapped("\n\n".join(parts))


def wrapped(text: str) -> str:
    """Return Markdown with its paragraphs in lines of at most ``COLUMNS`` characters."""
    return "\n\n".join(map(_wrapped, text.split("\n\n")))


def _wrapped(part: str) -> str:
    # Tables, headings and pictures must stay on their lines; items of a list are indented.
    if part.startswith(("|", "#", "!")):
        return part
    indent, texts = ("  ", part.split("\n")) if part.startswith("- ") else ("", [part])
    fill = partial(textwrap.fill, width=COLUMNS, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(map(fill, texts))


def _origin(lines: list[Line]) -> str:
    # All current lines count, also runs of a sweep that were not the best.
    hours = sum(line["seconds"] for line in lines) / 3600
    commits = sorted({line["commit"][:8] + "+" * line["commit"].endswith("+") for line in lines})
    names = ", ".join(sorted({line["processor"] for line in lines}))
    threads = ", ".join(sorted({str(line["threads"]) for line in lines}))
    versions = ", ".join(sorted({line["torch"] for line in lines}))
    runs = f"{len(lines)} runs" if len(lines) > 1 else "1 run"
    return (
        f"{runs} in {hours:.1f} hours on {names}; threads: {threads}; PyTorch {versions}; "
        f"commits {', '.join(commits)}."
    )
