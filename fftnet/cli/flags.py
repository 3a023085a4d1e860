"""Flags: the fields of configuration classes, with the fields' docstrings as help."""

import json
import sys
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import Field, dataclass, fields
from typing import Any, get_origin

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from fftnet.cli.commands import COMMANDS
from fftnet.errors import UserError, suggestion
from fftnet.fields import documented

SHOWING = ("-h", "--help", "--print_config")
"""Prefixes of flags that show something and exit."""


class UsageError(UserError):
    """A wrong flag or value: one sentence for the user."""


@documented
@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Trained model and device of a command."""

    checkpoint: str | None = None
    """Checkpoint: folder with config.json and model.safetensors (default: the newest under outputs/)."""
    device: str = "auto"
    """Device: cpu, cuda, auto (cuda if available, else cpu), or untested: mps, xpu."""


def read_standard_input() -> str:
    """Read all of standard input as UTF-8 text, with or without a byte-order mark."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text (byte {error.start}): convert it") from error


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help that keeps the lines of the examples, and omits the ``--flag+`` of lists."""

    def _format_action_invocation(self, action: Action) -> str:
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        value = action.metavar or self._get_default_metavar_for_optional(action)
        return names if action.nargs == 0 else f"{names} {value}"


def parse(
    program: str,
    argv: Sequence[str],
    classes: Sequence[type],
    *,
    groups: Mapping[str, type] | None = None,
    without: Collection[str] = (),
    defaults: Callable[[Any], Mapping[str, Any]] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Parse the flags of a command into one configuration per class, and one per group by its name.

    The metadata of a field may hold ``choices``, a function that returns the allowed values; ``alone``, the
    value of the flag without a value; and ``short``, a second name of a switch, such as ``-i``.

    The flags of a group are ``--name.field``. Fields in ``without`` are not flags and keep their defaults.
    ``defaults`` maps the values of all flags to defaults that depend on them, by flag.
    """
    groups = groups or {}
    # Each class with the prefix of its flags.
    prefixed = [("", cls) for cls in classes] + [(f"{name}.", cls) for name, cls in groups.items()]
    flags = {p + f.name: f for p, cls in prefixed for f in fields(cls) if f.name not in without}
    parser = _parser(program, prefixed, without, flags)
    # Flags hidden from help would also be hidden from --print_config.
    command = COMMANDS[program]
    if command.common and {"-h", "--help"}.intersection(argv):
        _shorten(parser, command.common)
    try:
        words = _spell_out(argv, flags, parser, command.positional)
        # Some defaults depend on other flags, such as sizes on --init_from: parse once to learn them.
        if defaults is not None:
            asked = [word for word in words if not word.startswith(SHOWING)]
            parser.set_defaults(dict(defaults(parser.parse_args(asked))))
        values = parser.parse_args(words)
        configs = [
            cls(**{f.name: values[p + f.name] for f in fields(cls) if p + f.name in flags})
            for p, cls in prefixed
        ]
    except (ArgumentError, ValueError) as error:
        # jsonargparse breaks its messages into lines.
        sentence = " ".join(str(error).split())
        option = "--help_all" if command.common else "--help"
        raise UsageError(f"{sentence} (fftnet {program} {option} explains every flag)") from error
    return configs[: len(classes)], dict(zip(groups, configs[len(classes) :], strict=True))


def _parser(
    program: str,
    prefixed: Sequence[tuple[str, type]],
    without: Collection[str],
    flags: Mapping[str, Field[Any]],
) -> ArgumentParser:
    """Return a parser of all flags, with the usage line and the examples of the command."""
    command = COMMANDS[program]
    values = [f"{name.upper()}{' ...' * _takes_several(flags[name])}" for name in command.positional]
    parser = ArgumentParser(
        prog=f"fftnet {program}",
        usage=" ".join(["fftnet", program, *(f"[{value}]" for value in values), "[flags]"]),
        description=command.about,
        epilog="\n".join(["examples:", *(f"  {line}" for line in command.examples)]),
        formatter_class=_Help,
        exit_on_error=False,
    )
    if command.common:
        parser.add_argument("--help_all", action="help", help="Show all flags and exit.")
    parser.add_argument("--config", action="config", help="YAML file of flags; later flags override it.")
    for prefix, cls in prefixed:
        if fields(cls):
            parser.add_class_arguments(documented(cls), prefix.rstrip(".") or None, skip=set(without))
    for action in parser._actions:
        if action.dest in flags:
            action.metavar = _value(action.dest, flags[action.dest])
    return parser


def _value(name: str, field: Field[Any]) -> str:
    """Return the placeholder for the value of a flag in the help."""
    choices = ("true", "false") if field.type is bool else field.metadata.get("choices", tuple)()
    value = f"{{{','.join(choices)}}}" if choices else name.rpartition(".")[2].upper()
    return f"{value} ..." if _takes_several(field) else value


def _shorten(parser: ArgumentParser, common: Sequence[str]) -> None:
    """Show only the common flags in the help, under one title and in their order."""
    actions = {action.dest: action for action in parser._actions}
    group = parser.add_argument_group("common flags")
    group._group_actions.extend(copy(actions[name]) for name in common if name in actions)
    for name in actions.keys() - {"help", "help_all", "config"}:
        actions[name].help = SUPPRESS


def _takes_several(field: Field[Any]) -> bool:
    return get_origin(field.type) in (list, tuple)


def _spell_out(
    argv: Sequence[str], flags: Mapping[str, Field[Any]], parser: ArgumentParser, positional: Sequence[str]
) -> list[str]:
    """Return the arguments as ``--name=value``, the only form that jsonargparse needs to know.

    Values without a flag belong to the positional flags in turn. Some flags need no value, switches have a
    form ``--no_name``, and a list takes several arguments.
    """
    # Forms of flags: switches, with an optional value, and short names.
    switches = {name for name, field in flags.items() if field.type is bool}
    alone = dict.fromkeys(switches, "true")
    alone |= {name: field.metadata["alone"] for name, field in flags.items() if "alone" in field.metadata}
    short = {field.metadata["short"]: name for name, field in flags.items() if "short" in field.metadata}
    known = {option.lstrip("-") for option in parser._option_string_actions}
    unnamed = list(positional)
    words = list(argv)
    spelled: list[str] = []
    while words:
        word = words.pop(0)
        # A dash alone is standard input.
        if (word == "-" or not word.startswith("-")) and unnamed:
            words.insert(0, word)
            word = f"--{unnamed.pop(0)}"
        name = word[2:] if word.startswith("--") else ""
        without_value = not words or words[0].startswith("--")
        if word in short:
            spelled.append(f"--{short[word]}=true")
        elif name in alone and without_value:
            spelled.append(f"{word}={alone[name]}")
        elif name.startswith("no_") and name[3:] in switches:
            spelled.append(f"--{name[3:]}=false")
        elif name in flags and _takes_several(flags[name]) and not without_value:
            taken: list[str] = []
            # A list ends at the next flag; a JSON list is passed as it is.
            while words and not words[0].startswith("--"):
                taken.append(words.pop(0))
            spelled.append(f"{word}={taken[0] if taken[0].startswith('[') else json.dumps(taken)}")
        elif name and (bare := name.partition("=")[0]) not in known:
            raise ValueError(f"unknown flag --{bare}{suggestion(bare, known, '--')}")
        else:
            spelled.append(word)
            if name and "=" not in word and not word.startswith(SHOWING) and not without_value:
                spelled.append(words.pop(0))
    return spelled
