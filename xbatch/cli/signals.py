"""SIGINT and SIGTERM, taken by a thread of their own.

Both are blocked in every thread, and so in every process that is started later: Ctrl-C in a terminal and a signal to
the whole process group would otherwise also reach the engine's processes and kill the rows that should be drained.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker

from xbatch.threads import Thread

STOPPING = {signal.SIGINT, signal.SIGTERM}


def block() -> None:
    """Let nothing be interrupted from here on; call it before any thread starts."""
    _start_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def _start_tracker() -> None:
    """Start Python's tracker of shared memory now, for it unblocks both signals in the thread that starts it.

    It inherits no standard error: what it would say about memory that killed engine processes have left, and that it
    frees, is of no use to the user.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        resource_tracker.ensure_running()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def watch(on_signal: Callable[[str], None]) -> None:
    """Call `on_signal` from another thread with the signal's name, each time one arrives."""

    def wait() -> None:
        while True:
            name = signal.Signals(signal.sigwait(STOPPING)).name
            with suppress(Exception):  # whatever goes wrong, the next signal must be heard
                on_signal(name)

    Thread(target=wait, name="signals", daemon=True).start()
