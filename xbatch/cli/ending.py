"""How a command that does work comes to its exit code."""

import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

DISK_TROUBLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS))
_MACHINE_TROUBLE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
"""The machine, or a limit that was set for this process, has no more files, memory or processes to give."""


def run_to_exit(work: Callable[[Path], Coroutine[Any, Any, int]]) -> tuple[int, str | None]:
    """Do `work`, which gets a folder for what it need not keep; return the exit code and what to say."""
    import asyncio

    return to_exit(lambda scratch: asyncio.run(work(scratch)))


def to_exit(work: Callable[[Path], int]) -> tuple[int, str | None]:
    """Do as `run_to_exit` does, without an event loop."""
    import tempfile

    try:
        check_temporary_folder()
        with tempfile.TemporaryDirectory(prefix="xbatch-", ignore_cleanup_errors=True) as scratch:
            return work(Path(scratch)), None
    except SystemExit as e:  # no part of xbatch ends the process so
        from xbatch.errors import ExitCode

        return ExitCode.ENGINE, f"a library that the engine needs has ended the process (exit code {e.code})"
    except Exception as e:  # noqa: BLE001 - the last resort of the process
        return explain(e)


def check_temporary_folder() -> None:
    """Find the folder for temporary files.

    Raises StorageError if none can be written to.
    """
    import tempfile

    from xbatch.errors import StorageError

    try:
        tempfile.gettempdir()
    except OSError as e:
        raise StorageError(f"{e.strerror or e}: set TMPDIR to a folder that can be written to") from e


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code for an exception that nobody has handled, and what to say."""
    from xbatch.errors import ExitCode, XbatchError

    if isinstance(error, XbatchError):
        return error.exit_code, str(error)
    if isinstance(error, OSError) and (found := _explain_machine(error)) is not None:
        return found
    if isinstance(error, ModuleNotFoundError) and not (error.name or "xbatch").startswith("xbatch"):
        return ExitCode.UNUSABLE, f"{error}, which xbatch needs: run `pip install xbatch` again"
    if isinstance(error, MemoryError):
        return ExitCode.INTERRUPTED, "there is not enough memory; progress is kept"
    import traceback

    from xbatch.display import lines

    trace = "".join(traceback.format_exception(error)).splitlines()
    return ExitCode.BUG, lines("this is a bug in xbatch; progress is kept", *trace)


def _explain_machine(error: OSError) -> tuple[int, str] | None:
    """Do as `explain` does for what the operating system refuses; None if that is not for the user to mend."""
    from xbatch.errors import ExitCode

    if isinstance(error, FileNotFoundError) and _has_lost_its_folder():
        return ExitCode.UNUSABLE, "the working directory does not exist any more"
    if error.filename is not None or error.errno in DISK_TROUBLE:
        place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "writing failed"
        return ExitCode.STORAGE, f"{place}: {error.strerror or error}"
    if error.errno in _MACHINE_TROUBLE:
        return ExitCode.STORAGE, f"this machine gives no more to this process: {error.strerror}"
    return None


def _has_lost_its_folder() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - only whether it is there
    except FileNotFoundError:
        return True
    return False
