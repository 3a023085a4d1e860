"""Signals that ask a run to end: held back until the step is whole. So is the loss of the output."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

LOST_OUTPUT = 13
"""Number of SIGPIPE, which Windows lacks."""


@dataclass
class StopRequest:
    """A request to end the run, made by a signal or by the loss of the output."""

    number: int | None = None
    """Number of the signal; None while nothing was asked."""

    def leave(self) -> None:
        """End as the signal wants it: exit status 130 after Ctrl-C, else 128 and the number of the signal.

        That is 143 after SIGTERM, and where another process was asked.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: in all other cases.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.number or signal.SIGTERM))

    @contextmanager
    def on_lost_output(self) -> Iterator[None]:
        """Ask for the end of the run where a line can't be shown, as nobody reads the output any more."""
        try:
            yield
        except OSError:
            self.number = self.number or LOST_OUTPUT
            # What waits in the buffer would fail once more at the end, and change the exit status.
            with suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stderr.fileno())


@contextmanager
def deferred_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Note the first SIGINT, SIGTERM or SIGHUP instead of dying of it; a second SIGINT is raised at once.

    Launchers send SIGTERM after a Ctrl-C of their own, so that one which follows changes nothing. Handlers
    that somebody else has set are left alone, as is SIGHUP under nohup, and so is everything outside the main
    thread.

    Args:
        request: notes the signal; None: a new one.
    """
    request = request or StopRequest()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if sys.platform != "win32":
        usual[signal.SIGHUP] = signal.SIG_DFL
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
