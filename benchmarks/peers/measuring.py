"""Running one command, and what it took: time, CPU time by process, peak memory."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

OWN_S = 0.02
"""Between two looks at the command's own process, whose last moments count."""
TREE_S = 0.25
"""Between two looks at all its processes, which costs more."""
READY = b"init engine ("
"""What vLLM logs when its engine is ready."""
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One command's run.

    Own is every process of it that is not one of vLLM's: those call themselves `VLLM::EngineCore` and so on, or descend
    from one that does. A process that has ended keeps what it had when it was last seen.
    """

    took_s: float
    ready_s: float | None
    """After so long vLLM said that its engine was ready; None if it did not."""
    own_cpu_s: float
    engine_cpu_s: float
    own_peak_bytes: int
    """The sum of each process's peak of resident memory, but of none that was gone before the engine came: vLLM looks
    at a model in a process that lives for a moment."""
    tree_peak_bytes: int

    @property
    def answering_s(self) -> float:
        """The time from when the engine was ready, or the whole."""
        return self.took_s - (self.ready_s or 0)


@dataclass(slots=True)
class _Seen:
    is_engine: bool = False
    cpu_s: float = 0.0
    peak_bytes: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


def measure(command: Sequence[str], log: Path, engine_log: Path | None = None) -> Measured:
    """Run a command to its end; vLLM logs to `log` as all do, or to `engine_log`.

    Raises SystemExit with the end of its log if it fails.
    """
    began_s = time.monotonic()
    ready = _Ready([log] if engine_log is None else [log, engine_log])
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | QUIET)
        seen: dict[int, _Seen] = {}
        watcher = threading.Thread(target=_watch, args=(process, seen, ready), daemon=True)
        watcher.start()
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    took_s = time.monotonic() - began_s
    watcher.join()
    engine = [each for each in seen.values() if each.is_engine]
    own = [each for each in seen.values() if not each.is_engine]
    engine_s = min((each.first_s for each in engine), default=0.0)
    own_peak = sum(each.peak_bytes for each in own if each.last_s >= engine_s)
    return Measured(
        took_s,
        None if ready.at_s is None else ready.at_s - began_s,
        sum(each.cpu_s for each in own),
        sum(each.cpu_s for each in engine),
        own_peak,
        own_peak + sum(each.peak_bytes for each in engine),
    )


@dataclass(slots=True)
class _Ready:
    """Sees in one of some logs that vLLM's engine is ready."""

    logs: list[Path]
    at_s: float | None = None

    def look(self) -> None:
        if self.at_s is None and any(READY in log.read_bytes() for log in self.logs if log.exists()):
            self.at_s = time.monotonic()


def _watch(process: "subprocess.Popen[bytes]", seen: dict[int, _Seen], ready: _Ready) -> None:
    due_s = 0.0
    while process.poll() is None:
        _look(process.pid, seen)
        ready.look()
        if time.monotonic() >= due_s:
            try:
                children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            except psutil.Error:
                children = []
            for pid in children:
                _look(pid, seen)
            due_s = time.monotonic() + TREE_S
        time.sleep(OWN_S)


def _look(pid: int, seen: dict[int, _Seen]) -> None:
    """Take down what one process has used so far; one that has ended stays as it was."""
    place = Path(f"/proc/{pid}")
    try:
        title = (place / "cmdline").read_bytes()
        _, parent, *rest = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        status = (place / "status").read_text(encoding="utf-8").partition("VmHWM:")[2].split(maxsplit=1)
    except (OSError, ValueError):
        return
    if title and status:  # else it has ended and only waits to be asked how
        each = seen.setdefault(pid, _Seen())
        above = seen.get(int(parent))
        each.is_engine = title.startswith(b"VLLM::") or (above is not None and above.is_engine)
        each.cpu_s = sum(map(int, rest[9:11])) / _TICKS_S
        each.last_s = time.monotonic()
        each.first_s = each.first_s or each.last_s
        # Of the process's own making: the peak of `getrusage` would begin with that of the parent.
        each.peak_bytes = 1024 * int(status[0])
