"""The journal: the durable record of every settled row."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue

from xbatch import storage
from xbatch.errors import StorageError, XbatchError
from xbatch.rows.shard import Shard
from xbatch.state import segments
from xbatch.state.layer import Layer
from xbatch.state.reasons import Reasons
from xbatch.state.records import Counts, Record
from xbatch.state.segments import Settled
from xbatch.state.shard_log import ShardLog, Strikes
from xbatch.state.wal import Submission
from xbatch.threads import Thread

SYNC_S = 0.5
"""A power cut costs at most the outcomes of this time."""
COMMIT_S = 15.0
"""The loss of this machine with its disk costs at most the outcomes of this time, where the state is elsewhere."""
COMMIT_BYTES = 8 << 20


class Journal:
    """Keeps every settled row of one pass over a job, exactly once.

    A row counts from the moment `append` returns; then it survives the death of the process. One thread brings the
    logs to the disk every SYNC_S, another seals them into segments: when a shard is covered, or when they hold
    COMMIT_BYTES or rows that are `commit_s` old. So the run loop never waits for a disk or a store.

    `targets` names the rows of each shard that are to be settled, by the shard's id; without it they are all. `kept`
    tells why other rows of a shard failed in earlier passes, for its done marker.
    `fence` is called after every segment, and raises if another process has taken the job over. `alarm` is called from
    another thread when something goes wrong there; `append` and `close` raise it.
    """

    def __init__(
        self,
        layer: Layer,
        *,
        targets: Mapping[int, frozenset[int]] | None = None,
        kept: Callable[[Shard], Reasons] = lambda _: Reasons(),
        commit_s: float = COMMIT_S,
        fence: Callable[[], None] = lambda: None,
        alarm: Callable[[XbatchError], None] = lambda _: None,
    ) -> None:
        self.counts = Counts()
        self._layer = layer
        self._targets = targets
        self._kept = kept
        self._commit_s = commit_s
        self._fence = fence
        self._alarm = alarm
        self._open: dict[int, ShardLog] = {}
        self._done: dict[int, Counts] = {}
        self._covered: SimpleQueue[ShardLog | None] = SimpleQueue()
        self._ended = threading.Event()
        self._trouble: XbatchError | None = None
        self._appended_bytes = self._sealed_bytes = 0
        self._threads = [
            Thread(target=self._guarded, args=(work,), name=f"journal-{name}", daemon=True)
            for name, work in (("sync", self._sync), ("seal", self._seal))
        ]
        for thread in self._threads:
            thread.start()

    def resume(self, shards: Iterable[Shard]) -> None:
        """Read back what earlier runs of the job have settled.

        Raises StorageError if the state is damaged.
        """
        store, prefix = self._layer.store, self._layer.prefix
        begun, logs = set(store.names(f"{prefix}seg")), old_logs(self._layer.folder)
        shards = list(shards)
        markers = self._layer.done_markers(shards)
        for shard in shards:
            if (marker := markers.get(shard.id)) is not None:
                self._done[shard.id] = marker.counts
                self.counts.add(marker.counts)
                for path in logs.get(shard.name, ()):
                    path.unlink(missing_ok=True)
            elif shard.name in begun or shard.name in logs:
                log = ShardLog(self._layer, shard, self._rows(shard), self._kept)
                self.counts.add(log.recover(logs.get(shard.name, ())))
                self._appended_bytes += log.unsealed_bytes
                self._open[shard.id] = log
                # Rows of an old log are sealed at once: its disk may have failed to keep them.
                self._enqueue(log)

    def settled(self, shard: Shard) -> frozenset[int] | None:
        """Indexes of the rows of a shard that need no answer; None means all."""
        if shard.id in self._done or not self._rows(shard):
            return None
        log = self._open.get(shard.id)
        settled = log.settled if log else frozenset()
        if self._targets is None:
            return settled
        rows = range(shard.first_row, shard.first_row + shard.rows)
        return settled | (frozenset(rows) - self._targets[shard.id])

    def strikes(self, shard: Shard, index: int) -> Strikes:
        """How often a row was handed to an engine by this process and those before, and has no outcome."""
        log = self._open.get(shard.id)
        return log.strikes(index) if log else Strikes()

    def submit(self, shard: Shard, submissions: list[Submission]) -> None:
        """Note that rows of a shard are handed to an engine."""
        with storage.translated(str(self._layer.folder)):
            self._log(shard).submit(submissions)

    def withdraw(self, shard: Shard, submissions: list[Submission]) -> None:
        """Note that rows of a shard were taken back from an engine that lives: they are suspected of nothing."""
        with storage.translated(str(self._layer.folder)):
            self._log(shard).withdraw(submissions)

    def append(self, shard: Shard, *records: Record) -> None:
        """Settle rows of a shard, each given once."""
        self._raise_trouble()
        if shard.id in self._done:
            return
        log = self._log(shard)
        with storage.translated(str(self._layer.folder)):
            for record in log.append(*records):
                self.counts.take(record)
                self._appended_bytes += len(record.line)
        if log.covered:
            self._enqueue(log)

    @property
    def unsealed_bytes(self) -> int:
        """What is settled and not sealed yet: more than a little only while the store does not answer."""
        return self._appended_bytes - self._sealed_bytes

    @property
    def sealed(self) -> Counts:
        """Counts of every shard all of whose rows are settled, by their segments once the journal is closed."""
        counts = Counts()
        for done in self._done.values():
            counts.add(done)
        return counts

    def counts_of(self, shard: Shard) -> Counts:
        """Counts of a shard all of whose rows are settled; they are those of its segments once it is sealed."""
        return self._done.get(shard.id) or Counts()

    def close(self, timeout_s: float | None = None) -> bool:
        """Seal what is settled and stop; the state is valid whether or not this comes to its end.

        False if there was no time for all of it: what is not sealed stays in the log.
        """
        self._ended.set()
        self._covered.put(None)
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if until_s is None else max(until_s - time.monotonic(), 0))
        if any(thread.is_alive() for thread in self._threads):
            return False
        for log in self._open.values():
            log.close()
        self._open.clear()
        self._remove_empty_folders()
        self._raise_trouble()
        return True

    def rows(self, shard: Shard) -> Iterator[Settled]:
        """Every sealed row of a shard, in order.

        Raises StorageError if a segment is damaged or missing.
        """
        layer, found = self._layer, []
        marker = layer.read_done(shard)
        for number in range(marker.segments if marker else 0):
            key = layer.segment(shard, number)
            if (segment := layer.read_segment(key)) is None:
                raise StorageError(f"{layer.store.uri}/{key} is missing")
            if segment.header.job == layer.job:
                found.append(segment)
        return segments.merge(found) if found else iter(())

    def _rows(self, shard: Shard) -> int:
        return shard.rows if self._targets is None else len(self._targets.get(shard.id, ()))

    def _log(self, shard: Shard) -> ShardLog:
        if (log := self._open.get(shard.id)) is None:
            log = self._open[shard.id] = ShardLog(self._layer, shard, self._rows(shard), self._kept)
        return log

    def _remove_empty_folders(self) -> None:
        for folder in (self._layer.folder / "wal").glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _enqueue(self, log: ShardLog) -> None:
        if log.covered:
            self._done[log.shard.id] = log.counts  # first: others look for it in one or the other
            self._open.pop(log.shard.id, None)
        self._covered.put(log)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except XbatchError as e:
            self._trouble = e
        except OSError as e:
            place = e.filename or self._layer.folder
            self._trouble = self._superseded() or StorageError(f"the journal failed: {place}: {e.strerror or e}")
        except Exception as e:  # noqa: BLE001 - carried over to the caller's thread
            self._trouble = XbatchError(f"the journal in {self._layer.folder} failed: {e!r}")
        if self._trouble is not None:
            self._alarm(self._trouble)

    def _superseded(self) -> XbatchError | None:
        """If another process has the job now, this is why logs and folders vanish."""
        try:
            self._fence()
        except XbatchError as e:
            return e
        return None

    def _sync(self) -> None:
        while not self._ended.wait(SYNC_S):
            for log in list(self._open.values()):
                log.sync()

    def _seal(self) -> None:
        while True:
            try:
                log = self._covered.get(timeout=SYNC_S)
            except Empty:
                log = None
            if log is not None:
                self._seal_one(log)
            elif self._ended.is_set() and self._covered.empty():
                break
            for late in [log for log in list(self._open.values()) if self._due(log)]:
                self._seal_one(late)
        for log in list(self._open.values()):
            log.seal()

    def _seal_one(self, log: ShardLog) -> None:
        self._sealed_bytes += log.seal()
        self._fence()

    def _due(self, log: ShardLog) -> bool:
        since_s = log.unsealed_since_s
        old = since_s is not None and time.monotonic() - since_s >= self._commit_s
        return old or log.unsealed_bytes >= COMMIT_BYTES

    def _raise_trouble(self) -> None:
        if self._trouble is not None:
            raise self._trouble


def old_logs(folder: Path) -> dict[str, list[Path]]:
    """Logs that processes have left in the folder of a pass, by the name of their shard, in the order of writing."""
    logs: dict[str, list[Path]] = {}
    # Unlike `glob`, `walk` bears with folders that their writer removes meanwhile.
    found = (Path(place, name) for place, _, names in os.walk(folder / "wal") for name in names)
    for path in sorted(path for path in found if path.suffix == ".wal"):
        logs.setdefault(path.name.partition("-")[0], []).append(path)
    return logs
