"""What the user reads, kept apart from everything that libraries print."""

import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, TextIO


class Terminal:
    """The process's own standard output and error.

    After `divert` only what is written through this object reaches the user; whatever else is printed, by this
    process or by those it starts, goes to a log.
    """

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        err = os.fdopen(os.dup(2), "wb", buffering=0)
        self.err: TextIO = _Unheard(err, encoding="utf-8", errors="backslashreplace", write_through=True)
        self.out: BinaryIO = os.fdopen(os.dup(1), "wb")
        self._leaving = threading.Lock()

    def divert(self, log: Path) -> None:
        """Send to `log` what anybody else prints from here on."""
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def leave(self, code: int, message: str | None = None, before: Callable[[], None] | None = None) -> NoReturn:
        """End the process without waiting for threads or finalizers: everything that matters is on disk.

        Of several threads that leave, the first has the word; `before` is called once nobody else can have it.
        """
        self._leaving.acquire()
        try:
            if before is not None:
                before()
            if message is not None:
                self.err.write(f"xbatch: {message}\n")
            for stream in (self.out, sys.stdout):
                stream.flush()
        finally:
            os._exit(code)


class _Unheard(io.TextIOWrapper):
    """A stream whose reader may have gone: a job does not end because nobody listens."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()
