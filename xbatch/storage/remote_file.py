"""One file in a place that fsspec knows: looked for, published whole, removed."""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from xbatch.errors import StorageError
from xbatch.storage.filesystems import connected
from xbatch.storage.naming import is_temporary_of, temporary_name
from xbatch.storage.remote import connect, renamed, send_whole, writes_in_place
from xbatch.storage.retrying import Retrying
from xbatch.storage.settings import current_settings
from xbatch.storage.trouble import Trouble, if_there

T = TypeVar("T")
D = TypeVar("D")

_TRIES_OF_A_PART = 5
"""A large file goes up in parts; one that fails is sent again before the whole file is."""


class RemoteFile:
    """One file, there or not; trouble that passes is waited out for `budget_s`.

    Whatever a method raises is a StorageError that names the file.
    """

    def __init__(self, uri: str, budget_s: float | None = None) -> None:
        self.uri = uri
        self._settings = current_settings()
        self._retrying = Retrying(self._settings, self._connect, budget_s)
        self._fs: Any
        self._path: str
        # Jobs have thousands of files, and to make a file system takes its time.
        self._retrying.call(uri, lambda: self._connect(fresh=False), {}, asks=False)
        self._in_place = writes_in_place(self._fs)

    @property
    def exists(self) -> bool:
        """There is such a file."""
        return self._call(lambda: bool(self._fs.info(self._path)["type"] == "file"), {Trouble.ABSENT: False})

    @property
    def seen(self) -> bool:
        """Tell whether there is such a file, as far as this user may know: who may only write is not told."""
        unseen = {Trouble.ABSENT: False, Trouble.REFUSED: False}
        return self._call(lambda: bool(self._fs.info(self._path)["type"] == "file"), unseen)

    def publish(self, path: Path) -> None:
        """Put a file of this machine there by one put, in place of what was there; whole or not at all."""
        self._call(lambda: self._send(path), {})

    def delete(self) -> None:
        """Remove it, if it is there."""
        self._call(lambda: self._fs.rm_file(self._path), {Trouble.ABSENT: None})

    def names_beside(self, *, seen: bool = False) -> list[str]:
        """Return the names of what lies in its folder, in order; with `seen`, none if this user may not list it."""
        nothing: list[str] = []
        instead = {Trouble.ABSENT: nothing} | ({Trouble.REFUSED: nothing} if seen else {})
        found = self._call(lambda: self._fs.ls(self._folder, detail=False), instead)
        return sorted(str(each).rstrip("/").rpartition("/")[2] for each in found)

    def try_out(self) -> None:
        """Put and remove a file of another name, where this one would go or its folder would be made."""
        self._call(self._touch, {})

    def sweep(self, *, prefix: bool = False) -> None:
        """Remove what killed processes have left of it, or of all whose names begin with its name.

        Only while nobody publishes them.
        """
        for name in self.names_beside():
            if is_temporary_of(name, self._name, prefix=prefix):
                self._call(partial(self._fs.rm_file, f"{self._folder}/{name}"), {Trouble.ABSENT: None})
        if hasattr(self._fs, "abort_mpu"):
            # Nobody sees the parts of an upload that nobody ends, but they are paid for.
            instead = dict.fromkeys((Trouble.ABSENT, Trouble.REFUSED, Trouble.LASTING))
            self._call(lambda: self._abort_uploads(prefix=prefix), instead)

    @property
    def _folder(self) -> str:
        return self._path.rpartition("/")[0]

    @property
    def _name(self) -> str:
        return self._path.rpartition("/")[2]

    def _call(self, operation: Callable[[], T], instead: Mapping[Trouble, D]) -> T | D:
        def attempt() -> T:
            with connected(self._fs):
                return operation()

        return self._retrying.call(self.uri, attempt, instead)

    def _connect(self, *, fresh: bool = True) -> None:
        self._fs, self._path = connect(self.uri, self._settings, _TRIES_OF_A_PART, fresh=fresh)

    def _send(self, path: Path) -> None:
        if self._in_place:
            self._check_replaceable()
            with renamed(self._fs, self._path) as temporary:
                self._fs.put_file(str(path), temporary)
        elif self._fs.async_impl:
            self._fs.put_file(str(path), self._path)
        else:
            # fsspec's memory: its own way to put a file writes in place.
            send_whole(self._fs, self._path, path.read_bytes())

    def _check_replaceable(self) -> None:
        """Refuse to rename a file over a device or a pipe, where a file system has such."""
        with suppress(FileNotFoundError):
            if self._fs.info(self._path)["type"] not in ("file", "link"):
                raise StorageError(f"{self.uri} is no regular file, and no file may replace it")

    def _touch(self) -> None:
        folder = self._folder
        if self._in_place:
            found = if_there(lambda: self._fs.info(self._path))
            if found is not None and found["type"] == "directory":
                raise IsADirectoryError(self._path)
            while folder and if_there(partial(self._fs.info, folder)) is None:
                folder = folder.rpartition("/")[0]
        path = f"{folder}/{temporary_name(self._name)}"
        self._fs.pipe_file(path, secrets.token_bytes(1))
        with suppress(PermissionError):  # who may write need not be allowed to delete
            self._fs.rm_file(path)

    def _abort_uploads(self, *, prefix: bool) -> None:
        bucket, key, _ = self._fs.split_path(self._path)
        found = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for upload in found.get("Uploads", []):
            if upload["Key"] == key or prefix:
                self._fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
