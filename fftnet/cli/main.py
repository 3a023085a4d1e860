"""The command line: ``fftnet COMMAND``, the names of which are in ``COMMANDS``."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from fftnet.cli.wait_policy import set_wait_policy
from fftnet.errors import UserError

SPEAKING_SECONDS = 2.0
"""For which a process that fails in silence stays, while another tells the same mistake."""
COMMANDS = ("train", "generate", "serve", "evaluate", "predict", "inspect", "export", "demo", "lm_eval")
"""Each is a module of this package with a function ``run``, imported when it is asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words of the command line (default: those of this process).

    Returns:
        The exit status: 0; 2 after one sentence on what was wrong; 130 after Ctrl-C; 141 where nobody reads
        the output any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        asked = bool(words) and words[0] in ("-h", "--help")
        print(f"usage: fftnet {{{','.join(COMMANDS)}}} [flags]; each takes --help", file=sys.stderr)
        return 0 if asked else 2
    set_wait_policy()
    # Of the processes of a run, the first one speaks, and of errors one on each machine.
    first, first_here = (os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("fftnet").setLevel(logging.INFO if first else logging.ERROR)
    try:
        import_module(f"fftnet.cli.{words[0]}").run(words[1:])
    except (UserError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "fftnet").startswith("fftnet"):
            raise
        if first_here:
            print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does. Python would complain once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command as a program: ``main``, then the end of the process with its status."""
    status = main(argv)
    if status and os.environ.get("LOCAL_RANK", "0") != "0":
        # A launcher ends all processes once one has failed: the one that speaks shall have spoken first.
        time.sleep(SPEAKING_SECONDS)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is written and closed. Threads of PyTorch's process groups may still be there, and one
        # that outlives the interpreter aborts the process, whereupon a launcher takes the run for failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error.name} is not installed: pip install 'fftnet[all]', or in a clone run `make demo` once "
            "and then .venv/bin/python in place of python"
        )
    return str(error)
