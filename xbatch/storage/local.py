"""Files on this machine, published whole.

Nothing is written in place. A file is built whole under another name, synced, and then given its name in one
step, so that no reader and no crash ever meets half of it.
"""

import ctypes
import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xbatch import crash
from xbatch.errors import PlaceUnusable, StorageError
from xbatch.storage.naming import is_temporary_of, temporary_name
from xbatch.storage.reading import READ_BUFFER_BYTES
from xbatch.storage.streams import kind_of

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_NO_NAMES = {errno.ELOOP, errno.ENAMETOOLONG}
_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
# From linux/fcntl.h and linux/fs.h; `os` has neither these nor the call.
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

_making_folders = threading.Lock()


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn an operating system's errors about `uri` into StorageError, PlaceUnusable if no file can have this name."""
    try:
        yield
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else str(e)
        kind = PlaceUnusable if e.errno in _NO_NAMES else StorageError
        raise kind(f"{uri}: {reason}") from e


def put_if_absent(path: Path, data: bytes) -> bool:
    """Publish `data` under a name that is still free; False if it is taken. Makes the folder if need be.

    Whole or not at all, and durable when it returns: the bytes and the name are synced.
    """
    make_folder(path.parent)
    with _temporary(path) as temporary:
        _build(temporary, data)
        crash.here("put-written")
        if not _take_name(temporary, path):
            return False
        crash.here("put-linked")
    sync_folder(path.parent)
    return True


def put(path: Path, data: bytes) -> None:
    """Publish `data` under a name, in place of what was there. Makes the folder if need be.

    Whole or not at all, and durable when it returns.
    """
    path = replaceable(path)
    make_folder(path.parent)
    with _temporary(path) as temporary:
        _build(temporary, data)
        crash.here("put-written")
        os.replace(temporary, path)
        crash.here("put-linked")
    sync_folder(path.parent)


def replaceable(path: Path) -> Path:
    """Return the path at which a file takes the place of `path`: behind symbolic links, for those stay.

    Raises StorageError if something lies there that is no regular file: pipes and devices are never replaced. Raises
    OSError.
    """
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = real.lstat().st_mode
    except FileNotFoundError:
        return real
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise StorageError(f"{path} is {kind_of(mode)}, which no file may replace")
    return real


def publish_file(source: Path, target: Path) -> None:
    """Give a finished, synced file its final name, in place of the regular file that was there.

    Whole or not at all. A symbolic link stays, and the file behind it is replaced. Raises StorageError if what is there
    is no regular file, and OSError.
    """
    target = replaceable(target)
    make_folder(target.parent)
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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and bring their names to the disk."""
    # Who finds a folder must not go on before the one who makes it has synced its name.
    with _making_folders:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


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


def is_disk_trouble(error: OSError) -> bool:
    """Tell trouble with the disk itself, which goes away without a change of the command, from a wrong place."""
    return error.errno in _DISK_TROUBLE


def check_writable(target: Path) -> None:
    """Find out whether a file could be published at `target`, leaving nothing behind.

    Raises StorageError if something lies there that is no regular file, and OSError.
    """
    target = replaceable(target)
    folder = target.parent
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(parents=True, exist_ok=True)  # another process that looks may have removed its own again
            made.append(path)
        with _temporary(target) as temporary:
            temporary.touch(exist_ok=False)
    finally:
        for path in reversed(made):
            with suppress(OSError):  # another process may have put something there
                path.rmdir()


def sweep_beside(target: Path, *, prefix: bool = False) -> None:
    """Remove what killed processes have left of files that were to be published at `target`, or begin with its name."""
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    with suppress(FileNotFoundError):
        for path in target.parent.iterdir():
            if is_temporary_of(path.name, target.name, prefix=prefix):
                path.unlink(missing_ok=True)


@contextmanager
def _temporary(beside: Path) -> Iterator[Path]:
    """A name in the same folder that nobody else uses; what still lies there at the end goes away."""
    path = beside.with_name(temporary_name(beside.name))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _build(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        if crash.due("put-half"):
            file.write(data[: len(data) // 2])
            file.flush()
            crash.now()
        file.write(data)
        sync_file(file)


def _take_name(temporary: Path, path: Path) -> bool:
    """Give a file a name that is still free; False if it is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then reports our own link as somebody else's.
        return temporary.stat().st_nlink > 1
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        return _rename_if_free(temporary, path)
    return True


def _rename_if_free(source: Path, target: Path) -> bool:
    """Rename a file unless the new name is taken, where there are no hard links. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return True
    if (number := ctypes.get_errno()) == errno.EEXIST:
        return False
    raise OSError(number, os.strerror(number), str(target))
