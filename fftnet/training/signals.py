"""Signals and lost output end a run after its current step."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class StopRequest:
    """A request to end the run, made by a signal or by the loss of the output."""

    number: int | None = None
    """Number of the signal; None without a request."""

    def leave(self) -> None:
        """End the process with the exit status of the signal: 130 after Ctrl-C, else 128 plus its number.

        The status is 143, that of SIGTERM, if another process was asked.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.number or signal.SIGTERM))

    @contextmanager
    def on_lost_output(self) -> Iterator[None]:
        """Request the end of the run if a line can't be written, because nobody reads the output."""
        try:
            yield
        except OSError:
            # The number of SIGPIPE, which Windows lacks.
            self.number = self.number or 13
            # Buffered text would fail again at the end of the process, and change the exit status.
            with suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stderr.fileno())


@contextmanager
def deferred_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Record the first SIGINT, SIGTERM or SIGHUP instead of ending; a second SIGINT is raised at once.

    A SIGTERM after Ctrl-C changes nothing, because launchers send one themselves. Handlers of other code,
    SIGHUP under nohup, and threads other than the main thread are left unchanged.
    """
    request = request or StopRequest()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if sys.platform != "win32":
        usual[signal.SIGHUP] = signal.SIG_DFL
    # Python sets handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        usual = {}
    # nohup ignores SIGHUP, and other programs may have their own handlers: both stay.
    held = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}

    def note(number: int, frame: object) -> None:
        if request.number is None:
            request.number = number
        # A second Ctrl-C ends at once, for a step that hangs.
        if signal.SIGINT in held:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in held:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
