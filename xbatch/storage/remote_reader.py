"""A remote file that is read as one version of itself, whatever befalls the connection."""

import io
import os
from dataclasses import dataclass
from typing import Any

from xbatch.errors import PlaceUnusable, StorageError
from xbatch.storage.filesystems import READ_ONLY, alone, connected, open_fs, protocol_of
from xbatch.storage.retrying import Retrying
from xbatch.storage.settings import current_settings
from xbatch.storage.trouble import Trouble, classify, reason, status_of, status_text

REMOTE_BLOCK_BYTES = 8 << 20
"""What is asked of a store at a time, and held for each file that is open."""

_VERSIONS = ("ETag", "etag", "generation", "md5", "mtime", "Last-Modified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells one version of a file from another."""

    size_bytes: int
    version: str
    """ETag, generation or modification time: whatever the store has."""


class RemoteReader(io.RawIOBase):
    """A remote file of one version; it is opened anew where it was when reading it has failed."""

    def __init__(self, uri: str, version: Stat) -> None:
        self._uri = uri
        self._version = version
        self._at = 0
        self._fs: Any = None
        self._file: Any = None
        self._failed = False
        self._settings = current_settings()
        self._retrying = Retrying(self._settings, self._drop)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on reading from another place; nothing is asked of the store yet."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._version.size_bytes}[whence]
        return self._at

    def tell(self) -> int:
        """Return where it is read from next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return the number of bytes, 0 at the end. Raises StorageError."""
        wanted = min(len(buffer), self._version.size_bytes - self._at)
        if wanted <= 0:
            return 0
        data = self._retrying.call(self._uri, lambda: self._attempt(wanted), {}, self._refusal)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close it."""
        self._drop()
        super().close()

    def _refusal(self, kind: Trouble, error: BaseException) -> StorageError | None:
        if kind is Trouble.ABSENT:
            return StorageError(f"{self._uri} was removed while it was read")
        return StorageError(f"{self._uri}: {why_refused(self._uri, error)}") if kind is Trouble.REFUSED else None

    def _attempt(self, wanted: int) -> bytes:
        if self._fs is None or self._failed:
            self._fs, self._path = open_fs(self._uri, self._settings, fresh=self._failed)
        with connected(self._fs):
            return self._read(wanted)

    def _read(self, wanted: int) -> bytes:
        try:
            if self._file is None:
                info = self._fs.info(self._path)
                if stat_of(self._uri, info) != self._version:
                    raise StorageError(f"{self._uri} was changed while it was read")
                how = _only_this_version(self._fs, self._version, info) if protocol_of(self._uri) in READ_ONLY else {}
                self._file = self._fs.open(self._path, "rb", block_size=REMOTE_BLOCK_BYTES, **how)
                self._failed = False
            if self._file.tell() != self._at:
                self._file.seek(self._at)
            data: bytes = self._file.read(wanted)
        except BaseException as e:
            self._failed = True
            self._drop()
            if isinstance(e, ValueError) and protocol_of(self._uri) in READ_ONLY:
                self._explain_whole_answer(e)
            raise
        if not data:
            self._drop()
            raise ConnectionError("the store has sent nothing")
        return data

    def _explain_whole_answer(self, error: ValueError) -> None:
        """Raise StorageError for a server that has sent a whole file where a part was asked for."""
        if stat_of(self._uri, self._fs.info(self._path)) != self._version:
            raise StorageError(f"{self._uri} was changed while it was read") from error
        why = "the server does not send parts of a file (HTTP Range), which reading it takes; download it first"
        raise PlaceUnusable(f"{self._uri}: {why}") from error

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with alone(self._fs):
                file.close()


def stat_of(uri: str, info: dict[str, Any]) -> Stat:
    """Return size and version of a file from what fsspec tells of it. Raises IsADirectoryError or StorageError."""
    if info.get("type") == "directory":
        raise IsADirectoryError(f"{uri} is a folder")
    if info.get("size") is None:
        raise PlaceUnusable(f"{uri}: the server does not tell how large it is; download it first")
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    return Stat(int(info["size"]), str(version))


def why_refused(uri: str, error: BaseException) -> str:
    """Tell why a file must not be read, and what may help."""
    status = status_of(error)
    if status is None or protocol_of(uri) not in READ_ONLY:
        return f"refused: {reason(error)}"
    if classify(error) is not Trouble.REFUSED:
        return f"refused ({status_text(status)})"
    login = "" if "?" in uri else ", or does it take a login (--storage-option 'headers.Authorization=Bearer ...')"
    return f"refused ({status}): has the signed address expired{login}?"


def _only_this_version(fs: Any, version: Stat, info: dict[str, Any]) -> dict[str, Any]:
    """Return what makes an HTTP server send a part of this version only, and all of the file if that has changed."""
    # Dates and weak ETags don't tell versions apart for sure. Without parts the file comes as one stream.
    if not version.version.startswith('"') or not info.get("partial", True):
        return {}
    # With the size given, fsspec doesn't ask for it again, which it can't with headers of its own.
    headers = {**fs.kwargs.get("headers", {}), "If-Range": version.version}
    return {"headers": headers, "size": version.size_bytes}
