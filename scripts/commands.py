"""Write docs/commands.md from the help of every command: `python -m scripts.commands`."""

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

from fftnet.cli.commands import COMMANDS, overview
from fftnet.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
COLUMNS = "100"
PASSED_ON = ("lm_eval",)
"""Commands whose flags are those of another program."""
INTRODUCTION = """\
# Commands

Look up a command or a flag here. `python -m scripts.commands` makes this page from the help of the commands.

- Values without a flag go to the flags in the usage line: `fftnet train my.txt` means `--data my.txt`.
- A switch is `--save_model` or `--no_save_model`. A list takes several words: `--data a.txt b.txt`.
- Settings of a mixer or a task bear its name: `--addressed_spectral.num_bins 32`.
- `--config FILE` reads flags from a YAML file; flags after it win. `--print_config` writes such a file.
"""


def help_of(command: str) -> str:
    """Return the complete help of a command."""
    out = io.StringIO()
    option = "--help_all" if COMMANDS[command].common else "--help"
    # The width of the text is that of the terminal; a page needs a fixed one.
    terminal = mock.patch.dict(os.environ, COLUMNS=COLUMNS)
    with terminal, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, option])
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def page() -> str:
    """Return the text of docs/commands.md."""
    sections = [INTRODUCTION, f"## Overview\n\n```text\n{overview()}\n```\n"]
    sections += [
        f"## fftnet {name}\n\n```text\n{help_of(name)}\n```\n" for name in COMMANDS if name not in PASSED_ON
    ]
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
