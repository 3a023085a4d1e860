"""``fftnet lm_eval``: the command of the Language Model Evaluation Harness, with our model in it."""

import sys
from collections.abc import Sequence
from importlib import import_module

from fftnet.data.errors import import_extra


def run(argv: Sequence[str]) -> None:
    """Run the harness: flags are those of the harness, and ``--model`` is fftnet by default."""
    harness = import_extra("lm_eval.__main__", "fftnet lm_eval", "eval")
    import_module("fftnet.lm_eval")
    words = list(argv)
    runs = not words or words[0].startswith("-") or words[0] == "run"
    asks = any(word in ("-h", "--help") for word in words)
    named = any(word.split("=")[0] in ("--model", "-M") for word in words)
    if runs and words and not asks and not named:
        words += ["--model", "fftnet"]
    # The harness reads its flags from here only.
    sys.argv = ["fftnet lm_eval", *words]
    harness.cli_evaluate()
