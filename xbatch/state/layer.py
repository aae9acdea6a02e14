"""Where one pass over a job's rows keeps what it has settled."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from xbatch.errors import StorageError
from xbatch.rows.shard import Shard
from xbatch.state import segments
from xbatch.state.reasons import Reasons
from xbatch.state.records import Counts
from xbatch.storage import Store
from xbatch.threads import Executor


class Done(msgspec.Struct, frozen=True):
    """`done/<shard>.json`: every row that had to be settled is in the segments."""

    job: str
    segments: int
    counts: Counts
    reasons: Reasons | None = None
    """Why rows of the shard failed, as it stands after this pass; None in markers of earlier versions."""


_READERS = 16
"""A store far away is asked for so many objects at a time."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Where one pass over a job's rows keeps its logs and segments."""

    store: Store
    folder: Path
    """For the logs, on this machine."""
    prefix: str
    """Of the keys in the store: nothing, or a folder with its slash."""
    job: str
    epoch: int
    """The lease under which this process writes."""

    def logs(self) -> Path:
        """The folder of this process's logs."""
        return self.folder / "wal" / f"{self.epoch:06d}"

    def segment(self, shard: Shard, number: int) -> str:
        """Key of a segment."""
        return f"{self.prefix}seg/{shard.name}/{number:06d}.jsonl.zst"

    def done(self, shard: Shard) -> str:
        """Key of a done marker."""
        return f"{self.prefix}done/{shard.name}.json"

    def read_segment(self, key: str) -> segments.Segment | None:
        """A segment, None if it is absent. Raises StorageError if it is damaged."""
        data = self.store.get(key)
        return None if data is None else segments.Segment(data, f"{self.store.uri}/{key}")

    def read_done(self, shard: Shard) -> Done | None:
        """A done marker, None if there is none of this job. Raises StorageError if it is damaged."""
        if (data := self.store.get(self.done(shard))) is None:
            return None
        try:
            done = msgspec.json.decode(data, type=Done)
        except msgspec.MsgspecError as e:
            raise StorageError(f"{self.store.uri}/{self.done(shard)} is damaged: {e}") from e
        return done if done.job == self.job else None

    def done_markers(self, shards: list[Shard]) -> dict[int, Done]:
        """Return the done markers that there are, by the id of their shard. Raises StorageError if one is damaged."""
        names = set(self.store.names(f"{self.prefix}done"))
        marked = [shard for shard in shards if f"{shard.name}.json" in names]
        with Executor(_READERS) as pool:
            found = zip(marked, pool.map(self.read_done, marked), strict=True)
            return {shard.id: marker for shard, marker in found if marker is not None}
