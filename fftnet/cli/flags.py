"""Flags are the fields of the configuration classes, and their help is the fields' docstrings."""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_origin

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings


class UsageError(Exception):
    """A wrong flag or value: one sentence for the user."""


Presets = dict[type, dict[str, Any]]
"""Configuration classes of a command, and the fields that are no flags with a value that passes checks."""


def parse(program: str, about: str | None, argv: Sequence[str], classes: Presets) -> list[Any]:
    """Read flags into configurations.

    Args:
        program: name of the command.
        about: what it does.
        argv: its words.
        classes: what to fill.

    Raises:
        UsageError: if a flag or value is wrong.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"fftnet {program}", description=about, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of flags; flags behind it win over it.")
    flags = {cls: [f for f in fields(cls) if f.name not in preset] for cls, preset in classes.items()}
    for cls, preset in classes.items():
        parser.add_class_arguments(cls, skip=set(preset))
    known = [field for group in flags.values() for field in group]
    switches = {field.name for field in known if field.type is bool}
    lists = {field.name for field in known if get_origin(field.type) in (list, tuple)}
    alone = {field.name: field.metadata["alone"] for field in known if "alone" in field.metadata}
    alone |= dict.fromkeys(switches, "true")
    try:
        values = parser.parse_args(_spell_out(argv, alone, switches, lists))
        return [
            cls(**preset, **{field.name: values[field.name] for field in flags[cls]})
            for cls, preset in classes.items()
        ]
    except (ArgumentError, ValueError) as error:
        sentence = " ".join(str(error).split())
        raise UsageError(f"{sentence} (fftnet {program} --help explains every flag)") from error


def _spell_out(argv: Sequence[str], values: dict[str, str], switches: set[str], lists: set[str]) -> list[str]:
    """Let flags stand alone that can, switches behind ``no_``, and a list take several words."""
    words, spelled = list(argv), []
    while words:
        word = words.pop(0)
        name = word[2:] if word.startswith("--") else ""
        alone = not words or words[0].startswith("--")
        if name in values and alone:
            spelled.append(f"{word}={values[name]}")
        elif name.startswith("no_") and name[3:] in switches:
            spelled.append(f"--{name[3:]}=false")
        elif name in lists and not alone:
            taken = []
            while words and not words[0].startswith("--"):
                taken.append(words.pop(0))
            spelled.append(f"{word}={taken[0] if taken[0].startswith('[') else json.dumps(taken)}")
        else:
            spelled.append(word)
    return spelled
