"""OpenAI's files in a store: what a file is, and what it holds.

`contents/<name>` holds the bytes; `files/<id>.json` is put after it, and the file is there once that is. Ids begin with
a time, so the order of their names is the order in which files were made.
"""

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from xbatch import crash, storage
from xbatch.errors import StorageError
from xbatch.threads import Executor

T = TypeVar("T")

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
ORPHAN_S = 86_400.0
"""An upload that has not become a file after so long never will."""
_READ_AT_ONCE = 64
_KNOWN = 20_000


class FileRecord(msgspec.Struct, frozen=True):
    """`files/<id>.json`: a file."""

    id: str
    num_bytes: int
    created_at: int
    """Seconds since 1970."""
    filename: str
    purpose: Literal["batch", "batch_output"]
    content: str
    """Name of what it holds."""
    expires_at: int | None = None
    deleted: bool = False
    """It is being removed, and gone for everybody."""

    @property
    def is_gone(self) -> bool:
        """Nobody can see it any more."""
        return self.deleted or (self.expires_at is not None and self.expires_at <= time.time())


class Files:
    """The files in a store. Every method may wait for the store, and raises StorageError.

    `in_use` tells the ids of files that must keep their content for now.
    """

    def __init__(self, store: storage.Store, in_use: Callable[[], set[str]]) -> None:
        self.store = store
        self.in_use = in_use
        self._known: dict[str, FileRecord] = {}
        self._readers = Executor(_READ_AT_ONCE // 4, "files")

    def uri_of(self, content: str) -> str:
        """Where a content lies."""
        return f"{self.store.uri}/contents/{content}"

    def take_in(self, path: Path, num_bytes: int, filename: str, lifetime_s: int | None) -> FileRecord:
        """Make a file of what was uploaded; the spooled file at `path` may be gone afterwards."""
        name, now = new_id("file-"), int(time.time())
        expires_at = None if lifetime_s is None else now + lifetime_s
        crash.here("upload-received")
        storage.publish_to(self.uri_of(name), path)
        crash.here("upload-published")
        record = FileRecord(name, num_bytes, now, filename, "batch", name, expires_at)
        self.put(record)
        return record

    def put(self, record: FileRecord) -> None:
        """Have a file there, whose content is there; to do so twice changes nothing."""
        self.store.put_if_absent(_key(record.id), msgspec.json.encode(record))

    def get(self, file_id: str) -> FileRecord | None:
        """A file, None if there is none."""
        record = self._read(file_id) if FILE_ID.fullmatch(file_id) else None
        return record if record is not None and not self._passed_away(record) else None

    def page(
        self, purpose: str | None, limit: int, after: str | None, *, newest_first: bool
    ) -> tuple[list[FileRecord], bool]:
        """Files in the order in which they were made, and whether there are more; those after the one with an id."""
        names = [name.removesuffix(".json") for name in self.store.names("files")]
        ids = page_of([name for name in names if FILE_ID.fullmatch(name)], after, newest_first=newest_first)
        found: list[FileRecord] = []
        for start in range(0, len(ids), _READ_AT_ONCE):
            for record in self._readers.map(self._read_known, ids[start : start + _READ_AT_ONCE]):
                if record is None or purpose not in (None, record.purpose) or self._passed_away(record):
                    continue
                if len(found) == limit:
                    return found, True
                found.append(record)
        return found, False

    def delete(self, record: FileRecord) -> None:
        """Remove a file and what it holds; from the first moment on it is gone, even if this is cut short."""
        self.store.put(_key(record.id), msgspec.json.encode(msgspec.structs.replace(record, deleted=True)))
        self._known.pop(record.id, None)
        crash.here("file-deleting")
        self._wipe(record)

    def sweep(self) -> None:
        """Remove what uploads have left that were killed long ago."""
        files = {name.removesuffix(".json") for name in self.store.names("files")}
        for name in self.store.names("contents"):
            if FILE_ID.fullmatch(name) and name not in files and time.time() - made_at(name) > ORPHAN_S:
                self.store.delete(f"contents/{name}")
        if isinstance(self.store, storage.LocalStore):
            self.store.sweep(ORPHAN_S)

    def _passed_away(self, record: FileRecord) -> bool:
        """It is gone; if nobody has removed it yet, that is done."""
        if record.is_gone:
            with suppress(StorageError):
                if record.deleted or record.id not in self.in_use():
                    self._wipe(record)
        return record.is_gone

    def _wipe(self, record: FileRecord) -> None:
        self.store.delete(f"contents/{record.content}")
        crash.here("content-deleted")
        self.store.delete(_key(record.id))
        self._known.pop(record.id, None)

    def _read(self, file_id: str) -> FileRecord | None:
        return read_object(self.store, _key(file_id), FileRecord)

    def _read_known(self, file_id: str) -> FileRecord | None:
        """As `_read`; what a file is never changes, so it is read once while its name is listed."""
        if (known := self._known.get(file_id)) is not None:
            return known
        if (record := self._read(file_id)) is not None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[file_id] = record
        return record


def new_id(prefix: str) -> str:
    """An id that nobody else uses and that sorts behind all that were made before: 24 hex digits."""
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(5)}"


def made_at(name: str) -> float:
    """When an id was made, in seconds since 1970."""
    return int(name[-24:-10], 16) / 1e6


def page_of(ids: list[str], after: str | None, *, newest_first: bool) -> list[str]:
    """Ids that stand in the order of time, in either order, from the one after another on."""
    if newest_first:
        return [each for each in reversed(ids) if after is None or each < after]
    return [each for each in ids if after is None or each > after]


def read_object(store: storage.Store, key: str, kind: type[T]) -> T | None:
    """An object of JSON, None if there is none. Raises StorageError if it is damaged."""
    if (data := store.get(key)) is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as e:
        raise StorageError(f"{store.uri}/{key} is damaged: {e}") from e


def _key(file_id: str) -> str:
    return f"files/{file_id}.json"
