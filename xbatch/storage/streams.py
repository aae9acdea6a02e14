"""Places on this machine that are no regular files: pipes, terminals, devices, and the streams of this process."""

import fcntl
import os
import stat
from pathlib import Path

from xbatch.errors import UsageError
from xbatch.storage.naming import is_local, local_path

_DESCRIPTOR = "/dev/fd/"
_STANDARD_OUTPUT = 1
_STANDARD = 2
"""The highest descriptor that every process has."""
_SINKS = ("/dev/null", "/dev/zero", "/dev/full")
_TERMINALS = frozenset((4, 5, *range(136, 144)))
"""Linux's major numbers of terminals. To open a device in order to ask may already set it off."""
_MAX_LINKS = 40
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFLNK: "a symbolic link that leads nowhere",
}


def kind_of(mode: int) -> str:
    """Name what is no regular file, for the user."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def stream_of(uri: str) -> str | None:
    """Return the name of the stream at a place; None where there is a regular file, or nothing, or another store.

    A stream is `-`, a descriptor such as `/dev/stderr`, a named pipe, a terminal or a device like `/dev/null`. Two
    names of one descriptor give the same name, `/dev/fd/<number>`. Raises UsageError if there is something that can't
    be written, and whatever it is, that is not replaced by a file.
    """
    if not is_local(uri):
        return None
    if uri == "-":
        return _checked(_STANDARD_OUTPUT, uri)
    try:
        path = _behind_links(local_path(uri))
        if (number := _descriptor_of(path)) is not None:
            return _checked(number, uri)
        found = path.stat()
    except OSError:
        return None  # whoever writes there finds out what is wrong
    if stat.S_ISREG(found.st_mode):
        return None
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{uri} is a folder: give its name with a / at the end to have the output in it")
    if not stat.S_ISFIFO(found.st_mode) and not _is_sink(found):
        raise UsageError(f"{uri} is {kind_of(found.st_mode)}, to which no output can be written")
    if not os.access(path, os.W_OK):
        raise UsageError(f"{uri} can't be written: Permission denied")
    return str(path)


def open_stream(name: str) -> int:
    """Open a stream by the name that `stream_of` has given, and return a descriptor of its own for it.

    For a named pipe this waits for a reader. Raises OSError.
    """
    if is_descriptor(name):
        return os.dup(int(name.removeprefix(_DESCRIPTOR)))
    return os.open(name, os.O_WRONLY | os.O_NOCTTY)


def is_descriptor(name: str) -> bool:
    """Tell whether a stream is one that this process was given, which it should keep before it gives it away."""
    return name.startswith(_DESCRIPTOR)


def _behind_links(path: Path) -> Path:
    """Follow symbolic links up to a descriptor of this process, which is one itself. Raises OSError."""
    for _ in range(_MAX_LINKS):
        # Path.resolve raises what is no OSError for links that lead round in a circle.
        path = Path(os.path.realpath(path.parent)) / path.name
        if _descriptor_of(path) is not None or not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def _descriptor_of(path: Path) -> int | None:
    """Return the number of this process's descriptor that a path stands for, None if it stands for none."""
    is_one = str(path.parent) in (f"/proc/{os.getpid()}/fd", "/dev/fd") and path.name.isdecimal()
    return int(path.name) if is_one else None


def _checked(number: int, uri: str) -> str:
    """Return the name of a descriptor; refuse one that is not open for writing, or that this process has opened."""
    try:
        is_given = number <= _STANDARD or os.get_inheritable(number)  # Python's own are never inheritable
        is_open = is_given and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except (OSError, OverflowError):
        is_open = False
    if not is_open:
        raise UsageError(f"{uri} is not open for writing")
    return f"{_DESCRIPTOR}{number}"


def _is_sink(found: os.stat_result) -> bool:
    if not stat.S_ISCHR(found.st_mode):
        return False
    sinks = [path.stat().st_rdev for path in map(Path, _SINKS) if path.exists()]
    return found.st_rdev in sinks or os.major(found.st_rdev) in _TERMINALS
