"""Counts of one pass over a job's rows, and why rows failed, read from the state alone while others may write it."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from xbatch.rows.shard import Shard
from xbatch.state import wal
from xbatch.state.folder import StateFolder, round_prefix
from xbatch.state.journal import old_logs
from xbatch.state.layer import Done, Layer
from xbatch.state.reasons import JOB_REASONS, Reasons, reasons_of
from xbatch.state.records import Counts, Kind, Record
from xbatch.state.segments import Settled

MAX_READ_SHARDS = 256
"""Of shards that an earlier version of xbatch has marked done, so many are read to learn why rows failed."""


@dataclass(slots=True)
class OpenShard:
    """The settled rows of a shard that is not done."""

    counts: Counts = field(default_factory=Counts)
    settled: set[int] = field(default_factory=set)
    failed: list[Settled] = field(default_factory=list)


class PassState:
    """What one pass over the rows has settled; passes count from 0."""

    def __init__(self, folder: StateFolder, job: str, shards: list[Shard], number: int) -> None:
        prefix = round_prefix(number)
        self._layer = Layer(folder.store, folder.path / prefix, prefix, job, 0)
        begun = set(folder.store.names(f"{prefix}seg"))
        logs = old_logs(self._layer.folder)
        self.markers: dict[int, Done] = self._layer.done_markers(shards)
        self.open = {
            shard.id: self.read(shard, logs.get(shard.name, ()))
            for shard in shards
            if shard.id not in self.markers and (shard.name in begun or shard.name in logs)
        }

    @property
    def done_counts(self) -> Counts:
        """Counts of the shards that are done."""
        return _sum(self.markers.values())

    @property
    def open_counts(self) -> Counts:
        """Counts of the others."""
        return _sum(self.open.values())

    def read(self, shard: Shard, logs: Iterable[Path] = ()) -> OpenShard:
        """Read a shard's rows. The logs come first: what is sealed meanwhile is then found in one or the other."""
        found, logged = OpenShard(), dict(self._logged(shard, logs))
        for number in count():
            if (segment := self._layer.read_segment(self._layer.segment(shard, number))) is None:
                break
            if segment.header.job != self._layer.job:
                continue
            found.counts.add(segment.header.counts)
            found.settled.update(segment.indexes())
            if segment.header.counts.failed:
                found.failed += [row for row in segment.rows() if row.kind != Kind.COMPLETED]
        for index, record in logged.items():
            if index in found.settled:
                continue
            found.counts.take(record)
            found.settled.add(index)
            if record.kind != Kind.COMPLETED:
                found.failed.append(Settled(index, record.kind, record.line, record.input_line))
        return found

    def _logged(self, shard: Shard, logs: Iterable[Path]) -> Iterator[tuple[int, Record]]:
        for path in logs:
            with suppress(FileNotFoundError):  # its owner has sealed it just now
                for entry in wal.read(path, {"job": self._layer.job, "shard": shard.name}):
                    if isinstance(entry, Record):
                        yield entry.index, entry


def _sum(shards: Iterable[Done | OpenShard]) -> Counts:
    counts = Counts()
    for each in shards:
        counts.add(each.counts)
    return counts


def count_reasons(passes: list[PassState], shards: list[Shard]) -> Reasons:
    """Count why rows failed, by each row's last response."""
    reasons, left = Reasons(), MAX_READ_SHARDS
    for shard in shards:
        last = next((each for each in reversed(passes) if shard.id in each.markers or shard.id in each.open), None)
        if last is None:
            continue
        marker = last.markers.get(shard.id)
        if marker is not None and marker.reasons is not None:
            reasons.add(marker.reasons, most=JOB_REASONS)
            continue
        through = [each for each in passes[: passes.index(last) + 1] if shard.id in each.markers or each is last]
        if marker is not None and not any(each.markers[shard.id].counts.failed for each in through):
            continue
        left -= marker is not None
        if left < 0:
            first, *again = (each.markers[shard.id].counts for each in through)
            reasons.others += max(first.failed - sum(each.completed for each in again), 0)
        else:
            reasons.add(reasons_of(_failed(through, shard)), most=JOB_REASONS)
    return reasons


def _failed(passes: list[PassState], shard: Shard) -> list[Settled]:
    """Return the rows of a shard whose last response is a failure."""
    failed: dict[int, Settled] = {}
    for each in passes:
        found = each.open.get(shard.id) or each.read(shard)
        for index in found.settled & failed.keys():
            del failed[index]
        failed |= {row.row: row for row in found.failed}
    return list(failed.values())
