"""A job's state: who the job is, its plan, its report."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from xbatch import crash, storage
from xbatch.errors import StorageError, UsageError
from xbatch.rows.shard import Shard

FORMAT = 2
_PLAN = "plan.jsonl.zst"
_CLEARING = "clearing.json"
_OUTPUTS = "outputs.json"
_BEFORE_LEASE = ("lock-", "lease", "workers")
"""What a run that was killed early may have left."""


class JobFile(msgspec.Struct, frozen=True):
    """`job.json`: what pins a job, written once."""

    format: int
    job: str
    created: str
    identity: dict[str, Any]
    """Everything that changes answers or their order, by name."""


class Accepted(msgspec.Struct, frozen=True):
    """`accept/<n>.json`: a change of the identity that the user has agreed to."""

    job: str
    at: str
    fields: list[str]
    identity: dict[str, Any]
    """As it is from here on."""


class RoundFile(msgspec.Struct, frozen=True):
    """`retry/<n>/round.json`: rows that had failed are run again."""

    job: str
    at: str
    every: bool
    """Every failed row, not only those that could be tried again."""
    rows: int
    """Of the job at that time: those that an extension has added later are not among them."""
    targets: int
    """Rows that it runs again."""
    retryable: int
    """Of these, those that could be tried again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards of a job, and what else the index pass has found out."""

    shards: list[Shard]
    facts: dict[str, Any]


class StateFolder:
    """The place beside the output in which everything about a job lies.

    `store` holds what makes the job, `path` what belongs to this machine: logs, spool, the engine's log. Where the
    state is local both are the same folder. Layout: `job.json`, `accept/`, `outputs.json`, `plan.jsonl.zst`, `lease/`,
    `workers/`, `wal/`, `seg/`, `done/`, `retry/`, `report.json`; `vllm.log`, `lock-<host>`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = storage.masked(uri)
        try:
            self.store = storage.open_store(uri)
        except StorageError as e:
            raise UsageError(str(e)) from e
        self.path = storage.local_path(uri) if storage.is_local(uri) else _local_folder(uri)
        self.spool = self.path / "spool"
        self.engine_log = self.path / "vllm.log"

    def check(self) -> None:
        """Find out whether a state could lie here, leaving nothing behind.

        Raises UsageError, also if files lie here that are no state, and StorageError if it is the disk.
        """
        if others := self._others():
            raise UsageError(f"{self.uri} holds {others[0]} and no state of a job: give an empty folder by --state")
        try:
            storage.check_writable(self.path / "lock")
        except OSError as e:
            kind = StorageError if storage.is_disk_trouble(e) else UsageError
            raise kind(f"the state folder {self.path} can't be written: {e.strerror or e}") from e

    def _others(self) -> list[str]:
        """Return names of what lies here if no job has ever come so far as to take a lease."""
        if self.store.names("lease") or self.begun or self.clearing:
            return []
        return [name for name in self.store.names("") if not name.startswith(_BEFORE_LEASE)]

    @property
    def exists(self) -> bool:
        """A job has begun here.

        Raises StorageError if what a job has done is here, and who it is not.
        """
        if self.clearing:
            return False
        if self.begun:
            return True
        if self.used:
            raise StorageError(f"{self.uri}/job.json is missing: begin anew by --restart")
        return False

    @property
    def used(self) -> bool:
        """A job has begun here, whatever is left of it."""
        return self.begun or self.store.get(_PLAN) is not None or bool(self.store.names("seg"))

    @property
    def untouched(self) -> bool:
        """No run has come further here than to take the lease."""
        return not self.used and self.own_outputs() is None

    @property
    def begun(self) -> bool:
        """There is a job file."""
        return self.store.get("job.json") is not None

    @property
    def clearing(self) -> bool:
        """Somebody has begun to throw a job away, and not ended."""
        return self.store.get(_CLEARING) is not None

    def clean(self) -> None:
        """Remove what killed processes have left half written; only for the holder of the lease."""
        shutil.rmtree(self.spool, ignore_errors=True)
        if isinstance(self.store, storage.LocalStore):
            self.store.sweep()

    def clear(self) -> None:
        """Throw away the job that has begun here; from the first moment on there is none, even if this is cut short."""
        self.store.put(_CLEARING, b"{}")
        for name in ("report.json", _PLAN):
            self.store.delete(name)
        for name in ("wal", "retry"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("seg", "done", "retry", "accept"):
            crash.here("restart-clearing")
            self.store.delete_folder(name)
        self.store.delete("job.json")
        self.store.delete(_CLEARING)

    def forget(self) -> None:
        """Throw away the job that has begun here, and which output files are its own."""
        self.clear()
        self.store.delete(_OUTPUTS)

    def own_outputs(self) -> frozenset[str] | None:
        """Return the places of the output files that jobs here have written; None if no such list was begun.

        Raises StorageError.
        """
        if self.store.get(_OUTPUTS) is None:
            return None
        places: list[str] = self._read(_OUTPUTS, list[str])
        return frozenset(places)

    def note_outputs(self, places: Iterable[str]) -> None:
        """Keep the places of output files that are this job's own; a job that begins anew here inherits them."""
        self.store.put(_OUTPUTS, _pretty(sorted(places)))
        crash.here("outputs-noted")

    def create(self, identity: dict[str, Any]) -> JobFile:
        """Begin a job; if one has begun already, return that one."""
        crash.here("job-before")
        job = JobFile(FORMAT, uuid.uuid4().hex, _now(), identity)
        self.store.put_if_absent("job.json", _pretty(job))
        crash.here("job-written")
        return self.job()

    def job(self) -> JobFile:
        """Who the job is that has begun here, with every change that was accepted since.

        Raises StorageError.
        """
        job: JobFile = self._read("job.json", JobFile)
        if job.format != FORMAT:
            raise StorageError(f"{self.uri} was written by another version of xbatch (format {job.format})")
        if accepted := self._accepted(job):
            job = msgspec.structs.replace(job, identity=accepted[-1].identity)
        return job

    def accept(self, fields: list[str], identity: dict[str, Any]) -> None:
        """Note that the user knows of a change and wants to go on."""
        job = self.job()
        self.store.delete("report.json")
        number = len(self.store.names("accept")) + 1
        accepted = Accepted(job.job, _now(), fields, identity)
        self.store.put_if_absent(f"accept/{number:04d}.json", _pretty(accepted))
        crash.here("accept-written")

    def write_plan(self, plan: Plan) -> None:
        """Keep the plan, so that a resume need not look for the shards again."""
        lines = [msgspec.json.encode(plan.facts), *(msgspec.json.encode(shard) for shard in plan.shards), b""]
        self.store.put(_PLAN, zstandard.ZstdCompressor(write_checksum=True).compress(b"\n".join(lines)))
        crash.here("plan-written")

    def plan(self) -> Plan | None:
        """The plan, if it was finished. Raises StorageError if it is damaged."""
        if (data := self.store.get(_PLAN)) is None:
            return None
        try:
            facts, *shards = zstandard.ZstdDecompressor().decompress(data).splitlines()
            return Plan(list(_shards(shards)), msgspec.json.decode(facts))
        except (zstandard.ZstdError, msgspec.MsgspecError) as e:
            raise StorageError(f"{self.uri}/{_PLAN} is damaged: {e}") from e

    def begin_round(self, *, every: bool, rows: int, targets: int, retryable: int) -> None:
        """Begin to run failed rows again; the job is not complete until that is done."""
        self.store.delete("report.json")
        number = len(self.rounds()) + 1
        data = _pretty(RoundFile(self.job().job, _now(), every, rows, targets, retryable))
        self.store.put_if_absent(f"{round_prefix(number)}round.json", data)
        crash.here("round-begun")

    def rounds(self) -> list[RoundFile]:
        """The rounds in which failed rows were run again, the last one perhaps not to its end."""
        rounds: list[RoundFile] = []
        while self.store.get(key := f"{round_prefix(len(rounds) + 1)}round.json") is not None:
            rounds.append(self._read(key, RoundFile))
        return rounds

    def write_report(self, report: dict[str, Any]) -> None:
        """Close the job: with its report it is complete."""
        self.store.put("report.json", _pretty(report))
        crash.here("report-written")

    def report(self) -> dict[str, Any] | None:
        """The totals of a job that is complete."""
        if self.store.get("report.json") is None:
            return None
        report: dict[str, Any] = self._read("report.json", dict[str, Any])
        return report

    def _accepted(self, job: JobFile) -> list[Accepted]:
        found: list[Accepted] = [self._read(f"accept/{name}", Accepted) for name in self.store.names("accept")]
        return [each for each in found if each.job == job.job]

    def _read(self, key: str, kind: Any) -> Any:
        if (data := self.store.get(key)) is None:
            raise StorageError(f"{self.uri}/{key} is missing")
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as e:
            raise StorageError(f"{self.uri}/{key} is damaged: {e}") from e


def round_prefix(number: int) -> str:
    """Where a round keeps its segments; rounds count from 1, and 0 is the run over every row."""
    return f"retry/{number:04d}/" if number else ""


def _shards(lines: Iterable[bytes]) -> Iterator[Shard]:
    decoder = msgspec.json.Decoder(Shard)
    for line in lines:
        yield decoder.decode(line)


def own_home() -> Path:
    """The folder of this machine and user for what has no other place."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return home / "xbatch"


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _local_folder(uri: str) -> Path:
    """Return the folder of this machine for a state that lies elsewhere; a changed password changes nothing."""

    def folder(name: str) -> Path:
        return own_home() / hashlib.blake2b(name.encode(), digest_size=10).hexdigest()

    # Jobs that began before passwords were left out have a log there.
    return before if (before := folder(uri)).is_dir() else folder(storage.without_secrets(uri))
