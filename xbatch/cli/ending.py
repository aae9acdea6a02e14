"""How a command that does work comes to its exit code."""

import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

DISK_TROUBLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS))


def run_to_exit(work: Callable[[Path], Coroutine[Any, Any, int]]) -> tuple[int, str | None]:
    """Do `work`, which gets a folder for what it need not keep; return the exit code and what to say."""
    import asyncio

    return to_exit(lambda scratch: asyncio.run(work(scratch)))


def to_exit(work: Callable[[Path], int]) -> tuple[int, str | None]:
    """As `run_to_exit`, without an event loop."""
    import tempfile
    import traceback

    from xbatch.display import lines
    from xbatch.errors import ExitCode, XbatchError

    def bug() -> str:
        return lines("this is a bug in xbatch; progress is kept", *traceback.format_exc().splitlines())

    with tempfile.TemporaryDirectory(prefix="xbatch-") as scratch:
        try:
            return work(Path(scratch)), None
        except XbatchError as e:
            return e.exit_code, str(e)
        except OSError as e:
            if e.filename is None and e.errno not in DISK_TROUBLE:
                return ExitCode.BUG, bug()
            return ExitCode.STORAGE, f"{e.filename or scratch}: {e.strerror}"
        except Exception:  # noqa: BLE001 - the last resort of the process
            return ExitCode.BUG, bug()
