"""Any place that fsspec knows as a store."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from xbatch.errors import StorageError
from xbatch.storage.naming import check_folder, check_key, is_temporary, temporary_name
from xbatch.storage.retrying import Retrying, Trouble
from xbatch.storage.store import check_body

T = TypeVar("T")
D = TypeVar("D")

RETRY_BUDGET_S = 900.0
_DELETERS = 16
_ROUNDS = 5

# fsspec's memory looks first and writes then. It belongs to this process alone, so a lock makes the two one.
_memory = threading.Lock()


class FsspecStore:
    """Objects in a place that fsspec knows; trouble that passes is waited out for `budget_s`."""

    def __init__(self, uri: str, budget_s: float = RETRY_BUDGET_S) -> None:
        self.uri = uri.rstrip("/")
        self._retrying = Retrying(budget_s, self._connect)
        self._fs: Any
        self._root: str
        self._retrying.call(self.uri, self._connect, {})
        # The base class's own way is to look first and then to write in place, where others could read one half.
        self._in_place = not self._fs.async_impl and type(self._fs).pipe_file is AbstractFileSystem.pipe_file
        self.looks_first = self._in_place
        """To put if absent, it is looked first and put then: of two who do so at once both may succeed."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put `data` under a key that is still free; False if it is taken by another content."""
        check_body(self._place(check_key(key)), data)
        for _ in range(_ROUNDS):
            if self._call(key, lambda: self._create(self._path(key), data), {Trouble.TAKEN: False}):
                return True
            # The answer to an earlier try may have been lost: then what is there is ours.
            if (there := self.get(key)) is not None:
                return there == data
        raise StorageError(f"{self._place(key)}: can neither be put nor read")

    def put(self, key: str, data: bytes) -> None:
        """Put `data` under a key, in place of what was there."""
        check_key(key)
        self._call(key, lambda: self._send(self._path(key), data), {})

    def get(self, key: str) -> bytes | None:
        """Return what lies under a key, None if nothing does."""
        check_key(key)
        data: bytes | None = self._call(key, lambda: self._fs.cat_file(self._path(key)), {Trouble.ABSENT: None})
        return data

    def names(self, folder: str) -> list[str]:
        """Return the names directly below a folder, sorted."""
        path = self._path(check_folder(folder))
        nothing: list[str] = []
        found = self._call(folder, lambda: self._fs.ls(path, detail=False), {Trouble.ABSENT: nothing})
        names = {name for each in found if (name := _below(path, each)) and "/" not in name}
        return sorted(name for name in names if not is_temporary(name))

    def delete(self, key: str) -> None:
        """Remove what lies under a key, if anything does."""
        check_key(key)
        self._call(key, lambda: self._fs.rm_file(self._path(key)), {Trouble.ABSENT: None})

    def delete_folder(self, folder: str) -> None:
        """Remove everything below a folder, if there is anything."""
        path = self._path(check_folder(folder))
        if self._in_place:
            self._call(folder, lambda: self._fs.rm(path, recursive=True), {Trouble.ABSENT: None})
            return
        nothing: list[str] = []
        found = self._call(folder, lambda: self._fs.find(path), {Trouble.ABSENT: nothing})
        keys = [key for each in found if (key := _below(path, each))]
        # Deleting many at once takes patterns for names, and a key may look like a pattern.
        with ThreadPoolExecutor(_DELETERS) as deleters:
            list(deleters.map(self.delete, [f"{folder}/{key}" if folder else key for key in keys]))

    def _call(self, key: str, operation: Callable[[], T], instead: Mapping[Trouble, D]) -> T | D:
        return self._retrying.call(self._place(key), operation, instead)

    def _connect(self) -> None:
        """Make the file system anew, which reads the credentials again."""
        try:
            fs, root = url_to_fs(self.uri, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as e:
            raise StorageError(f"{self.uri}: {e}; xbatch's extras s3, gcs and azure bring what those need") from e
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        if "s3" in protocols:
            # s3fs and botocore each ask again for up to a minute, and neither knows of the budget.
            fs.retries = 1
            fs.config_kwargs = {"retries": {"total_max_attempts": 1}, **fs.config_kwargs}
        self._fs, self._root = fs, root.rstrip("/")

    def _create(self, path: str, data: bytes) -> bool:
        if not self.looks_first:
            try:
                self._send(path, data, mode="create")
            except NotImplementedError:
                self.looks_first = True
            else:
                return True
        try:
            self._fs.info(path)
        except FileNotFoundError:
            self._send(path, data)
            return True
        return False

    def _send(self, path: str, data: bytes, **how: str) -> None:
        if self._in_place:
            self._send_and_rename(path, data)
        elif isinstance(self._fs, MemoryFileSystem):
            with _memory:
                self._fs.pipe_file(path, data, **how)
        else:
            self._fs.pipe_file(path, data, **how)

    def _send_and_rename(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/{temporary_name(name)}"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, path)
        except BaseException:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _place(self, key: str) -> str:
        return f"{self.uri}/{key}" if key else self.uri


def _below(folder: str, path: str) -> str:
    """What follows a folder in the path of something in it; nothing for the folder itself and what lies elsewhere."""
    path, folder = path.strip("/"), folder.strip("/")
    if not folder:
        return path
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else ""
