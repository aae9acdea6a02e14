"""One shard's part of the journal: its logs and its segments."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from xbatch import crash, storage
from xbatch.rows.shard import Shard
from xbatch.state import segments, wal
from xbatch.state.layer import Done, Layer
from xbatch.state.reasons import Reasons, reasons_of
from xbatch.state.records import Counts, Record
from xbatch.state.wal import Submission, Tally

SEGMENT_BYTES = 32 << 20
"""Lines of one segment before compression; stores take only so much in one put."""


class Strikes(NamedTuple):
    """How often a row that has no outcome was handed to an engine, and how often of these alone."""

    times: int = 0
    alone: int = 0


class ShardLog:
    """A shard of which some rows are settled and not all are sealed.

    `submit` and `append` belong to the run loop's thread, `sync` and `seal` to others. `kept` tells why rows of the
    shard failed that are not settled anew here.
    """

    def __init__(
        self, layer: Layer, shard: Shard, rows: int, kept: Callable[[Shard], Reasons] = lambda _: Reasons()
    ) -> None:
        self.shard = shard
        self.counts = Counts()
        """Of the sealed rows."""
        self._reasons = Reasons()
        self._kept = kept
        self.unsealed_bytes = 0
        self.unsealed_since_s: float | None = None
        self._layer = layer
        self._rows = rows
        self._header = {"job": layer.job, "shard": shard.name}
        self._settled: set[int] = set()
        self._sealed: set[int] = set()
        self._submitted: dict[int, Strikes] = {}
        self._segments = 0
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._path: Path | None = None
        self._dirty = self._unnamed = False
        self._logs = 0
        self._closed_logs: list[Path] = []

    @property
    def covered(self) -> bool:
        """Every row has an outcome."""
        return len(self._settled) >= self._rows

    @property
    def settled(self) -> frozenset[int]:
        """The rows that have an outcome."""
        with self._lock:
            return frozenset(self._settled)

    def strikes(self, index: int) -> Strikes:
        """How often a row was handed to an engine, and has no outcome."""
        return self._submitted.get(index, Strikes())

    def recover(self, logs: Iterable[Path]) -> Counts:
        """Read back what lies in segments and in the logs of earlier processes; return the counts of all of it."""
        counts = Counts()
        self._read_segments()
        counts.add(self.counts)
        for path in logs:
            with suppress(FileNotFoundError):  # whoever only looks on may meet one that has just been sealed
                counts.add(self._recover_log(path))
        for index in self._settled:
            self._submitted.pop(index, None)
        return counts

    def _recover_log(self, path: Path) -> Counts:
        counts = Counts()
        for entry in wal.read(path, self._header):
            if isinstance(entry, Submission):
                self._strike(entry)
            elif isinstance(entry, Tally):
                self._submitted[entry.row] = Strikes(entry.times, entry.alone)
            elif entry.index not in self._settled:
                self._settle(entry)
                counts.take(entry)
        self._closed_logs.append(path)
        return counts

    def submit(self, submissions: list[Submission]) -> None:
        """Note that rows are handed to an engine."""
        with self._lock:
            for each in submissions:
                self._strike(each)
            wal.write_submitted(self._open(), submissions)

    def withdraw(self, submissions: list[Submission]) -> None:
        """Note that rows were taken back from an engine that lives."""
        with self._lock:
            for row, alone in submissions:
                strikes = self._submitted.pop(row, Strikes(1, alone))
                left = Strikes(strikes.times - 1, strikes.alone - alone)
                wal.write_tallies(self._open(), [Tally(row, *left)])
                if left.times:
                    self._submitted[row] = left

    def append(self, *records: Record) -> list[Record]:
        """Settle rows, by one write; return those that were not settled already."""
        with self._lock:
            fresh = [record for record in records if record.index not in self._settled]
            if fresh:
                wal.write(self._open(), *fresh)
                self._dirty = True
            for record in fresh:
                crash.here("wal-appended")
                self._settle(record)
                self._submitted.pop(record.index, None)
            return fresh

    def sync(self) -> None:
        """Bring the log to the disk."""
        with self._lock:
            if not self._dirty or self._fd is None:
                return
            fd, unnamed = os.dup(self._fd), self._unnamed
            self._dirty = self._unnamed = False
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        if unnamed:
            storage.sync_folder(self._layer.logs())
        crash.here("wal-synced")

    def seal(self) -> int:
        """Make the rows of the logs a segment, drop the logs, and mark the shard done if it is covered.

        Returns the bytes of all lines that were in the logs.
        """
        logs = self._rotate()
        entries = (entry for path in logs for entry in wal.read(path, self._header))
        records = {entry.index: entry for entry in entries if isinstance(entry, Record)}
        num_bytes = sum(len(record.line) for record in records.values())
        while True:
            for index in self._sealed & records.keys():
                del records[index]
            if not records:
                break
            layer, number = self._layer, self._segments
            part = _first_part(records)
            counts, data = segments.encode(layer.job, self.shard.name, number, layer.epoch, part.values())
            if not layer.store.put_if_absent(layer.segment(self.shard, number), data):
                self._read_segments()
                continue
            crash.here("segment-published")
            self._segments += 1
            self.counts.add(counts)
            for record in part.values():
                self._reasons.take(record.index, record.kind, record.line, record.input_line)
            self._sealed |= part.keys()
        for path in logs:
            path.unlink(missing_ok=True)
        with self._lock:
            self._closed_logs = self._closed_logs[len(logs) :]
        crash.here("wal-reset")
        if len(self._sealed) >= self._rows:
            self._mark_done()
        return num_bytes

    def close(self) -> None:
        """Give up the log's file; what is in it stays."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            folder = self._layer.logs()
            storage.make_folder(folder)
            while self._fd is None:
                self._path = folder / f"{self.shard.name}-{self._logs:04d}.wal"
                self._logs += 1
                with suppress(FileExistsError):  # another job's, where leases began anew
                    self._fd = wal.create(self._path, self._header)
            self._unnamed = True
        return self._fd

    def _strike(self, submission: Submission) -> None:
        strikes = self._submitted.get(submission.row, Strikes())
        self._submitted[submission.row] = Strikes(strikes.times + 1, strikes.alone + submission.alone)

    def _settle(self, record: Record) -> None:
        self._settled.add(record.index)
        self.unsealed_bytes += len(record.line)
        if self.unsealed_since_s is None:
            self.unsealed_since_s = time.monotonic()

    def _rotate(self) -> list[Path]:
        """End the log and begin another one when there is something to write; return all that have ended."""
        with self._lock:
            fd, self._fd = self._fd, None
            unnamed, self._unnamed = self._unnamed, False
            if fd is not None and self._path is not None:
                self._closed_logs.append(self._path)
            self._dirty = False
            self.unsealed_bytes, self.unsealed_since_s = 0, None
            logs = list(self._closed_logs)
            if self._submitted and logs:
                wal.write_tallies(self._open(), (Tally(row, *each) for row, each in self._submitted.items()))
        if fd is not None:
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
            if unnamed:
                storage.sync_folder(self._layer.logs())
        crash.here("wal-rotated")
        return logs

    def _read_segments(self) -> None:
        """Take in segments that are not known yet: numbers have no gaps, and nobody writes one before reading all."""
        while (found := self._layer.read_segment(self._layer.segment(self.shard, self._segments))) is not None:
            self._segments += 1
            if found.header.job != self._layer.job:
                continue  # a process that had lost its lease before the job was begun anew
            self.counts.add(found.header.counts)
            if found.header.counts.failed:
                self._reasons.add(reasons_of(found.rows()))
            indexes = set(found.indexes())
            with self._lock:
                self._sealed |= indexes
                self._settled |= indexes

    def _mark_done(self) -> None:
        crash.here("shard-covered")
        layer, key = self._layer, self._layer.done(self.shard)
        reasons = self._kept(self.shard)
        reasons.add(self._reasons)
        data = msgspec.json.encode(Done(layer.job, self._segments, self.counts, reasons))
        if not layer.store.put_if_absent(key, data) and layer.read_done(self.shard) is None:
            layer.store.put(key, data)
        crash.here("done-written")


def _first_part(records: dict[int, Record]) -> dict[int, Record]:
    """So many of the records as one segment should hold, but at least one."""
    part: dict[int, Record] = {}
    left = SEGMENT_BYTES
    for index, record in records.items():
        left -= len(record.line)
        if part and left < 0:
            break
        part[index] = record
    return part
