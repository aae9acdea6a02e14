"""Watching a prefix: every file that lands under it becomes a job, once, on one engine that stays warm."""

import asyncio
import fcntl
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from xbatch import storage
from xbatch.assemble.job import Job
from xbatch.assemble.starting import EngineStarter
from xbatch.display import counted, prefixed
from xbatch.errors import ExitCode, Interrupted, StorageError, UsageError
from xbatch.job.inputs import find_inputs
from xbatch.job.pairing import is_same_version
from xbatch.job.places import answers_name, check_length, is_answers, storage_of, watched_state_of
from xbatch.job.spec import JobSpec
from xbatch.report.totals import exit_code, failure_lines
from xbatch.run import Stop
from xbatch.state.folder import StateFolder

SETTLE_S = 10.0
"""A file on a disk is complete once it has not changed for so long; an object in a store is from the beginning."""
TRIES = 3
"""With `once`, a file with which the store has trouble is tried so often."""
STATE = ".xbatch"
"""Folder below the output prefix that holds the state of every job."""
_OF_ONE_JOB = ("errors", "state", "deadline", "restart", "extend", "accept_change")
_UNFINISHED = (".tmp", ".part")


@dataclass(frozen=True, slots=True)
class Unit:
    """One version of one file."""

    uri: str
    size_bytes: int
    version: str


@dataclass(slots=True)
class Seen:
    """What a watcher has done since it began."""

    too_many_failed: int = 0
    unusable: int = 0


class Watcher:
    """A loop that runs a job for each file that lies directly under a prefix.

    `spec` is the job of every file, with the prefix as its input and a prefix as its output. A file is done when the
    report of its job is there, so several watchers may share the work, and one that was killed leaves nothing undone.
    A file that is overwritten later is another unit: its output has a part of the new version's digest in its name.
    """

    def __init__(
        self,
        spec: JobSpec,
        scratch: Path,
        tell: Callable[[str], None],
        before_engine: Callable[[Path], None],
        *,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.seen = Seen()
        self.stop = Stop(spec.drain_s)
        self.job: Job | None = None
        storage.use_settings(storage_of(spec, tell))
        self._prefix, self._out = _prefixes(spec)
        self._spec = spec
        self._scratch = scratch
        self._tell = tell
        self._before_engine = before_engine
        self._settle_s = settle_s if storage.is_local(self._prefix) else 0.0
        self._first_seen: dict[Unit, float] = {}
        self._finished: set[Unit] = set()
        self._trouble: Counter[Unit] = Counter()
        self._note = ""
        self._refused: set[str] = set()
        self._own = _own_folder(StateFolder(f"{self._out}{STATE}").path)
        self._starter = EngineStarter(spec, self._own, self._own / "vllm.log", before_engine, tell)

    @property
    def draining_helps(self) -> bool:
        """Rows are in flight, so stopping means to drain."""
        return self.job is not None and self.job.draining_helps

    async def poll(self) -> bool:
        """Run a job for every file that has landed and is not done; False if some are still changing.

        Raises Interrupted when stopped, EngineError, and UsageError if the store can't keep several watchers apart.
        """
        settled = True
        for unit in self._units():
            if unit in self._finished:
                continue
            since_s = self._first_seen.setdefault(unit, time.monotonic())
            if time.monotonic() - since_s < self._settle_s:
                settled = False
            else:
                settled &= await self._run(unit)
        return settled

    async def watch(self, every_s: float, *, once: bool) -> None:
        """Poll until stopped, or, with `once`, until every file that has landed is done."""
        if not storage.is_exclusive(StateFolder(f"{self._out}{STATE}").store):
            raise UsageError(f"{self._out} does not keep several writers apart, so nothing under it can be watched for")
        while True:
            settled = await self.poll()
            if once and settled:
                return
            if once and (given_up := [unit.uri for unit, times in self._trouble.items() if times >= TRIES]):
                raise StorageError(f"{', '.join(given_up)}: not answered after {counted(TRIES, 'try', 'tries')}")
            pause_s = min(every_s, self._settle_s / 2) if once else every_s
            until = time.monotonic() + pause_s
            while time.monotonic() < until:
                if self.stop.requests:
                    raise Interrupted("stopped watching")
                await asyncio.sleep(min(0.2, pause_s))

    def close(self) -> None:
        """End the engine's processes."""
        if self.job is not None:
            self.job.close()
        self._starter.close()

    def leave(self) -> None:
        """As `close`, at once and from any thread, keeping what is settled."""
        self._starter.kill()
        if self.job is not None:
            self.job.leave()

    def _units(self) -> Iterator[Unit]:
        try:
            inputs, _ = find_inputs([self._prefix], is_answers, watched=True)
        except UsageError as e:
            if str(e) != self._note:  # most often nothing has landed yet
                self._note = str(e)
                self._tell(self._note)
            return
        for uri in inputs:
            if not uri.endswith(_UNFINISHED):
                try:
                    found = storage.stat(uri)
                except FileNotFoundError:
                    continue
                except OSError as e:  # such as a link that leads round in a circle
                    self._refuse(uri, e)
                    continue
                yield Unit(uri, found.size_bytes, found.version)

    def _refuse(self, uri: str, error: OSError) -> None:
        """Say once that a file can't be looked at."""
        if uri not in self._refused:
            self._refused.add(uri)
            self.seen.unusable += 1
            self._tell(f"{storage.shown_name(uri)} can't be read: {error.strerror or error}")

    async def _run(self, unit: Unit) -> bool:
        """Do what is left of one file; False if that must be tried again."""
        if self.stop.requests:
            raise Interrupted("stopped watching")
        shown = storage.shown_name(unit.uri)
        try:
            spec = self._spec_of(unit)
            report = self._report_of(spec)
            if report is None:
                self.job = Job(spec, self._scratch, self.stop, self._tell, self._before_engine, starter=self._starter)
                report = await self.job.run()
                counts = report["request_counts"]
                output = storage.shown_name(str(spec.output))
                self._tell(f"{shown}: {counted(counts['total'], 'row')}, {counts['failed']:,} failed, in {output}")
                for line in failure_lines(report):
                    self._tell(f"{shown}: failed {line}")
        except Interrupted as e:
            if self.stop.requests:
                raise
            self._tell(f"{shown}: {e}")  # another watcher has it
            return False
        except UsageError as e:
            self.seen.unusable += 1
            self._tell(str(e) if shown in str(e) else prefixed(shown, str(e)))
        except (StorageError, OSError) as e:
            self._tell(f"{shown}: {e}")
            self._trouble[unit] += 1
            return False
        else:
            allowed = spec.allowed_failures(report["request_counts"]["total"])
            self.seen.too_many_failed += exit_code(report, allowed) is ExitCode.TOO_MANY_FAILURES
        finally:
            if self.job is not None:
                self.job.close()
                self.job = None
        self._finished.add(unit)
        return True

    def _spec_of(self, unit: Unit) -> JobSpec:
        """Return the job of a unit, whose output has the file's own name, and a digest if that is taken."""
        name = unit.uri.rsplit("/", 1)[-1]
        form = self._spec.output_format or ("parquet" if name.lower().endswith(".parquet") else None)
        digest = blake2b(f"{unit.uri}|{unit.size_bytes}|{unit.version}".encode(), digest_size=4).hexdigest()
        for mark in ("", f".{digest}"):
            output = check_length(answers_name(name, form, mark))
            state = watched_state_of(self._out + output)
            spec = self._spec.model_copy(update={"inputs": [unit.uri], "output": self._out + output, "state": state})
            if _is_of(StateFolder(state), unit):
                return spec
        return spec

    def _report_of(self, spec: JobSpec) -> dict[str, Any] | None:
        """Return the report of a unit whose output is there, unless some of its rows should be tried again."""
        report = StateFolder(str(spec.state)).report()
        if report is None or spec.wants_retry(report["request_counts"]):
            return None
        # A report's addresses are masked, so the files are looked for where the outputs of this run go.
        sizes = {each["uri"].rpartition("/")[2]: each["num_bytes"] for each in report["outputs"]}
        return report if all(storage.size_of(self._out + name) == size for name, size in sizes.items()) else None


def _is_of(folder: StateFolder, unit: Unit) -> bool:
    """Tell whether a state is free, or that of this version of the file."""
    if not folder.exists:
        return True
    began = folder.job().identity["inputs"][0]
    return is_same_version(began, unit.uri, storage.Stat(unit.size_bytes, unit.version))


def _prefixes(spec: JobSpec) -> tuple[str, str]:
    if len(spec.inputs) != 1 or spec.output is None:
        raise UsageError("watch takes one prefix to watch, and one for the outputs by -o")
    if given := [name for name in _OF_ONE_JOB if getattr(spec, name)]:
        raise UsageError(f"watch makes many jobs, and {', '.join(given)} is of one job only")
    prefix, out = (f"{uri.rstrip('/')}/" for uri in (spec.inputs[0], spec.output))
    if f"{storage.same_place(out)}/".startswith(f"{storage.same_place(prefix)}/"):
        raise UsageError(f"{out} lies under {prefix}: the outputs would be taken for inputs")
    if storage.is_local(prefix) and not storage.local_path(prefix).is_dir():
        raise UsageError(f"{prefix} is no folder")
    if storage.is_local(out) and (place := storage.local_path(out.rstrip("/"))).exists() and not place.is_dir():
        raise UsageError(f"{place} is no folder, and watch writes a file for each input: give a folder by -o")
    return prefix, out


def _own_folder(state: Path) -> Path:
    """A folder that no other living watcher on this machine has, for the engine's log and its processes' owner."""
    for number in itertools.count(1):
        folder = state / f"watcher-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        return folder
    raise AssertionError
