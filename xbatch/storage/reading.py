"""Files that are read, wherever they lie."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from xbatch.storage.filesystems import READ_ONLY, connected, open_fs, protocol_of
from xbatch.storage.naming import is_local, local_path
from xbatch.storage.remote_reader import RemoteReader, Stat, stat_of, why_refused
from xbatch.storage.retrying import Retrying
from xbatch.storage.settings import current_settings
from xbatch.storage.trouble import Trouble, status_of, status_text

T = TypeVar("T")

READ_BUFFER_BYTES = 1 << 20


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
    """Return what the store of a URI answers; `instead` holds what stands for some kinds of trouble.

    Raises what `refusal` makes of a trouble that does not pass, else StorageError.
    """
    settings, fresh = current_settings(), False

    def renew() -> None:
        nonlocal fresh
        fresh = True

    def attempt() -> Any:
        fs, path = open_fs(uri, settings, fresh=fresh)
        with connected(fs):
            return operation(fs, path)

    return Retrying(settings, renew).call(uri, attempt, instead or {}, refusal)
