"""``fftnet train``: flags for ``fftnet.train``."""

from collections.abc import Sequence

from fftnet.api.run_config import GROUPS, NOT_FLAGS, PARTS, assemble, default_flags
from fftnet.api.train import train
from fftnet.cli.flags import UsageError, parse
from fftnet.errors import UserError
from fftnet.training.memory import keep_freed_memory


def run(argv: Sequence[str]) -> None:
    """Train a model and write checkpoints, a loss curve and metrics."""
    configs, settings = parse(
        "train",
        argv,
        tuple(PARTS.values()),
        groups=GROUPS,
        without=NOT_FLAGS,
        defaults=lambda values: default_flags(values.task, values.init_from),
    )
    try:
        config = assemble(dict(zip(PARTS, configs, strict=True)), settings)
        keep_freed_memory()
        train(config)
    # Some user errors are also ValueErrors, and have their own message.
    except UserError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
