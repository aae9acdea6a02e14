"""The guard around a whole command: whatever comes from outside ends in an exit code and one sentence."""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from xbatch.display import shown

_STREAMS = ("stdin", "stdout", "stderr")
_closed: set[str] = set()


def is_closed(stream: str) -> bool:
    """Tell whether the caller has started this process without `stdin`, `stdout` or `stderr`."""
    return stream in _closed


def guarded(command: click.Command, words: Sequence[str] | None) -> int:
    """Run a command and return its exit code, having said on standard error what went wrong."""
    open_streams()
    code, text = _run(command, words)
    with suppress(OSError, ValueError):
        if text is not None:
            sys.stderr.write(f"xbatch: {shown(text)}\n")
        sys.stderr.flush()
    return code


def open_streams() -> None:
    """Make standard input, output and error usable.

    Those that the caller has closed become the null device: the next file that is opened would take their number, and
    then hold what was meant for the user. What a terminal's encoding lacks is written as an escape.
    """
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(name)
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _run(command: click.Command, words: Sequence[str] | None) -> tuple[int, str | None]:
    from xbatch.cli.ending import explain
    from xbatch.errors import ExitCode

    given = list(sys.argv[1:] if words is None else words)
    try:
        code = command.main(given, prog_name="xbatch", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as e:
        _show(e, given)
        return ExitCode.UNUSABLE, None
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED, "interrupted; run the same command again"
    except BrokenPipeError:
        _forget_stdout()  # whoever reads has read enough
        return ExitCode.COMPLETE, None
    except Exception as e:  # noqa: BLE001 - the last resort of the process
        return explain(e)
    except SystemExit as e:
        # Click ends the process itself when it completes words for a shell, or when a pipe has lost its reader.
        return (ExitCode.COMPLETE if e.code in (None, 0) else ExitCode.UNUSABLE), None
    return int(code or ExitCode.COMPLETE), None


def _show(error: click.ClickException, words: list[str]) -> None:
    """Show what is wrong with the words of a command, and what to write instead."""
    if isinstance(error, click.NoSuchOption):
        from xbatch.cli.suggesting import about_option

        error = click.UsageError(about_option(error, words), error.ctx)
    page = io.StringIO()
    error.show(page)
    with suppress(OSError, ValueError):
        sys.stderr.write("".join(f"{shown(line)}\n" for line in page.getvalue().splitlines()))


def _forget_stdout() -> None:
    """Have the rest of standard output go nowhere, so that the interpreter's end does not stumble over it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
