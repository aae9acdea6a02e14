"""OpenAI's batches in a store: what was asked, and what has happened since.

`batches/<id>/batch.json` is what was asked; beside it lies one object for each thing that has happened, put once and
never changed: a batch's status follows from which of them are there. `open/<id>` is there while the batch has not
ended. `batches/<id>/state` is the state of its job.
"""

import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from xbatch import crash, storage
from xbatch.errors import StorageError
from xbatch.serve.files import made_at, page_of, read_object
from xbatch.state.folder import StateFolder
from xbatch.threads import Executor

BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")
BatchStatus: TypeAlias = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
End: TypeAlias = Literal["completed", "expired", "cancelled"]
_STRAY_S = 3600.0
"""A batch is marked as open before it is there; a mark without a batch is left by who was killed in between."""
_READ_AT_ONCE = 16
_KNOWN = 20_000


class Asked(msgspec.Struct, frozen=True):
    """`batch.json`: what was asked. Times are seconds since 1970."""

    id: str
    created_at: int
    expires_at: int
    endpoint: str
    input_file_id: str
    input_content: str
    completion_window: str
    metadata: dict[str, str] | None
    output_lifetime_s: int | None


class Begun(msgspec.Struct, frozen=True):
    """`in_progress.json`: every row of the input was found to be right."""

    at: int
    total: int
    models: list[str]
    """Names under which rows ask for the model."""


class Happened(msgspec.Struct, frozen=True):
    """`cancelling.json`, or `expiring.json`, which is put only while rows are left."""

    at: int


class Finalizing(msgspec.Struct, frozen=True):
    """`finalizing.json`: every row has its outcome; the output is being written."""

    at: int
    end: End
    output_file_id: str
    error_file_id: str


class Mistake(msgspec.Struct, frozen=True):
    """What is wrong with an input; lines count from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Ended(msgspec.Struct, frozen=True):
    """`ended.json`: nothing further happens to the batch."""

    at: int
    status: Literal["completed", "expired", "cancelled", "failed"]
    mistakes: list[Mistake] = []
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None


Event: TypeAlias = Begun | Happened | Finalizing | Ended
_EVENTS: dict[str, Any] = {
    "begun": ("in_progress.json", Begun),
    "cancelling": ("cancelling.json", Happened),
    "expiring": ("expiring.json", Happened),
    "finalizing": ("finalizing.json", Finalizing),
    "ended": ("ended.json", Ended),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch, and what has happened to it."""

    asked: Asked
    begun: Begun | None = None
    cancelling: Happened | None = None
    expiring: Happened | None = None
    finalizing: Finalizing | None = None
    ended: Ended | None = None

    @property
    def status(self) -> BatchStatus:
        """In OpenAI's words. A batch that waits for its turn is in progress: its input was found to be right."""
        if self.ended is not None:
            return self.ended.status
        if self.cancelling is not None:
            return "cancelling"
        if self.finalizing is not None or self.expiring is not None:
            return "finalizing"
        return "validating" if self.begun is None else "in_progress"

    @property
    def early(self) -> Literal["expired", "cancelled"] | None:
        """What ends the batch before all rows were answered."""
        if self.cancelling is not None:
            return "cancelled"
        return "expired" if self.expiring is not None else None


class Batches:
    """The batches in a store. Every method may wait for the store, and raises StorageError."""

    def __init__(self, store: storage.Store) -> None:
        self.store = store
        self._ended: dict[str, Standing] = {}
        self._readers = Executor(_READ_AT_ONCE, "batches")

    def state_of(self, batch: str) -> str:
        """Where the state of a batch's job lies."""
        return f"{self.store.uri}/batches/{batch}/state"

    def create(self, asked: Asked) -> None:
        """Have a batch there."""
        self.store.put_if_absent(f"open/{asked.id}", b"{}")
        crash.here("batch-marked")
        self.store.put_if_absent(f"batches/{asked.id}/batch.json", msgspec.json.encode(asked))
        crash.here("batch-created")

    def read(self, batch: str) -> Standing | None:
        """A batch as it stands, None if there is none."""
        if (known := self._ended.get(batch)) is not None:
            return known
        folder = f"batches/{batch}"
        names = set(self.store.names(folder)) if BATCH_ID.fullmatch(batch) else set()
        asked = read_object(self.store, f"{folder}/batch.json", Asked) if "batch.json" in names else None
        if asked is None:
            return None
        happened = {
            field: read_object(self.store, f"{folder}/{name}", kind)
            for field, (name, kind) in _EVENTS.items()
            if name in names
        }
        standing = Standing(asked, **happened)
        if standing.ended is not None:
            if len(self._ended) >= _KNOWN:
                self._ended.clear()
            self._ended[batch] = standing
        return standing

    def page(self, limit: int, after: str | None) -> tuple[list[Standing], bool]:
        """Batches, the newest first, and whether there are more; those after the one with an id."""
        ids = [name for name in self.store.names("batches") if BATCH_ID.fullmatch(name)]
        found: list[Standing] = []
        ids = page_of(ids, after, newest_first=True)
        for start in range(0, len(ids), _READ_AT_ONCE):
            for standing in self._readers.map(self.read, ids[start : start + _READ_AT_ONCE]):
                if standing is not None and len(found) == limit:
                    return found, True
                found += [standing] if standing is not None else []
        return found, False

    def note(self, batch: str, field: str, event: Event) -> None:
        """Keep what has happened to a batch; what was kept before stays."""
        name, _ = _EVENTS[field]
        self.store.put_if_absent(f"batches/{batch}/{name}", msgspec.json.encode(event))
        crash.here(f"batch-{field}")

    def has(self, batch: str, field: str) -> bool:
        """Whether something has happened to a batch."""
        name, _ = _EVENTS[field]
        return self.store.get(f"batches/{batch}/{name}") is not None

    def unended(self) -> list[str]:
        """Ids of the batches that have not ended, or have not been cleared up after, the oldest first."""
        return [name for name in self.store.names("open") if BATCH_ID.fullmatch(name)]

    def inputs_in_use(self) -> set[str]:
        """Ids of the input files of batches that have not ended."""
        unended = self._readers.map(self.read, self.unended())
        return {each.asked.input_file_id for each in unended if each is not None and each.ended is None}

    def clear_up(self, batch: str) -> None:
        """Remove what nobody needs of a batch that has ended."""
        self.store.delete_folder(f"batches/{batch}/state")
        with suppress(StorageError):
            state = StateFolder(self.state_of(batch))
            shutil.rmtree(state.path, ignore_errors=True)
        crash.here("batch-cleared")
        self.store.delete(f"open/{batch}")

    def forget_stray(self, batch: str) -> None:
        """Remove the mark of a batch that is not there, once it can't come any more."""
        if time.time() - made_at(batch) > _STRAY_S:
            self.store.delete(f"open/{batch}")
