"""The command line: ``fftnet COMMAND``, with the commands of ``fftnet.cli.commands``."""

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from fftnet import __version__
from fftnet.cli.commands import COMMANDS, overview
from fftnet.errors import UserError, install_command, suggestion

CPU_WHEELS = "; torch for the CPU alone: add --extra-index-url https://download.pytorch.org/whl/cpu"
"""End of the hint if PyTorch is missing: its default wheels for Linux contain CUDA."""
LOST = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of an output that can't be written; errors of files that a command writes have other messages."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command (default: the arguments of this process) and return the exit status.

    It is 0; 2 after an error message of one sentence; 130 after Ctrl-C; 141 if nobody reads the output.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A generated text may contain characters that the encoding of the output lacks.
        sys.stdout.reconfigure(errors="replace")
    status = 2
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        lost = _flush_output()
    except SystemExit:
        lost = _flush_output()
        if lost is None:
            raise
    except OSError as error:
        if error.errno not in LOST:
            raise
        _flush_output()
        lost = error
    if lost is None:
        return status
    if isinstance(lost, BrokenPipeError):
        return 141
    with suppress(OSError):
        print(f"error: the output could not be written: {lost.strerror}", file=sys.stderr)
    return 2


def _run(words: Sequence[str]) -> int:
    if not words or words[0] not in COMMANDS:
        return _without_command(words)
    # The first process of a run prints; errors are printed by one process per machine.
    first, first_here = (os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("fftnet").setLevel(logging.INFO if first else logging.ERROR)
    try:
        # Commands are imported here, because PyTorch takes seconds and fftnet --help should not.
        import_module(f"fftnet.cli.{words[0]}").run(words[1:])
    except (UserError, ModuleNotFoundError) as error:
        # A missing module of the package itself is a bug, not a missing dependency.
        if isinstance(error, ModuleNotFoundError) and (error.name or "fftnet").startswith("fftnet"):
            raise
        if first_here:
            print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _flush_output() -> OSError | None:
    """Flush the output, and return the error if that fails."""
    lost = None
    # A stream is None if it was closed when the process started.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            lost = lost or error
            # Otherwise Python would flush again at exit, and print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return lost


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    status = main(argv)
    if status and os.environ.get("LOCAL_RANK", "0") != "0":
        # A launcher ends all processes when one fails; the process that prints the error must come first.
        time.sleep(2.0)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is written and closed. A thread of PyTorch's process groups that outlives the interpreter
        # would abort the process, and the launcher would report a failed run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _without_command(words: Sequence[str]) -> int:
    """Handle arguments that name no known command, and return the exit status."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"fftnet {__version__}")
        return 0
    close = suggestion(words[0], COMMANDS) or f"; choose from {', '.join(COMMANDS)}"
    print(f"error: unknown command {words[0]!r}{close} (see fftnet --help)", file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        wheels = CPU_WHEELS if error.name == "torch" else ""
        clone = f"{install_command('all')}, or run `make demo` there and use .venv/bin/python"
        return f"{error.name} is not installed: {clone}{wheels}"
    return str(error)
