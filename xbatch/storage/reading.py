"""Files that are read, wherever they lie."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from xbatch.errors import StorageError
from xbatch.storage.filesystems import connected, open_fs
from xbatch.storage.naming import is_local, local_path
from xbatch.storage.retrying import Retrying, Trouble

T = TypeVar("T")

READ_BUFFER_BYTES = 1 << 20
REMOTE_BLOCK_BYTES = 8 << 20
"""What is asked of a store at a time, and held for each file that is open."""

_VERSIONS = ("ETag", "etag", "generation", "md5", "mtime", "Last-Modified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells one version of a file from another."""

    size_bytes: int
    version: str
    """ETag, generation or modification time: whatever the store has."""


def stat(uri: str) -> Stat:
    """Tell size and version of a file.

    Raises FileNotFoundError, IsADirectoryError or PermissionError, and StorageError.
    """
    if is_local(uri):
        found = local_path(uri).stat()
        return Stat(found.st_size, str(found.st_mtime_ns))
    return _stat(*_known(uri, lambda fs, path: (uri, fs.info(path))))


def size_of(uri: str) -> int | None:
    """Tell the size of a file, None if it is not there. Raises StorageError."""
    try:
        return stat(uri).size_bytes
    except FileNotFoundError:
        return None


def content_stat(path: Path) -> Stat:
    """Tell one content from another, for a file that is a fresh copy every time."""
    with open(path, "rb") as file:
        return Stat(path.stat().st_size, hashlib.file_digest(file, "blake2b").hexdigest())


def open_read(uri: str) -> BinaryIO:
    """Open a file for buffered reading; a remote one bears trouble that passes.

    Raises FileNotFoundError, IsADirectoryError or PermissionError, and StorageError.
    """
    if is_local(uri):
        return open(local_path(uri), "rb", buffering=READ_BUFFER_BYTES)
    return cast("BinaryIO", io.BufferedReader(_RemoteReader(uri, stat(uri)), READ_BUFFER_BYTES))


def spool(stream: BinaryIO, path: Path) -> str:
    """Keep what can be read only once in a file that can be read again; return its name."""
    with open(path, "xb") as file:
        shutil.copyfileobj(stream, file, READ_BUFFER_BYTES)
    return str(path)


class _RemoteReader(io.RawIOBase):
    """A remote file of one version; it is opened anew where it was when reading it has failed."""

    def __init__(self, uri: str, version: Stat) -> None:
        self._uri = uri
        self._version = version
        self._at = 0
        self._fs: Any = None
        self._file: Any = None
        self._failed = False
        self._retrying = Retrying(None, self._drop)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._version.size_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._version.size_bytes - self._at)
        if wanted <= 0:
            return 0
        data = self._retrying.call(self._uri, lambda: self._attempt(wanted), {})
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _attempt(self, wanted: int) -> bytes:
        if self._fs is None or self._failed:
            self._fs, self._path = open_fs(self._uri, fresh=self._failed)
        with connected(self._fs):
            return self._read(wanted)

    def _read(self, wanted: int) -> bytes:
        try:
            if self._file is None:
                if _stat(self._uri, self._fs.info(self._path)) != self._version:
                    raise StorageError(f"{self._uri} was changed while it was read")
                self._file = self._fs.open(self._path, "rb", block_size=REMOTE_BLOCK_BYTES)
                self._failed = False
            if self._file.tell() != self._at:
                self._file.seek(self._at)
            data: bytes = self._file.read(wanted)
        except BaseException:
            self._failed = True
            self._drop()
            raise
        if not data:
            self._drop()
            raise ConnectionError("the store has sent nothing")
        return data

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _stat(uri: str, info: dict[str, Any]) -> Stat:
    if info.get("type") == "directory":
        raise IsADirectoryError(f"{uri} is a folder")
    if info.get("size") is None:
        raise StorageError(f"{uri}: the server does not tell how large it is; load it down first")
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    return Stat(int(info["size"]), str(version))


def _known(uri: str, operation: Callable[[Any, str], T]) -> T:
    """What is found out about a file that should be there, with the errors that a local one would raise."""
    found = ask(uri, operation, {Trouble.ABSENT: FileNotFoundError, Trouble.REFUSED: PermissionError})
    if isinstance(found, type):
        raise found(f"{uri} {'does not exist' if found is FileNotFoundError else 'must not be read'}")
    return cast("T", found)


def ask(uri: str, operation: Callable[[Any, str], T], instead: dict[Trouble, Any] | None = None) -> Any:
    """Return what the store of a URI answers; `instead` holds what stands for some kinds of trouble.

    Raises StorageError.
    """
    fresh = False

    def renew() -> None:
        nonlocal fresh
        fresh = True

    def attempt() -> Any:
        fs, path = open_fs(uri, fresh=fresh)
        with connected(fs):
            return operation(fs, path)

    return Retrying(None, renew).call(uri, attempt, instead or {})
