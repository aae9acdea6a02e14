"""Ends an engine's processes once the process that started them is gone, for vLLM's do not notice that.

Every process of an engine is started with a mark in its environment, by which it is found here, whoever its parent
is by then. This file is run by its path, apart from the package, with an interpreter that imports nothing else: a
watchdog costs some megabytes and is there before the engine is. It ends without a word.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

VARIABLE = "XBATCH_ENGINE_OWNER"
"""The environment variable that holds the mark."""
_PROCESSES = Path("/proc")
_LOOK_S = 0.05
_QUIET_S = 1.0
"""So long nothing must be found: a process that is just being started shows its environment a moment later."""
_GIVE_UP_S = 60.0
"""A process that is stuck in its driver is dead as soon as the driver lets go of it; nothing more can be done."""


def find(mark: str) -> list[int]:
    """The ids of this user's processes that were started with a mark that begins so; empty where there is no /proc.

    Trackers of shared memory are not among them: they end by themselves and clean up what the others leave behind.
    """
    try:
        ids = [int(folder.name) for folder in _PROCESSES.iterdir() if folder.name.isdigit()]
    except OSError:
        return []
    return [pid for pid in ids if pid != os.getpid() and _is_marked(pid, mark)]


def kill(mark: str) -> int:
    """Send SIGKILL to all that `find` finds, and tell how many there were."""
    found = find(mark)
    for pid in found:
        _kill(pid, mark)
    return len(found)


def _is_marked(pid: int, mark: str) -> bool:
    folder = _PROCESSES / str(pid)
    with contextlib.suppress(OSError):
        if folder.stat().st_uid != os.getuid():
            return False
        start = f"{VARIABLE}={mark}".encode()
        if any(entry.startswith(start) for entry in (folder / "environ").read_bytes().split(b"\0")):
            return b"resource_tracker" not in (folder / "cmdline").read_bytes()
    return False


def _kill(pid: int, mark: str) -> None:
    with contextlib.suppress(OSError):
        try:
            handle = os.pidfd_open(pid)
        except (AttributeError, OSError):  # an old kernel, or gone
            os.kill(pid, signal.SIGKILL)
            return
        try:
            # The id may have gone to another process since it was found; what the handle stands for stays.
            if _is_marked(pid, mark):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _wait_for_end(parent: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        handle = os.pidfd_open(parent)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        # An id that has gone to another process already is no longer our parent's.
        if os.getppid() == parent:
            poll.poll()
    while os.getppid() == parent:
        time.sleep(0.2)


def _watch(parent: int, mark: str) -> None:
    _wait_for_end(parent)
    began_s = last_s = now_s = time.monotonic()
    while now_s - last_s < _QUIET_S and now_s - began_s < _GIVE_UP_S:
        if kill(mark):
            last_s = now_s
        time.sleep(_LOOK_S)
        now_s = time.monotonic()


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
