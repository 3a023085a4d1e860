"""The report: docs/results.md and its pictures, made from the lines of all experiments by one command."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from experiments import EXPERIMENTS, results
from experiments.base import Experiment
from experiments.errors import ExperimentError
from experiments.results import Line

PAGE = "results.md"
PICTURES = "results"
"""Folder of the pictures, beside the page."""
HEAD = """# Results

Made from the lines in `experiments/results/` by `python -m experiments report`; `python -m experiments NAME`
repeats an experiment. In brackets: the smallest and the largest seed. "FFTNet" alone is the causal layer.
`experiments/arms.py` and `experiments/encoders.py` list the names that `--arm` takes."""


def experiment_class(name: str) -> type[Experiment]:
    """The experiment of that name.

    Raises:
        ExperimentError: if there is none.
    """
    if name not in EXPERIMENTS:
        raise ExperimentError(
            f"there is no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}, or report"
        )
    return getattr(import_module(f"experiments.{name}"), EXPERIMENTS[name])


def write(folder: Path, output: Path, say: Callable[[str], None]) -> Path:
    """Write the page and its pictures.

    Args:
        folder: of the lines.
        output: of the page.
        say: is told what is left out.

    Returns:
        The page's path.

    Raises:
        ExperimentError: if there are no lines at all, some are damaged, or a file can't be written.
    """
    sections = []
    for name in EXPERIMENTS:
        lines = results.read(folder / f"{name}.jsonl", say)
        if lines:
            sections.append(_section(experiment_class(name)(), lines, output, say))
    written = [section for section in sections if section]
    if not written:
        raise ExperimentError(
            f"there is nothing to report: {folder} holds no lines of today's configurations"
        )
    page = output / PAGE
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n\n".join([HEAD, *written]) + "\n", encoding="utf-8")
    except OSError as error:
        raise ExperimentError(f"{page} can't be written: {error.strerror}") from error
    return page


def _section(
    experiment: Experiment, lines: list[Line], output: Path, say: Callable[[str], None]
) -> str | None:
    current = experiment.current(lines)
    if len(current) < len(lines):
        say(f"{experiment.name}: {len(lines) - len(current)} lines of other configurations are left out")
    if not current:
        return None
    parts = [f"## {experiment.title}", experiment.about]
    void = experiment.control(current)
    if void is not None:
        parts.append(f"**{void[0].upper()}{void[1:]}.**")
    parts.append(experiment.tables(current))
    for name, figure in experiment.pictures(current).items():
        figure.suptitle(experiment.title)
        path = output / PICTURES / f"{experiment.name}_{name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without the program's version in it, the same lines give the same file.
            figure.savefig(path, dpi=120, metadata={"Software": None})
        except OSError as error:
            raise ExperimentError(f"{path} can't be written: {error.strerror}") from error
        parts.append(f"![{experiment.title}: {name.replace('_', ' ')}]({PICTURES}/{path.name})")
    parts.append(_origin(current))
    return "\n\n".join(parts)


def _origin(lines: list[Line]) -> str:
    hours = sum(line["seconds"] for line in lines) / 3600
    commits = sorted({line["commit"][:8] + "+" * line["commit"].endswith("+") for line in lines})
    names = ", ".join(sorted({line["processor"] for line in lines}))
    threads = ", ".join(sorted({str(line["threads"]) for line in lines}))
    versions = ", ".join(sorted({line["torch"] for line in lines}))
    return (
        f"{len(lines)} runs in {hours:.1f} hours, threads: {threads}; {names}; PyTorch {versions}; "
        f"commits {', '.join(commits)}."
    )
