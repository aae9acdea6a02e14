"""The processes of an engine: how much memory is left for them, how they are found, and how they are ended."""

import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil

from xbatch.engines.vllm import watchdog
from xbatch.engines.vllm.installed import is_for_cpu, preloaded_libraries
from xbatch.engines.vllm.settings import SPINS, THREADS, Choice, threads
from xbatch.engines.vllm.standby import Standby
from xbatch.rows.sizes import Expectation

_CGROUP = Path("/sys/fs/cgroup")
_END_S = 10.0
"""A killed process is given this long to be gone: a GPU's memory is free only then."""
PRELOAD = "LD_PRELOAD"
"""The environment variable that tells the loader what to load into a process before all else."""
_VARIABLES = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # what is forked of this process would not show the mark
    "SPT_NOENV": "1",  # setproctitle would write over the mark
}


def free_memory_bytes() -> int:
    """Memory that can be had without swapping, of the machine or of this process's control group."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, limit - int((_CGROUP / "memory.current").read_text()))
    return max(free, 0)


def look_at_cores(expected: Expectation | None) -> list[Choice]:
    """On which cores a CPU should compute, and how; nothing where vLLM or the user decides."""
    if THREADS in os.environ:
        return []
    has_siblings = psutil.cpu_count(logical=False) != psutil.cpu_count()
    chosen = threads(os.sched_getaffinity(0), has_siblings=has_siblings, expected=expected)
    return [choice for choice in chosen if choice.name not in os.environ]


def mark_of(owner: str) -> str:
    """What the mark of every process begins with that is started for `owner`."""
    return hashlib.sha256(owner.encode()).hexdigest()[:32]


class EngineProcesses:
    """The processes of an engine, none of which outlives this one, however it ends.

    `owner` is what no two living processes own at a time, such as a job: processes that an earlier process has left
    behind for the same owner are ended at the start. Without one nothing is taken for left behind.
    """

    def __init__(self, owner: str = "") -> None:
        self.variables = dict(_VARIABLES)
        """What its processes find in their environment."""
        self._leftovers = mark_of(owner) if owner else ""
        self._mark = ""
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._standby: Standby | None = None

    def import_early(self, expected: Expectation | None) -> None:
        """Have the first process of the next start import vLLM from now on, for rows of which so much is expected."""
        self._begin()
        variables: dict[str, str] = {}
        if is_for_cpu():
            variables = {choice.name: str(choice.value) for choice in look_at_cores(expected)}
            if libraries := preloaded_libraries(os.environ.get(PRELOAD, "")):
                variables[PRELOAD] = libraries
        self._stand_by(variables)

    @contextlib.contextmanager
    def starting(self, spawner: Any = None, *, forks: bool = False) -> Iterator[None]:
        """Whatever process is started inside belongs to the engine.

        `spawner` is vLLM's module that spawns the first one; None where that must import vLLM in the environment of
        now. With `forks` that one forks the others.
        """
        if spawner is None or self._standby is None or not self._fits(self._standby):
            self._begin()
        if spawner is not None and self._standby is None:
            self._stand_by({})
        os.environ.update(self.variables)
        os.environ[watchdog.VARIABLE] = self._mark
        try:
            with self._standby.taken_for(spawner, forks=forks) if self._standby else contextlib.nullcontext():
                yield
        finally:
            del os.environ[watchdog.VARIABLE]

    def _stand_by(self, variables: Mapping[str, str]) -> None:
        mark = {watchdog.VARIABLE: self._mark}
        self._standby = Standby({**os.environ, **self.variables, **variables, **mark})

    def _fits(self, standby: Standby) -> bool:
        """It waits, and was started with the libraries, and their settings, that it would be started with now."""
        now = {**os.environ, **self.variables}
        return standby.is_waiting and all(standby.environment.get(name) == now.get(name) for name in (PRELOAD, SPINS))

    def _begin(self) -> None:
        """End what was started before, and watch over what will be."""
        self.kill()
        self.wait()
        if self._leftovers:
            _end(self._leftovers)
        # A watchdog must not take the next start's processes for its own, so each start has a mark of its own.
        self._mark = f"{self._leftovers or secrets.token_hex(16)}.{secrets.token_hex(8)}"
        self._watchdog = _start_watchdog(self._mark)

    def kill(self) -> None:
        """Send SIGKILL to every process of the engine, for it holds nothing that must be saved."""
        if self._watchdog is None:
            return
        mark = self._mark
        for child in self._children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        if mark:
            watchdog.kill(mark)

    def wait(self) -> None:
        """Wait until the killed processes are gone, then let go of their shared memory and of the watchdog."""
        if self._watchdog is None:
            return
        is_over = _end(self._mark)
        _, alive = psutil.wait_procs(self._children(), timeout=_END_S)
        if is_over and not alive:
            _clean_shared_memory()
        if self._standby is not None:
            self._standby.close()
            self._standby = None
        self._watchdog.kill()
        self._watchdog.wait()
        self._watchdog = None
        self._mark = ""

    def _children(self) -> list[psutil.Process]:
        """The descendants of this process, but for the watchdog and for trackers, which have their own time to end."""
        watching = self._watchdog  # another thread may be letting go of it
        spared = watching.pid if watching is not None else 0
        children: list[psutil.Process] = psutil.Process().children(recursive=True)
        return [child for child in children if child.pid != spared and not _is_tracker(child)]


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker" in word for word in process.cmdline())
    return False


def _clean_shared_memory() -> None:
    """Have the tracker of shared memory remove now what killed processes have left, not when this one ends.

    A restart would find /dev/shm fuller each time. The next start gets a tracker of its own.
    """
    with contextlib.suppress(AttributeError, OSError):  # it has no public name
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # noqa: SLF001


def _end(mark: str) -> bool:
    """Kill all that have the mark until none is left, for each may have started others; tells whether none is."""
    until_s = time.monotonic() + _END_S
    while watchdog.kill(mark):
        if time.monotonic() > until_s:
            return False
        time.sleep(0.02)
    return True


def _start_watchdog(mark: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own file
        [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), mark],
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != watchdog.VARIABLE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
