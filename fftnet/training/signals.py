"""Signals that ask a run to end: held back until the step is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Whether a signal has asked for the end."""

    number: int | None = None
    """Of the signal; None while nothing was asked."""

    def leave(self) -> None:
        """End as the signal wants it: exit status 130 after Ctrl-C, 143 after SIGTERM.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: after SIGTERM, and where another process was asked.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM instead of dying of it; a second SIGINT is raised at once.

    Launchers send SIGTERM after a Ctrl-C of their own, so that one which follows changes nothing. Handlers
    that somebody else has set are left alone, and so is everything outside the main thread.
    """
    request = StopRequest()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        usual = {}
    held = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}

    def note(number: int, frame: object) -> None:
        if request.number is None:
            request.number = number
        if signal.SIGINT in held:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in held:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
