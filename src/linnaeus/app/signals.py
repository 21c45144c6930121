"""SIGINT and SIGTERM, heard where a run can answer them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from linnaeus.core.errors import Interrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has asked to stop.

    Attributes:
        number: of the signal that has come, or 0.
        waits: whether somebody looks at `number` soon; else a signal raises `Interrupted` where the program is.
    """

    def __init__(self) -> None:
        """Nobody has asked, and nobody looks."""
        self.number, self.waits = 0, False

    def __call__(self) -> int:
        """`number`."""
        return self.number

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a block that looks at `number` after each step."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False


@contextmanager
def stop_signals(heard: Callable[[], None]) -> Iterator[Stop]:
    """Yields what hears SIGINT and SIGTERM inside the block; only the main thread can, in others it never hears one.

    A second signal ends the process at once, by the system's own hand: files appear whole or not at all (`atomic`), and
    whatever keeps the process from answering the first signal cannot keep it from this.

    Args:
        heard: called when a signal has come and is waited for.
    """
    stop, owner = Stop(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)  # a process that was forked from this one: the state is not its own
        for each in NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        stop.number = number
        if not stop.waits:
            raise Interrupted("stopped on request", number)
        heard()

    before = {number: signal.signal(number, note) for number in NUMBERS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
