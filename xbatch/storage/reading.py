"""Files that are read, wherever they lie."""

import errno
import hashlib
import io
import math
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from os.path import commonprefix
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.utils import glob_translate

from xbatch.errors import StorageError
from xbatch.storage.filesystems import READ_ONLY, connected, open_fs, protocol_of
from xbatch.storage.naming import is_local, local_path
from xbatch.storage.remote_reader import RemoteReader, Stat, stat_of, why_refused
from xbatch.storage.retrying import Retrying
from xbatch.storage.settings import current_settings
from xbatch.storage.trouble import Trouble, if_there, status_of, status_text

T = TypeVar("T")

READ_BUFFER_BYTES = 1 << 20
_GLOB = "*?["


def is_pattern(uri: str) -> bool:
    """Tell whether a URI may name several files; over HTTP none does."""
    return any(c in uri for c in _GLOB) and protocol_of(uri) not in READ_ONLY


def is_folder(uri: str) -> bool:
    """Tell whether a URI names a folder. Raises StorageError."""
    if is_local(uri):
        return local_path(uri).is_dir()
    if protocol_of(uri) in READ_ONLY:
        return False
    return bool(ask(uri, lambda fs, path: _type(fs, path) == "directory"))


def expand(uri: str) -> list[str]:
    """List the files that a URI names: itself, the matches of a glob, or what a folder holds, in name order.

    A glob that ends in a slash stands for what the folders that match hold. Hidden files, and those whose names begin
    with an underscore, are left out, unless they are named themselves. Raises StorageError.
    """
    if protocol_of(uri) in READ_ONLY:
        return [uri]
    found = ask(uri, lambda fs, path: _matches(fs, path, uri), {Trouble.REFUSED: None})
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
    return stat_of(*_known(uri, lambda fs, path: (uri, fs.info(path))))


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
    return cast("BinaryIO", io.BufferedReader(RemoteReader(uri, stat(uri)), READ_BUFFER_BYTES))


def spool(stream: BinaryIO, path: Path) -> str:
    """Keep what can be read only once in a file that can be read again; return its name."""
    with open(path, "xb") as file:
        shutil.copyfileobj(stream, file, READ_BUFFER_BYTES)
    return str(path)


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
    # fsspec's own way lists every level where it must, and leaves out in silence what it can't list.
    found = fs.glob(pattern, detail=True) if fs.async_impl and "**" in pattern else _glob(fs, pattern)
    files = sorted(name for name, info in found.items() if info["type"] == "file" and not name.endswith("/"))
    local = fs.protocol == "file" or "file" in fs.protocol
    return files if local else [_uri_of(name, path, uri) for name in files]


def _glob(fs: Any, pattern: str) -> dict[str, dict[str, Any]]:
    """Return what a glob names."""
    root = pattern[: min(at for c in _GLOB if (at := pattern.find(c)) >= 0)].rpartition("/")[0]
    levels = math.inf if "**" in pattern else pattern.count("/") - root.count("/")
    matches = re.compile(glob_translate(pattern)).match
    found: dict[str, dict[str, Any]] = {}
    folders = [(root, 1)]
    for folder, level in folders:
        for info in if_there(partial(fs.ls, folder or fs.root_marker, detail=True)) or ():
            if info["type"] == "directory" and level < levels and info["name"].rstrip("/") != folder:
                folders.append((info["name"].rstrip("/"), level + 1))
            elif matches(info["name"]):
                found[info["name"]] = info
    return found


def _type(fs: Any, path: str) -> str | None:
    """Return what lies at a path, None if nothing does. fs.exists() and fs.isdir() take any trouble for a no."""
    found = if_there(lambda: fs.info(path))
    return None if found is None else str(found["type"])


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
    """Return what is found out about a file that should be there, with the errors that a local one would raise."""
    return cast("T", ask(uri, operation, {}, lambda kind, error: _refusal(uri, kind, error)))


def _refusal(uri: str, kind: Trouble, error: BaseException) -> OSError | None:
    """Return the error that a local file would raise, None if there is no such."""
    if kind is Trouble.ABSENT:
        gone = status_of(error) == HTTPStatus.GONE
        text = f"does not exist ({status_text(HTTPStatus.GONE)})" if gone else os.strerror(errno.ENOENT)
        return FileNotFoundError(errno.ENOENT, text, uri)
    is_http_status = protocol_of(uri) in READ_ONLY and status_of(error) is not None
    if kind is Trouble.REFUSED or (kind is Trouble.LASTING and is_http_status):
        return PermissionError(errno.EACCES, why_refused(uri, error), uri)
    return None


def ask(
    uri: str,
    operation: Callable[[Any, str], T],
    instead: dict[Trouble, Any] | None = None,
    refusal: Callable[[Trouble, BaseException], OSError | None] = lambda _kind, _error: None,
) -> Any:
    """Return what the file system of a URI answers."""
    settings, fresh = current_settings(), False

    def renew() -> None:
        nonlocal fresh
        fresh = True

    def attempt() -> Any:
        fs, path = open_fs(uri, settings, fresh=fresh)
        with connected(fs):
            return operation(fs, path)

    if is_local(uri):
        try:
            return operation(*open_fs(uri, settings, fresh=False))
        except OSError as e:
            raise StorageError(f"{e.filename or uri}: {e.strerror or e}") from e
    return Retrying(settings, renew).call(uri, attempt, instead or {}, refusal)
