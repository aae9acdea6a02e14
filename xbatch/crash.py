"""Named points at which a test can have the process killed.

`XBATCH_CRASH=point:n` kills the process by SIGKILL when it comes to the point for the n-th time. Without the
variable a point costs one comparison.
"""

import os
import signal
import threading

_point, _, _count = os.environ.get("XBATCH_CRASH", "").partition(":")
_left = int(_count) if _count.isdecimal() else 1
_counting = threading.Lock()


def due(point: str) -> bool:
    """Tell whether the process should be killed here; for points in the middle of something."""
    if point != _point:
        return False
    global _left  # noqa: PLW0603 - one process, one crash
    with _counting:
        _left -= 1
        return _left == 0


def here(point: str) -> None:
    """Be killed here if this is the point, and this the time."""
    if due(point):
        now()


def now() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)
