"""What the user reads, kept apart from everything that libraries print."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TextIO

from xbatch.display import shown, shown_json
from xbatch.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

_REMOVE_BAR = "\r\x1b[2K\x1b[?25h"
"""Erases the line and shows the cursor again."""


class Terminal:
    """The process's own standard output and error.

    After `divert` only what is written through this object reaches the user; whatever else is printed, by this
    process or by those it starts, goes to a log. Every text that is written here is escaped.
    """

    quiet = False
    """Sentences are not shown, except the one with which the process ends."""
    has_bar = False
    """A progress bar is drawn, which must be removed before the process ends."""
    _log: Path | None = None

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        err = os.fdopen(os.dup(2), "wb", buffering=0)
        self.err: TextIO = _Unheard(err, encoding="utf-8", errors="backslashreplace", write_through=True)
        self.out: BinaryIO = os.fdopen(os.dup(1), "wb")
        self._leaving = threading.Lock()

    @property
    def descriptors(self) -> dict[str, int]:
        """The user's standard output and error by the names of their descriptors, whatever is diverted."""
        return {"/dev/fd/1": self.out.fileno(), "/dev/fd/2": self.err.fileno()}

    @cached_property
    def console(self) -> "Console":
        """Draws tables and the progress bar on standard error."""
        return self._console(self.err)

    @cached_property
    def results(self) -> "Console":
        """Draws tables on standard output."""
        return self._console(self._results)

    @cached_property
    def _results(self) -> TextIO:
        return _Unheard(self.out, encoding="utf-8", write_through=True)

    def say(self, text: str) -> None:
        """Show a sentence on standard error, above the progress bar if there is one, unless quiet."""
        if not self.quiet:
            self.console.print(shown(text), soft_wrap=True)

    def write(self, text: str) -> None:
        """Write a line of results to standard output."""
        self._results.write(f"{shown(text)}\n")

    def write_json(self, value: Any, indent: int | None = None) -> None:
        """Write JSON to standard output."""
        self._results.write(f"{shown_json(json.dumps(value, indent=indent))}\n")

    def log(self, line: str) -> None:
        """Write a line of JSON to standard error."""
        self.err.write(f"{shown_json(line)}\n")

    def divert(self, log: Path) -> None:
        """Send to `log` what anybody else prints from here on, and has printed since it was sent to another log."""
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if self._log is not None and self._log != log:
            with suppress(OSError):
                os.write(fd, self._log.read_bytes())
        self._log = log
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
                if self.has_bar:
                    self.err.write(_REMOVE_BAR)
                self.err.write(f"xbatch: {shown(message)}\n")
            for stream in (self.out, sys.stdout):
                stream.flush()
        except BrokenPipeError:
            pass  # whoever reads has read enough
        except OSError as e:
            self.err.write(f"xbatch: writing failed: {e.strerror or e}\n")
            code = code or ExitCode.STORAGE
        finally:
            os._exit(code)

    @staticmethod
    def _console(file: TextIO) -> "Console":
        from rich.console import Console

        return Console(file=file, highlight=False, markup=False, emoji=False)


class _Unheard(io.TextIOWrapper):
    """A stream whose reader may have gone: a job does not end because nobody listens."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()
