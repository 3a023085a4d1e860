"""Commands in forked processes, so that imports, which take seconds, happen once for all of them.

As a program it reads a line of JSON a command (world, folder, words, environment, out, err: files) and
answers with the exit statuses of its processes. Nothing is computed before a fork, so that no thread is lost
in it.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from fftnet.cli.main import COMMANDS, main

# A command imports these when it first needs them.
for late in (
    *(f"fftnet.cli.{command}" for command in COMMANDS),
    "docstring_parser",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numba",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
):
    with suppress(ImportError):
        import_module(late)


def start(words: list[str], out: Path, err: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a command with its output in two files, which may be the same, and return its process id."""
    child = os.fork()
    if child:
        return child
    # Standard input is where the next command comes from.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    torch.set_num_threads(1)
    code = 1
    try:
        prepare()
        code = main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def joining(rank: int, world: int, port: int, folder: str, environment: dict[str, str]) -> Callable[[], None]:
    """Return a function that sets the environment of a process, as torchrun would."""

    def prepare() -> None:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        if world > 1:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            os.environ |= {name: str(value) for name, value in places.items()}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}

    return prepare


def serve() -> None:
    for line in sys.stdin:
        run = json.loads(line)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        children = [
            start(
                run["words"],
                Path(run["out"]),
                Path(run["err"]),
                joining(rank, run["world"], port, run["folder"], run["environment"]),
            )
            for rank in range(run["world"])
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    serve()
