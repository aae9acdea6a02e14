"""A job's state folder: who the job is, its plan, its report."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from xbatch import storage
from xbatch.errors import Interrupted, StorageError
from xbatch.rows.shard import Shard

FORMAT = 1


class JobFile(msgspec.Struct, frozen=True):
    """`job.json`: what pins a job, written once."""

    format: int
    job: str
    created: str
    identity: dict[str, Any]
    """Everything that changes answers or their order, by name."""


class StateFolder:
    """The folder beside the output in which everything about a job lies.

    Layout: `job.json`, `plan.jsonl.zst`, `wal/`, `seg/`, `done/`, `report.json`, `vllm.log`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self.engine_log = path / "vllm.log"
        self._lock_fd: int | None = None

    @property
    def exists(self) -> bool:
        """A job has begun here."""
        return (self.path / "job.json").exists()

    def lock(self) -> None:
        """Make the folder and claim it for this process until it ends.

        Raises Interrupted if another process on this machine has it.
        """
        self.spool.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode().strip()
            raise Interrupted(f"process {holder} is already running this job ({self.path})") from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, str(os.getpid()).encode(), 0)

    def clear(self) -> None:
        """Throw away the job that has begun here; `job.json` goes last, so that a crash leaves a job or none."""
        for name in ("report.json", "plan.jsonl.zst"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("wal", "seg", "done"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / "job.json").unlink(missing_ok=True)

    def create(self, identity: dict[str, Any]) -> JobFile:
        """Begin a job; if one has begun already, return that one."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        job = JobFile(FORMAT, uuid.uuid4().hex, created, identity)
        storage.put_if_absent(self.path / "job.json", msgspec.json.format(msgspec.json.encode(job), indent=2))
        return self.job()

    def job(self) -> JobFile:
        """Who the job is that has begun here."""
        job: JobFile = _decode(self.path / "job.json", JobFile)
        return job

    def write_plan(self, shards: Iterable[Shard]) -> None:
        """Keep the shards, so that a resume need not look for them again."""
        lines = b"".join(msgspec.json.encode(shard) + b"\n" for shard in shards)
        storage.put(self.path / "plan.jsonl.zst", zstandard.ZstdCompressor(write_checksum=True).compress(lines))

    def plan(self) -> list[Shard] | None:
        """The shards, if the plan was finished."""
        path = self.path / "plan.jsonl.zst"
        if not path.exists():
            return None
        try:
            lines = zstandard.ZstdDecompressor().decompress(path.read_bytes()).splitlines()
            return list(_shards(lines))
        except (zstandard.ZstdError, msgspec.MsgspecError) as e:
            raise StorageError(f"{path} is damaged: {e}") from e

    def write_report(self, report: dict[str, Any]) -> None:
        """Close the job: with its report it is complete."""
        storage.put(self.path / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2))

    def report(self) -> dict[str, Any] | None:
        """The totals of a job that is complete."""
        path = self.path / "report.json"
        return _decode(path, dict[str, Any]) if path.exists() else None


def _shards(lines: list[bytes]) -> Iterator[Shard]:
    decoder = msgspec.json.Decoder(Shard)
    for line in lines:
        yield decoder.decode(line)


def _decode(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as e:
        raise StorageError(f"{path} is damaged: {e}") from e
