"""A folder on this machine as a store."""

import os
import shutil
import time
from pathlib import Path

from xbatch.storage.local import put, put_if_absent, sync_folder, translated
from xbatch.storage.naming import check_folder, check_key, is_temporary, local_path
from xbatch.storage.store import check_body


class LocalStore:
    """Objects as the files of a folder, which is made when the first object comes."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or "/"
        self.path = local_path(uri)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put `data` under a key that is still free; False if it is taken, by whatever content."""
        path = self.path / check_key(key)
        check_body(str(path), data)
        with translated(str(path)):
            return put_if_absent(path, data)

    def put(self, key: str, data: bytes) -> None:
        """Put `data` under a key, in place of what was there."""
        path = self.path / check_key(key)
        with translated(str(path)):
            put(path, data)

    def get(self, key: str) -> bytes | None:
        """Return what lies under a key, None if nothing does."""
        path = self.path / check_key(key)
        with translated(str(path)):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def names(self, folder: str) -> list[str]:
        """Return the names directly below a folder, sorted, without temporary files."""
        path = self.path / check_folder(folder)
        with translated(str(path)):
            try:
                return sorted(each.name for each in path.iterdir() if not is_temporary(each.name))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def delete(self, key: str) -> None:
        """Remove what lies under a key, if anything does."""
        path = self.path / check_key(key)
        with translated(str(path)):
            try:
                path.unlink()
                sync_folder(path.parent)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return

    def delete_folder(self, folder: str) -> None:
        """Remove a folder with everything in it, if it exists."""
        path = self.path / check_folder(folder)
        with translated(str(path)):
            if path.is_dir():
                shutil.rmtree(path)
                sync_folder(path.parent)

    def sweep(self, older_than_s: float = 0.0) -> int:
        """Remove temporary files that a killed process has left; return how many there were.

        While other processes write here, only what is older than any write takes may be swept.
        """
        newest = time.time() - older_than_s
        swept = 0
        with translated(str(self.path)):
            for folder, _, names in os.walk(self.path):
                swept += sum(_swept(Path(folder, name), newest) for name in names if is_temporary(name))
        return swept


def _swept(path: Path, newest: float) -> bool:
    try:
        if path.stat().st_mtime > newest:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
