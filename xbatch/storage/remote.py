"""Any place that fsspec knows as a store."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from xbatch.errors import StorageError
from xbatch.storage.filesystems import connected, open_fs
from xbatch.storage.naming import check_folder, check_key, is_temporary, temporary_name
from xbatch.storage.retrying import Retrying
from xbatch.storage.settings import StorageSettings, current_settings
from xbatch.storage.store import check_body
from xbatch.storage.trouble import Trouble, if_there
from xbatch.threads import Executor

T = TypeVar("T")
D = TypeVar("D")

_DELETERS = 16
_ROUNDS = 5

# fsspec's memory looks first and writes then. It belongs to this process alone, so a lock makes the two one.
_memory = threading.Lock()


class FsspecStore:
    """Objects in a place that fsspec knows; trouble that passes is waited out for `budget_s`."""

    def __init__(self, uri: str, budget_s: float | None = None) -> None:
        self.uri = uri.rstrip("/")
        self._settings = current_settings()
        self._retrying = Retrying(self._settings, self._connect, budget_s)
        self._fs: Any
        self._root: str
        self._retrying.call(self.uri, self._connect, {}, asks=False)
        self._in_place = writes_in_place(self._fs)
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
        data: bytes | None = self._call(key, lambda: self._read(self._path(key)), {Trouble.ABSENT: None})
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
        with Executor(_DELETERS) as deleters:
            list(deleters.map(self.delete, [f"{folder}/{key}" if folder else key for key in keys]))

    def _call(self, key: str, operation: Callable[[], T], instead: Mapping[Trouble, D]) -> T | D:
        def attempt() -> T:
            with connected(self._fs):
                return operation()

        return self._retrying.call(self._place(key), attempt, instead)

    def _connect(self) -> None:
        self._fs, root = connect(self.uri, self._settings)
        self._root = root.rstrip("/")

    def _read(self, path: str) -> Any:
        try:
            return self._fs.cat_file(path)
        except OSError as e:
            # SFTP opens a folder as readily as a file, and then fails without saying why.
            if self._in_place and e.errno is None and self._fs.isdir(path):
                raise IsADirectoryError(path) from e
            raise

    def _create(self, path: str, data: bytes) -> bool:
        if not self.looks_first:
            try:
                self._send(path, data, mode="create")
            except NotImplementedError:
                self.looks_first = True
            else:
                return True
        if if_there(lambda: self._fs.info(path)) is not None:
            return False
        self._send(path, data)
        return True

    def _send(self, path: str, data: bytes, **how: str) -> None:
        if self._in_place:
            with renamed(self._fs, path) as temporary:
                self._fs.pipe_file(temporary, data)
        else:
            send_whole(self._fs, path, data, **how)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _place(self, key: str) -> str:
        return f"{self.uri}/{key}" if key else self.uri


def connect(uri: str, settings: StorageSettings, tries: int = 1, *, fresh: bool = True) -> tuple[Any, str]:
    """Return the file system of a URI and the path in it.

    It asks `tries` times itself; a fresh one reads the credentials again.

    Raises StorageError.
    """
    fs, path = open_fs(uri, settings, fresh=fresh)
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if "s3" in protocols:
        # s3fs and botocore each ask again for up to a minute, and neither knows of the budget.
        fs.retries = tries
        fs.config_kwargs = {"retries": {"total_max_attempts": 1}, **fs.config_kwargs}
    return fs, path


def writes_in_place(fs: Any) -> bool:
    """Tell whether readers of a file system could see half of what is put there.

    The base class's own way is to look first and then to write in place.
    """
    return not fs.async_impl and type(fs).pipe_file is AbstractFileSystem.pipe_file


def send_whole(fs: Any, path: str, data: bytes, **how: str) -> None:
    """Put bytes where they appear whole."""
    if isinstance(fs, MemoryFileSystem):
        with _memory:
            fs.pipe_file(path, data, **how)
    else:
        fs.pipe_file(path, data, **how)


@contextmanager
def renamed(fs: Any, path: str) -> Iterator[str]:
    """A name beside `path` to write under; what is there at the end gets the name `path`."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/{temporary_name(name)}"
    fs.makedirs(folder, exist_ok=True)
    try:
        yield temporary
        fs.mv(temporary, path)
    except BaseException:
        if fs.exists(temporary):
            fs.rm_file(temporary)
        raise


def _below(folder: str, path: str) -> str:
    """What follows a folder in the path of something in it; nothing for the folder itself and what lies elsewhere."""
    path, folder = path.strip("/"), folder.strip("/")
    if not folder:
        return path
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else ""
