"""Check that what is compared agrees, measure it, write JSON and two pictures, print tables."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import parity, pictures, report
from benchmarks.measure import Row, machine, settled_heap
from benchmarks.settings import FULL, QUICK, Settings
from benchmarks.suites import SUITES
from fftnet.errors import UserError
from fftnet.serialization import read_json, write_json

FILE = "benchmarks.json"
LENGTH_PICTURE = "benchmark_length.png"
OVERVIEW_PICTURE = "images/overview.png"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="more and longer cases: up to 25 minutes instead of 7"
    )
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the results")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(SUITES),
        default=list(SUITES),
        metavar="NAME",
        help=f"run these suites and keep the others' results: {', '.join(SUITES)}; without a name: "
        "measure nothing, draw the stored results",
    )
    parser.add_argument(
        "--checkpoint", help="a trained model, whose bits per byte the suite runtimes measures"
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    return parser.parse_args(argv)


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _line(row: Mapping[str, Any]) -> str:
    names = ("suite", "of", "work", "side", "policy")
    case = ", ".join(str(row[name]) for name in names if name in row)
    if "width" in row:
        case += f", D={row['width']}"
    if row.get("neighbour"):
        case += ", beside a busy process"
    case += f", B={row['batch']} T={row['tokens']}: " if "batch" in row else f", T={row['tokens']}: "
    if "bits_per_byte" in row:
        return f"{case}{row['bits_per_byte']:.4f} bits per byte"
    if "growth_bytes" in row:
        return f"{case}{row['growth_bytes'] / 1e6:.1f} MB"
    case += f"{row['seconds'] * 1e3:.3g} ms in {row['runs']} runs"
    for name, base in (("times_ours", "ours"), ("times_quiet", "quiet")):
        if row.get(name) is not None:
            case += f", {row[name]:.3g} times {base}"
    return case


def _measure(suite: str, settings: Settings, command: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    torch.manual_seed(0)
    for row in SUITES[suite](settings):
        found.append(row.summary() if isinstance(row, Row) else row)
        _print_progress(_line(found[-1]))
    return {"command": command, "machine": machine(), "settings": asdict(settings), "rows": found}


def _earlier(path: Path) -> dict[str, Any]:
    return read_json(path)["suites"] if path.is_file() else {}


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Run the benchmarks; return the exit status: 0, or 1 after one sentence about the error.

    Args:
        argv: flags.
        settings: sizes (default: those that ``--full`` chooses).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    flags = _parse(words)
    if flags.threads is not None:
        if flags.threads < 1:
            _print_progress(f"error: --threads must be at least 1, got {flags.threads}")
            return 1
        torch.set_num_threads(flags.threads)
    if settings is None:
        settings = FULL if flags.full else QUICK
    if flags.checkpoint is not None:
        settings = replace(settings, checkpoint=flags.checkpoint)
    try:
        if flags.only:
            # Nothing is measured or written if compared implementations differ.
            parity.check()
        path = flags.output / FILE
        command = " ".join(["python -m benchmarks", *words])
        with settled_heap():
            measured = {suite: _measure(suite, settings, command) for suite in SUITES if suite in flags.only}
        # Suites that were not run keep their stored results.
        sections = _earlier(path) | measured
        write_json(path, {"suites": {name: sections[name] for name in SUITES if name in sections}})
    except (parity.ParityError, UserError) as error:
        _print_progress(f"error: {error}")
        return 1
    results = {name: section["rows"] for name, section in sections.items()}
    pictures.plot_length(results, flags.output / LENGTH_PICTURE)
    pictures.plot_overview(sections, flags.output / OVERVIEW_PICTURE)
    print(report.text(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
