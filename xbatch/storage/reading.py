"""Files that are read, wherever they lie."""

import hashlib
import io
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.utils import glob_translate

from xbatch.errors import StorageError
from xbatch.storage.filesystems import READ_ONLY, connected, open_fs, protocol_of
from xbatch.storage.naming import is_local, local_path
from xbatch.storage.retrying import Retrying, Trouble

T = TypeVar("T")

READ_BUFFER_BYTES = 1 << 20
REMOTE_BLOCK_BYTES = 8 << 20
"""What is asked of a store at a time, and held for each file that is open."""

_VERSIONS = ("ETag", "etag", "generation", "md5", "mtime", "Last-Modified", "last_modified", "created")
_GLOB = "*?["


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells one version of a file from another."""

    size_bytes: int
    version: str
    """ETag, generation or modification time: whatever the store has."""


def is_pattern(uri: str) -> bool:
    """Tell whether a URI may name several files; over HTTP none does."""
    return any(c in uri for c in _GLOB) and protocol_of(uri) not in READ_ONLY


def is_folder(uri: str) -> bool:
    """Tell whether a URI names a folder. Raises StorageError."""
    if is_local(uri):
        return local_path(uri).is_dir()
    if protocol_of(uri) in READ_ONLY:
        return False
    return bool(_ask(uri, lambda fs, path: _type(fs, path) == "directory"))


def expand(uri: str) -> list[str]:
    """List the files that a URI names: itself, the matches of a glob, or what a folder holds, in name order.

    A glob that ends in a slash stands for what the folders that match hold. Hidden files, and those whose names begin
    with an underscore, are left out, unless they are named themselves. Raises StorageError.
    """
    if protocol_of(uri) in READ_ONLY:
        return [uri]
    found = _ask(uri, lambda fs, path: _matches(fs, path, uri), {Trouble.REFUSED: None})
    if found is None:
        return [uri]
    found = [each for each in found if not each.rsplit("/", 1)[-1].startswith((".", "_"))]
    return [_relative(each) if is_local(uri) else each for each in found]


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


def _matches(fs: Any, path: str, uri: str) -> list[str] | None:
    """The files that a URI with this path names if it is a glob or a folder, None if it is neither."""
    if (kind := _type(fs, path)) == "file":
        return None
    if any(c in path for c in _GLOB):
        pattern = f"{path.rstrip('/')}/*" if uri.endswith("/") else path
    elif kind == "directory":
        pattern = f"{path.rstrip('/')}/*"
    else:
        return None
    found = fs.glob(pattern, detail=True) if fs.async_impl else _glob(fs, pattern)
    files = sorted(name for name, info in found.items() if info["type"] == "file" and not name.endswith("/"))
    local = fs.protocol == "file" or "file" in fs.protocol
    return files if local else [_uri_of(name, path, uri) for name in files]


def _glob(fs: Any, pattern: str) -> dict[str, dict[str, Any]]:
    """What a glob names. The way that most file systems share leaves out in silence what it can't list."""
    root = pattern[: min(at for c in _GLOB if (at := pattern.find(c)) >= 0)].rpartition("/")[0]
    levels = math.inf if "**" in pattern else pattern.count("/") - root.count("/")
    matches = re.compile(glob_translate(pattern)).match
    found: dict[str, dict[str, Any]] = {}
    folders = [(root, 1)]
    for folder, level in folders:
        with suppress(FileNotFoundError):
            for info in fs.ls(folder or fs.root_marker, detail=True):
                if info["type"] == "directory" and level < levels and info["name"].rstrip("/") != folder:
                    folders.append((info["name"].rstrip("/"), level + 1))
                elif matches(info["name"]):
                    found[info["name"]] = info
    return found


def _type(fs: Any, path: str) -> str | None:
    """What lies at a path. The file systems' own ways to ask that take any trouble for a no."""
    try:
        return str(fs.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def _uri_of(name: str, path: str, uri: str) -> str:
    """The URI of a file that lies where the path of another URI says, on the same host and within the same archive."""
    own, chained, outer = uri.rstrip("/").partition("::")
    own, path = own.rstrip("/"), path.rstrip("/")
    same = len(commonprefix([own[::-1], path[::-1]]))  # noqa: RUF071 - characters are what is to be compared
    return own[: len(own) - same] + name.removeprefix(path[: len(path) - same]) + chained + outer


def _relative(path: str) -> str:
    """Name a file as the user would: from here, if it lies below here."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else below


def _known(uri: str, operation: Callable[[Any, str], T]) -> T:
    """What is found out about a file that should be there, with the errors that a local one would raise."""
    found = _ask(uri, operation, {Trouble.ABSENT: FileNotFoundError, Trouble.REFUSED: PermissionError})
    if isinstance(found, type):
        raise found(f"{uri} {'does not exist' if found is FileNotFoundError else 'must not be read'}")
    return cast("T", found)


def _ask(uri: str, operation: Callable[[Any, str], T], instead: dict[Trouble, Any] | None = None) -> Any:
    """What the file system of a URI answers."""
    fresh = False

    def renew() -> None:
        nonlocal fresh
        fresh = True

    def attempt() -> Any:
        fs, path = open_fs(uri, fresh=fresh)
        with connected(fs):
            return operation(fs, path)

    if is_local(uri):
        try:
            return operation(*open_fs(uri, fresh=False))
        except OSError as e:
            raise StorageError(f"{e.filename or uri}: {e.strerror or e}") from e
    return Retrying(None, renew).call(uri, attempt, instead or {})
