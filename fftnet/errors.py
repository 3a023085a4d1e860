"""The base class of all errors that a user can fix, and what their messages share."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that a user can fix; the message is one sentence that says what is wrong and the way out.

    The command line prints it and ends with status 2. Each package has a subclass.
    """


def install_command(extra: str) -> str:
    """Return how to install an extra: from a clone, because no release is published yet."""
    return f"pip install '.[{extra}]' in a clone of the repository"


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``: did you mean NAME?`` for the known name that resembles ``name``, or an empty string."""
    close = get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f": did you mean {prefix}{close[0]}?" if close else ""
