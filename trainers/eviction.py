"""Whether this process has been told to end by SIGTERM, as on a machine that is taken away.

Nothing is written down here: a process whose neighbours are lost gets the same signal from Ray, and takes the mark with
it. Only a group that is still whole answers, together, at the end of a step.
"""

import signal
import threading
from types import FrameType

_told = threading.Event()


def heed() -> None:
    """From now on SIGTERM only leaves a mark; to be called in the main thread, which alone may take signals."""
    _told.clear()
    signal.signal(signal.SIGTERM, _mark)


def is_told() -> bool:
    """Whether the signal has come since `heed`."""
    return _told.is_set()


def _mark(number: int, frame: FrameType | None) -> None:
    _told.set()
