"""The journal: the durable record of outcomes, from the write-ahead log to segments."""

import heapq
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec

from xbatch import storage
from xbatch.errors import StorageError, XbatchError
from xbatch.rows.shard import Shard
from xbatch.state import segments, wal
from xbatch.state.records import Counts, Record
from xbatch.state.segments import Done, Settled

SYNC_S = 0.5
"""A power cut costs at most the outcomes of this time."""


class _OpenShard:
    """A shard of which some rows are settled and not all are sealed."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.settled: set[int] = set()
        self.segments = 0
        self.fd: int | None = None
        self.dirty = False

    @property
    def covered(self) -> bool:
        return len(self.settled) == self.shard.rows


class Journal:
    """Keeps every settled row of a job in its state folder, exactly once.

    A row counts from the moment `append` returns; then it survives the death of the process. One thread brings the
    log to the disk every SYNC_S and seals shards whose rows are all settled, so that the run loop never waits for a
    disk. Raises StorageError from `append` and `close` if that thread failed.
    """

    def __init__(self, folder: Path, job_id: str) -> None:
        self.counts = Counts()
        self._folder = folder
        self._job_id = job_id
        self._open: dict[int, _OpenShard] = {}
        self._done: set[int] = set()
        self._covered: SimpleQueue[_OpenShard | None] = SimpleQueue()
        self._trouble: Exception | None = None
        for name in ("wal", "seg", "done"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def resume(self, shards: Iterable[Shard]) -> None:
        """Read back what earlier runs of the job have settled."""
        for shard in shards:
            if (done := self._read_done(shard)) is not None:
                self._done.add(shard.id)
                self.counts.add(done.counts)
            elif self._seg_folder(shard).exists() or self._wal(shard).exists():
                self._reopen(shard)

    def settled(self, shard: Shard) -> frozenset[int] | None:
        """Indexes of the rows of a shard that have an outcome; None means all."""
        if shard.id in self._done:
            return None
        opened = self._open.get(shard.id)
        return frozenset(opened.settled) if opened else frozenset()

    def append(self, shard: Shard, record: Record) -> None:
        """Settle a row of a shard."""
        self._raise_trouble()
        if (opened := self._open.get(shard.id)) is None:
            opened = self._open[shard.id] = _OpenShard(shard)
        with storage.translated(str(self._wal(shard))):
            if opened.fd is None:
                opened.fd = wal.append(self._wal(shard), self._header(shard), record)
            else:
                wal.write(opened.fd, record)
        opened.dirty = True
        opened.settled.add(record.index)
        self.counts.take(record)
        if opened.covered:
            self._finish(opened)

    def close(self) -> None:
        """Seal what is settled and stop; the state is valid and complete when this returns."""
        self._covered.put(None)
        self._thread.join()
        self._raise_trouble()
        with storage.translated(str(self._folder)):
            for opened in self._open.values():
                self._seal(opened)
        self._open.clear()

    def rows(self, shard: Shard) -> Iterator[Settled]:
        """Every settled row of a shard, in order, from its segments.

        Raises StorageError if a segment is damaged.
        """
        paths = self._segments(shard)
        return heapq.merge(*(segments.decode(p.read_bytes(), str(p), self._job_id)[1] for p in paths))

    def _reopen(self, shard: Shard) -> None:
        opened = _OpenShard(shard)
        for path in self._segments(shard):
            header, rows = segments.decode(path.read_bytes(), str(path), self._job_id)
            opened.settled.update(settled.row for settled in rows)
            opened.segments += 1
            self.counts.add(header.counts)
        for record in wal.read(self._wal(shard), self._header(shard)):
            # A crash between sealing and resetting the log leaves rows in both; the segment is the commit.
            if record.index not in opened.settled:
                opened.settled.add(record.index)
                self.counts.take(record)
        self._open[shard.id] = opened
        if opened.covered:
            self._finish(opened)

    def _finish(self, opened: _OpenShard) -> None:
        del self._open[opened.shard.id]
        self._done.add(opened.shard.id)
        self._covered.put(opened)

    def _work(self) -> None:
        """The journal's thread: seal what is covered, sync the rest from time to time."""
        try:
            while True:
                try:
                    opened = self._covered.get(timeout=SYNC_S)
                except Empty:
                    self._sync()
                    continue
                if opened is None:
                    return
                self._seal(opened)
                if self._covered.empty():
                    self._sync()
        except Exception as e:  # noqa: BLE001 - carried over to the caller's thread
            self._trouble = e

    def _sync(self) -> None:
        for opened in list(self._open.values()):
            if opened.dirty and opened.fd is not None:
                opened.dirty = False
                os.fdatasync(opened.fd)

    def _seal(self, opened: _OpenShard) -> None:
        """Make the rows of the log a segment, and mark the shard done if they were the last ones."""
        shard = opened.shard
        sealed = {settled.row for settled in self.rows(shard)}
        records = {r.index: r for r in wal.read(self._wal(shard), self._header(shard)) if r.index not in sealed}
        if records:
            self._seg_folder(shard).mkdir(exist_ok=True)
            number = opened.segments
            data = segments.encode(self._job_id, shard.name, number, list(records.values()))
            if not storage.put_if_absent(self._seg_folder(shard) / f"{number:06d}.jsonl.zst", data):
                raise StorageError(f"segment {number} of shard {shard.name} was written by somebody else")
            opened.segments += 1
        if opened.covered:
            storage.put_if_absent(self._done_file(shard), self._done_marker(shard, opened.segments))
        if opened.fd is not None:
            os.close(opened.fd)
            opened.fd = None
        self._wal(shard).unlink(missing_ok=True)

    def _done_marker(self, shard: Shard, count: int) -> bytes:
        counts = Counts()
        for path in self._segments(shard):
            counts.add(segments.decode(path.read_bytes(), str(path), self._job_id)[0].counts)
        return msgspec.json.encode(Done(self._job_id, count, counts))

    def _read_done(self, shard: Shard) -> Done | None:
        path = self._done_file(shard)
        if not path.exists():
            return None
        try:
            done = msgspec.json.decode(path.read_bytes(), type=Done)
        except msgspec.MsgspecError as e:
            raise StorageError(f"{path} is damaged: {e}") from e
        if done.job != self._job_id:
            raise StorageError(f"{path} belongs to another job")
        return done

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if isinstance(trouble, XbatchError):
            raise trouble
        if trouble is not None:
            raise StorageError(f"the journal in {self._folder} failed: {trouble}") from trouble

    def _header(self, shard: Shard) -> dict[str, str]:
        return {"job": self._job_id, "shard": shard.name}

    def _wal(self, shard: Shard) -> Path:
        return self._folder / "wal" / f"{shard.name}.wal"

    def _seg_folder(self, shard: Shard) -> Path:
        return self._folder / "seg" / shard.name

    def _segments(self, shard: Shard) -> list[Path]:
        """The segments of a shard in order; what a crash left under another name is none."""
        return sorted(self._seg_folder(shard).glob("[0-9]*.jsonl.zst"))

    def _done_file(self, shard: Shard) -> Path:
        return self._folder / "done" / f"{shard.name}.json"
