"""Check that the sides agree, measure them, write JSON and two pictures, print a table of targets."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import parity, report
from benchmarks.measure import Row, machine
from benchmarks.suites import FULL, QUICK, SUITES, Settings
from fftnet.cli.main import say
from fftnet.serialization import CheckpointError, write_json

FILE, LENGTH_PICTURE, DECODE_PICTURE = "benchmarks.json", "benchmark_length.png", "benchmark_decode.png"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="longer and more lengths: up to 20 minutes, not 4"
    )
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the results")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(SUITES),
        default=list(SUITES),
        metavar="NAME",
        help=f"run these suites and keep the others' results: {', '.join(SUITES)}",
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    return parser.parse_args(argv)


def _line(row: dict[str, Any]) -> str:
    case = ", ".join(str(row[name]) for name in ("suite", "of", "work", "side") if name in row)
    case += f", {'B=' + str(row['batch']) + ' ' if 'batch' in row else ''}T={row['tokens']}: "
    if "growth_bytes" in row:
        return f"{case}{row['growth_bytes'] / 1e6:.1f} MB"
    ratio = "" if row["times_ours"] is None else f", {row['times_ours']:.3g} times ours"
    return f"{case}{row['seconds'] * 1e3:.3g} ms in {row['runs']} runs{ratio}"


def _measure(suite: str, settings: Settings, command: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    torch.manual_seed(0)
    for row in SUITES[suite](settings):
        found.append(row.summary() if isinstance(row, Row) else row)
        say(_line(found[-1]))
    return {"command": command, "machine": machine(), "settings": asdict(settings), "rows": found}


def _earlier(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))["suites"] if path.is_file() else {}


def main(argv: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Run the benchmarks; returns the exit status: 0, or 1 after one sentence on what was wrong.

    Args:
        argv: flags.
        settings: sizes in place of those that ``--full`` chooses.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    flags = _parse(words)
    if flags.threads is not None:
        if flags.threads < 1:
            say(f"error: --threads must be at least 1, got {flags.threads}")
            return 1
        torch.set_num_threads(flags.threads)
    if settings is None:
        settings = FULL if flags.full else QUICK
    try:
        parity.check()
        path, command = flags.output / FILE, " ".join(["python -m benchmarks", *words])
        measured = {suite: _measure(suite, settings, command) for suite in flags.only}
        sections = _earlier(path) | measured
        write_json(path, {"suites": {name: sections[name] for name in SUITES if name in sections}})
    except (parity.ParityError, CheckpointError) as error:
        say(f"error: {error}")
        return 1
    results = {name: section["rows"] for name, section in sections.items()}
    report.plot_length(results, flags.output / LENGTH_PICTURE)
    report.plot_decode(results, flags.output / DECODE_PICTURE)
    print(report.table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
