"""Run the missing runs of an experiment, or write the report of all."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments import EXPERIMENTS, report, results, workers
from experiments.base import Experiment, Workbench
from experiments.results import ExperimentError
from experiments.training import OutOfTime

DOCS = Path(__file__).resolve().parents[1] / "docs"
REPORT = "report"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("name", nargs="?", help=f"an experiment, or {REPORT}")
    parser.add_argument("--list", action="store_true", help="list the experiments and their models")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, results in a temporary file")
    parser.add_argument("--model", nargs="+", default=[], metavar="MODEL", help="run these models only")
    parser.add_argument(
        "--case", nargs="+", default=[], metavar="CASE", help="run these tasks or corpora only"
    )
    parser.add_argument("--max_hours", type=float, help="save the run and end after this time")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the runs (default: 1)")
    parser.add_argument("--device", default="cpu", help="device: cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="folder of the result files")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the report")
    return parser.parse_args(argv)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _list() -> None:
    for name in EXPERIMENTS:
        experiment = report.experiment_class(name)()
        cases = f" on {', '.join(experiment.cases)}" if experiment.cases != ("",) else ""
        print(f"{name}: {experiment.title}{cases}; models {', '.join(experiment.models)}")


def _device(name: str) -> torch.device:
    try:
        # A tensor shows that the device exists here.
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ExperimentError(f"--device {name} can't be used here: {str(error).splitlines()[0]}") from error


def _experiment(flags: argparse.Namespace, cache: Path) -> Experiment:
    hours = flags.max_hours
    if hours is not None and hours <= 0:
        raise ExperimentError(f"--max_hours must be above 0, got {hours:g}")
    # The monotonic clock, which no change of the system time moves.
    deadline = float("inf") if hours is None else time.monotonic() + 3600 * hours
    workbench = Workbench(cache=cache, deadline=deadline, device=_device(flags.device))
    experiment = report.experiment_class(flags.name)(flags.quick, flags.model, workbench)
    for case in flags.case:
        if case not in experiment.cases:
            raise ExperimentError(
                f"{flags.name} has no case {case!r}; choose from {', '.join(experiment.cases)}"
            )
    experiment.cases = tuple(flags.case) or experiment.cases
    return experiment


def _run(flags: argparse.Namespace) -> None:
    if not flags.quick:
        workers.work(_experiment(flags, results.CACHE), flags.results / f"{flags.name}.jsonl", _say)
        return
    # Results of tiny sizes must never mix with real ones.
    folder = Path(tempfile.mkdtemp(prefix="experiments-"))
    experiment = _experiment(flags, folder)
    path = folder / f"{flags.name}.jsonl"
    workers.work(experiment, path, _say)
    print(path)
    lines = results.read(path, _say)
    print(experiment.control(lines) or "the control holds")
    print(experiment.tables(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the flags say; return the exit status: 0, or 2 after one sentence about the error."""
    flags = _parse(argv)
    try:
        if flags.threads is not None:
            if flags.threads < 1:
                raise ExperimentError(f"--threads must be at least 1, got {flags.threads}")
            torch.set_num_threads(flags.threads)
        if flags.workers < 1:
            raise ExperimentError(f"--workers must be at least 1, got {flags.workers}")
        if flags.list:
            _list()
        elif flags.name is None:
            raise ExperimentError(f"name an experiment: {', '.join(EXPERIMENTS)}, or {REPORT}")
        elif flags.name == REPORT:
            print(report.write(flags.results, flags.output, _say))
        elif flags.workers > 1:
            words = list(sys.argv[1:] if argv is None else argv)
            # Each process runs the same command with one worker; locks keep them apart.
            return workers.share(flags.workers, [*words, "--workers", "1"])
        else:
            _run(flags)
    except OutOfTime:
        _say("out of time: the run is saved, the same command continues it")
    except ExperimentError as error:
        _say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
