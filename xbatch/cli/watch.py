"""`xbatch watch`: every file that lands under a prefix becomes a job, once."""

from typing import TYPE_CHECKING, Any

import click

from xbatch.cli.run import JobCommand, options_of_run
from xbatch.cli.words import fields_of

if TYPE_CHECKING:
    from pathlib import Path

    from xbatch.cli.terminal import Terminal
    from xbatch.job.spec import JobSpec

_OF_RUN_ONLY = {"inputs", "state", "errors", "extend", "accept_change", "restart", "print_job", "deadline"}


@options_of_run(lambda name: name not in _OF_RUN_ONLY)
@click.command(cls=JobCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="[JOB.yaml] PREFIX")
@click.option("--settle", default="10s", metavar="DURATION", help="A file on a disk must not change for so long.")
@click.option("--every", default="15s", metavar="DURATION", help="Time between two looks.")
@click.option("--once", is_flag=True, help="End when every file that has landed is done.")
def watch(settle: str, every: str, *, once: bool, **options: Any) -> None:
    """Answer every file that lands under a prefix, once.

    PREFIX is a folder or a URI, and the files are those directly in it; the outputs go under another one, given by -o.
    A job file may say what is done with each file. The engine stays warm. Several watchers may share a prefix in a
    store that tells writers apart. A file that is overwritten is answered again, beside what was answered before.

    \b
    Exit codes, with --once:
      0   every file is complete             2   some files can't be used
      1   in some files too many rows failed 75  interrupted, run it again
    """  # noqa: D301 - click takes the control character for a paragraph to be kept
    from xbatch.cli import signals
    from xbatch.cli.ending import run_to_exit
    from xbatch.cli.terminal import Terminal
    from xbatch.errors import UsageError
    from xbatch.job.deadline import seconds
    from xbatch.job.loading import load_job

    signals.block()
    spec, quiet = load_job(fields_of(options)), options.pop("quiet")
    try:
        times = seconds(settle), seconds(every)
    except ValueError as e:
        raise UsageError(f"--settle, --every: {e}") from None
    terminal = Terminal()
    terminal.quiet = quiet
    terminal.leave(*run_to_exit(lambda scratch: _watch(spec, scratch, terminal, times, once=once)))


async def _watch(
    spec: "JobSpec", scratch: "Path", terminal: "Terminal", times: tuple[float, float], *, once: bool
) -> int:
    import shutil

    from xbatch.assemble.watching import Watcher
    from xbatch.cli import signals
    from xbatch.cli.stopping import Stopping
    from xbatch.errors import ExitCode

    terminal.divert(scratch / "printed.log")
    tell = terminal.say

    def clean_up() -> None:
        watcher.leave()
        shutil.rmtree(scratch, ignore_errors=True)

    watcher = Watcher(spec, scratch, tell, terminal.divert, settle_s=times[0])
    go_on = "run the same command again to go on"
    stopping = Stopping(watcher.stop, tell, lambda text: terminal.leave(75, text, before=clean_up), go_on)
    stopping.job = watcher
    signals.watch(stopping.ask)
    try:
        await watcher.watch(times[1], once=once)
    finally:
        watcher.close()
    if watcher.seen.unusable:
        return ExitCode.UNUSABLE
    return ExitCode.TOO_MANY_FAILURES if watcher.seen.too_many_failed else ExitCode.COMPLETE
