"""Functions in a new process, because memory and threads depend on everything that a process did before."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeVar

import torch

Result = TypeVar("Result")


def run_job(
    function: Callable[..., Result], environment: Mapping[str, str] | None = None, /, **arguments: int | str
) -> Result:
    """Call a function in a new process with as many threads as this one.

    Args:
        function: function of an importable module, whose result can be written as JSON.
        environment: environment variables of the process (None: those of this one).
        arguments: arguments by name.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    job = {
        "module": function.__module__,
        "name": function.__name__,
        "threads": torch.get_num_threads(),
        "arguments": arguments,
    }
    # Through standard input and output, so that the job needs no file.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.jobs"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    print(json.dumps(getattr(import_module(asked["module"]), asked["name"])(**asked["arguments"])))
