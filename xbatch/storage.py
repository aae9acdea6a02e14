"""Where bytes lie: the only module that knows fsspec, and the only one that publishes.

Nothing is written in place. A file is built whole under another name, synced, and then given its name in one
step, so that no reader and no crash ever meets half of it.
"""

import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from xbatch.errors import StorageError

READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells one version of a file from another."""

    size_bytes: int
    version: str
    """ETag, generation or modification time: whatever the store has."""


def is_local(uri: str) -> bool:
    """Tell whether a URI names a place on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path behind a local URI.

    Raises StorageError if the URI is not local.
    """
    if not is_local(uri):
        raise StorageError(f"{uri} is not on this machine")
    return Path(uri.removeprefix("file://"))


def expand(uri: str) -> list[str]:
    """List the files that a URI names: itself, the matches of a glob, or what a folder holds, in name order."""
    fs, path = url_to_fs(uri)
    if fs.isfile(path) or not (any(c in path for c in "*?[") or fs.isdir(path)):
        return [uri]
    pattern = f"{path.rstrip('/')}/*" if fs.isdir(path) else path
    found = [cast("str", p) for p in sorted(fs.glob(pattern)) if fs.isfile(p)]
    found = [p for p in found if not p.rsplit("/", 1)[-1].startswith((".", "_"))]
    return [_relative(p) if is_local(uri) else fs.unstrip_protocol(p) for p in found]


def _relative(path: str) -> str:
    """Name a file as the user would: from here, if it lies below here."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else below


def stat(uri: str) -> Stat:
    """Tell size and version of a file.

    Raises FileNotFoundError, IsADirectoryError or PermissionError.
    """
    if is_local(uri):
        found = local_path(uri).stat()
        return Stat(found.st_size, str(found.st_mtime_ns))
    fs, path = url_to_fs(uri)
    info = fs.info(path)
    version = info.get("ETag") or info.get("etag") or info.get("generation") or info.get("mtime") or ""
    return Stat(int(info["size"]), str(version))


def content_stat(path: Path) -> Stat:
    """Tell one content from another, for a file that is a fresh copy every time."""
    with open(path, "rb") as file:
        return Stat(path.stat().st_size, hashlib.file_digest(file, "blake2b").hexdigest())


def open_read(uri: str) -> BinaryIO:
    """Open a file for buffered reading.

    Raises FileNotFoundError, IsADirectoryError or PermissionError.
    """
    if is_local(uri):
        return open(local_path(uri), "rb", buffering=READ_BUFFER_BYTES)
    raw = fsspec.open(uri, "rb").open()
    return cast("BinaryIO", io.BufferedReader(raw, READ_BUFFER_BYTES))


def spool(stream: BinaryIO, path: Path) -> str:
    """Keep what can be read only once in a file that can be read again; return its name."""
    with open(path, "xb") as file:
        shutil.copyfileobj(stream, file, READ_BUFFER_BYTES)
    return str(path)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn an operating system's errors about `uri` into StorageError."""
    try:
        yield
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        raise StorageError(f"{uri}: {reason}") from e


def put_if_absent(path: Path, data: bytes) -> bool:
    """Publish `data` under a name that is still free; False if it is taken.

    Whole or not at all, and durable when it returns: the bytes and the name are synced.
    """
    with _temporary(path) as temporary:
        _write_synced(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


def put(path: Path, data: bytes) -> None:
    """Publish `data` under a name, in place of what was there. Whole or not at all, durable when it returns."""
    with _temporary(path) as temporary:
        _write_synced(temporary, data)
        os.replace(temporary, path)
    sync_folder(path.parent)


def publish_file(source: Path, target: Path) -> None:
    """Give a finished, synced file its final name, in place of what was there. Whole or not at all."""
    try:
        os.replace(source, target)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        with _temporary(target) as temporary:
            with open(source, "rb") as read, open(temporary, "xb") as write:
                shutil.copyfileobj(read, write, READ_BUFFER_BYTES)
                sync_file(write)
            os.replace(temporary, target)
        source.unlink()
    sync_folder(target.parent)


def sync_file(file: BinaryIO) -> None:
    """Bring a file's bytes to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_writable(target: Path) -> None:
    """Find out whether a file could be published at `target`, leaving nothing behind.

    Raises OSError.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    folder = target.parent
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        with _temporary(target) as temporary:
            _write_synced(temporary, b"")
    finally:
        for path in reversed(made):
            path.rmdir()


@contextmanager
def _temporary(beside: Path) -> Iterator[Path]:
    """A name in the same folder that nobody else uses; what still lies there at the end goes away."""
    path = beside.with_name(f".{beside.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        sync_file(file)
