"""What lies among the files of this machine and is none: pipes, which are read to their end once, and devices."""

import os
import re
import select
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from xbatch.errors import UsageError
from xbatch.storage.naming import is_local, local_path, shown_name
from xbatch.storage.reading import READ_BUFFER_BYTES, spool
from xbatch.storage.streams import kind_of

WRITER_WAIT_S = 10.0
"""Time in which somebody must open a named pipe for writing."""

_POLL_S = 0.05
_OWN = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_NULL_DEVICE = os.makedev(1, 3)


def is_special(uri: str) -> bool:
    """Tell whether a URI names something on this machine that is neither a regular file nor a folder."""
    if not is_local(uri):
        return False
    try:
        mode = local_path(uri).stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def spool_special(uri: str, path: Path, wait_s: float = WRITER_WAIT_S) -> str:
    """Keep what a stream holds in a file, which may take as long as its writers do; return the file's name.

    Raises UsageError for a device, which never ends, for a socket, and for a pipe that nobody writes to.
    """
    place, shown = local_path(uri), shown_name(uri)
    if own := _OWN.fullmatch(str(place)):
        with _opened(shown, lambda: os.dup(int(own[1]))) as file:
            check_ends(file, shown)
            return spool(file, path)
    found = place.stat()
    if stat.S_ISFIFO(found.st_mode):
        with _opened(shown, lambda: os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            return _spool_pipe(file, path, shown, wait_s)
    if found.st_rdev == _NULL_DEVICE and stat.S_ISCHR(found.st_mode):
        path.touch(exist_ok=False)
        return str(path)
    raise UsageError(f"{shown} is {kind_of(found.st_mode)}, not a file")


def spool_stdin(path: Path) -> str:
    """Keep what standard input holds in a file; return the file's name.

    Raises UsageError if it is closed, or a device that never ends.
    """
    # Python has no standard input at all where it was closed before the start.
    stdin: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stdin is None:
        raise UsageError("standard input is closed, so there is nothing to read from it")
    check_ends(stdin, "standard input")
    return spool(stdin, path)


def check_ends(file: BinaryIO, shown: str) -> None:
    """Refuse a device that gives bytes for ever. Raises UsageError."""
    try:
        found = os.fstat(file.fileno())
    except (OSError, ValueError):
        return
    endless = stat.S_ISCHR(found.st_mode) and found.st_rdev != _NULL_DEVICE and not os.isatty(file.fileno())
    if endless or stat.S_ISBLK(found.st_mode):
        raise UsageError(f"{shown} is {kind_of(found.st_mode)}, not a file")


def _opened(shown: str, open_fd: Callable[[], int]) -> BinaryIO:
    try:
        return open(open_fd(), "rb", buffering=0)
    except OSError as e:
        raise UsageError(f"{shown} can't be read: {e.strerror or e}") from e


def _spool_pipe(file: BinaryIO, path: Path, shown: str, wait_s: float) -> str:
    """Keep what is written into a named pipe, if somebody begins to in time."""
    fd, until = file.fileno(), time.monotonic() + wait_s
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        try:
            first = os.read(fd, READ_BUFFER_BYTES)
        except BlockingIOError:
            first = b""
            break  # Somebody has it open and has written nothing yet.
        if first or poll.poll(0):
            break  # The latter tells that a writer came and went.
        if time.monotonic() >= until:
            raise UsageError(
                f"{shown} is a pipe that nobody writes to (waited {wait_s:g} s): start the writer first, "
                "or pipe into `xbatch run -`"
            )
        time.sleep(_POLL_S)
    os.set_blocking(fd, True)
    with open(path, "xb") as copy:
        copy.write(first)
        shutil.copyfileobj(file, copy, READ_BUFFER_BYTES)
    return str(path)
