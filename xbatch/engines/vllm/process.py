"""The processes of an engine: how much memory is left for them, and how they are ended."""

import contextlib
import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes() -> int:
    """Memory that can be had without swapping, of the machine or of this process's control group."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, limit - int((_CGROUP / "memory.current").read_text()))
    return max(free, 0)


def kill_children() -> None:
    """End every process that this one has started, and theirs, at once.

    An engine holds nothing that must be saved. The trackers of shared memory are left alone: they end by
    themselves and take what the others have left behind with them.
    """
    children = psutil.Process(os.getpid()).children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in word for word in child.cmdline()):
                child.kill()
    psutil.wait_procs(children, timeout=2)
