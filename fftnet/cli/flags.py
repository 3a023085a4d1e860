"""Flags are the fields of the configuration classes, and their help is the fields' docstrings."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, get_origin

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from fftnet.errors import UserError

SHOWING = ("-h", "--help", "--print_config")
"""Beginnings of the words that end the reading of flags and show something."""


class UsageError(UserError):
    """A wrong flag or value: one sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The trained model that a command uses."""

    checkpoint: str | None = None
    """Folder with config.json and model.safetensors (default: the newest under outputs/)."""
    device: str = "auto"
    """cpu, cuda, auto (cuda where there is one), or untested: mps, xpu."""


def parse(
    program: str,
    about: str | None,
    argv: Sequence[str],
    classes: Sequence[type],
    *,
    groups: Mapping[str, type] | None = None,
    without: Collection[str] = (),
    positional: str | None = None,
    defaults: Callable[[Any], Mapping[str, Any]] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Read flags into configurations.

    Args:
        program: name of the command.
        about: one sentence on what the command does.
        argv: words of the command line.
        classes: configuration classes whose fields are the flags.
        groups: name to a further class, whose flags are ``--name.field``.
        without: fields that are no flags and keep their defaults.
        positional: flag whose name may be left out where its value is the first word.
        defaults: given the values of all flags, the defaults that some have beside these, by name.

    Returns:
        One configuration for each class, and one for each group by its name.

    Raises:
        UsageError: if a flag or value is wrong.
    """
    groups = groups or {}
    if positional is not None and argv and not argv[0].startswith("-"):
        argv = [f"--{positional}", *argv]
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"fftnet {program}", description=about, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of flags; flags behind it win over it.")
    for cls in classes:
        parser.add_class_arguments(cls, skip=set(without))
    for name, cls in groups.items():
        if fields(cls):
            parser.add_class_arguments(cls, name)
    flags = {field.name: field for cls in classes for field in fields(cls) if field.name not in without}
    flags |= {f"{name}.{field.name}": field for name, cls in groups.items() for field in fields(cls)}
    try:
        words = _spell_out(argv, flags)
        if defaults is not None:
            asked = [word for word in words if not word.startswith(SHOWING)]
            parser.set_defaults(dict(defaults(parser.parse_args(asked))))
        values = parser.parse_args(words)
        configs = [
            cls(**{f.name: values[f.name] for f in fields(cls) if f.name not in without}) for cls in classes
        ]
        named = {
            name: cls(**{field.name: values[f"{name}.{field.name}"] for field in fields(cls)})
            for name, cls in groups.items()
        }
    except (ArgumentError, ValueError) as error:
        sentence = " ".join(str(error).split())
        raise UsageError(f"{sentence} (fftnet {program} --help explains every flag)") from error
    return configs, named


def _spell_out(argv: Sequence[str], flags: Mapping[str, Field[Any]]) -> list[str]:
    """Let flags stand alone that can, switches behind ``no_``, and a list take several words."""
    alone = {name: field.metadata["alone"] for name, field in flags.items() if "alone" in field.metadata}
    switches = {name for name, field in flags.items() if field.type is bool}
    lists = {name for name, field in flags.items() if get_origin(field.type) in (list, tuple)}
    alone |= dict.fromkeys(switches, "true")
    words = list(argv)
    spelled: list[str] = []
    while words:
        word = words.pop(0)
        name = word[2:] if word.startswith("--") else ""
        without_value = not words or words[0].startswith("--")
        if name in alone and without_value:
            spelled.append(f"{word}={alone[name]}")
        elif name.startswith("no_") and name[3:] in switches:
            spelled.append(f"--{name[3:]}=false")
        elif name in lists and not without_value:
            taken: list[str] = []
            while words and not words[0].startswith("--"):
                taken.append(words.pop(0))
            spelled.append(f"{word}={taken[0] if taken[0].startswith('[') else json.dumps(taken)}")
        else:
            spelled.append(word)
    return spelled
