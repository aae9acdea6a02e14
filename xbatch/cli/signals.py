"""SIGINT and SIGTERM, taken by a thread of their own.

Both are blocked in every thread, and so in every process that is started later: Ctrl-C in a terminal and a signal to
the whole process group would otherwise also reach the engine's processes and kill the rows that should be drained.
"""

import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker

STOPPING = {signal.SIGINT, signal.SIGTERM}


def block() -> None:
    """Let nothing be interrupted from here on; call it before any thread starts."""
    # Python's tracker of shared memory unblocks both signals in the thread that starts it, so it starts first.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def watch(on_signal: Callable[[int], None]) -> None:
    """Call `on_signal` from another thread with the count of signals so far, each time one arrives."""

    def wait() -> None:
        count = 0
        while True:
            signal.sigwait(STOPPING)
            count += 1
            on_signal(count)

    threading.Thread(target=wait, name="signals", daemon=True).start()
