"""Files that are read, wherever they lie."""

import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from xbatch.storage.naming import is_local, local_path

READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells one version of a file from another."""

    size_bytes: int
    version: str
    """ETag, generation or modification time: whatever the store has."""


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
