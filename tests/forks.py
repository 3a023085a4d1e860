"""Training runs in forked processes, so that what takes seconds to import is imported once for all of them.

As a program it reads a line of JSON a run (world, folder, flags, log) and answers with the exit statuses of
its processes. Nothing is computed before a fork, so that no thread is lost in it.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from fftnet.cli.main import main

# A run imports these when it first needs them.
for late in (
    "docstring_parser",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numba",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.utils.flop_counter",
):
    with suppress(ImportError):
        import_module(late)


def start(flags: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """The process id of a run that writes what it says into a file."""
    child = os.fork()
    if child:
        return child
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    prepare()
    os._exit(main(["train", *flags]))


def joining(rank: int, world: int, port: int, folder: str) -> Callable[[], None]:
    """Tell a process its place in a run as torchrun would."""

    def prepare() -> None:
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
            start(run["flags"], Path(run["log"]), joining(rank, run["world"], port, run["folder"]))
            for rank in range(run["world"])
        ]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    serve()
