"""`xbatch run`: answer every row of the inputs."""

from typing import TYPE_CHECKING, Any, NoReturn

import click

from xbatch.cli.words import fields_of, message_list, names, pairs, refuse_further_names, vllm_flags

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xbatch.cli.terminal import Terminal
    from xbatch.job.spec import JobSpec
    from xbatch.report.progress import Snapshot, Ticker

_STANDARD = {"/dev/fd/1": "output", "/dev/fd/2": "error"}
"""Standard streams by the names of their descriptors."""
STORAGE = "Setting for stores, by fsspec's name: client_kwargs.endpoint_url=...; repeatable."


class JobCommand(click.Command):
    """A command with the options of a job.

    `--retry-failed` alone means the retryable ones; click would take the next word for its value.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the command line apart."""
        args = ["--retry-failed=retryable" if arg == "--retry-failed" else arg for arg in args]
        refuse_further_names(ctx, args)
        return super().parse_args(ctx, args)


@click.command(cls=JobCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", metavar="PATH", help="A file, a folder (ending in /), a pipe, or - for stdout.")
@click.option("--errors", metavar="PATH", help="Put failed rows into a file of their own.")
@click.option(
    "--output-format",
    type=click.Choice(["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]),
    help="Format of output files, where their names tell none.",
)
@click.option("--overwrite", is_flag=True, help="Replace output files that this job has not written.")
@click.option("--max-output-file", metavar="SIZE", help="Cut the output into files of at most this size: 2GiB.")
@click.option("--columns", metavar="NAME,...", callback=names, help="Columns of Parquet output; without it all.")
@click.option("--with-input", is_flag=True, help='Put the input\'s columns into JSONL output, as "input".')
@click.option("--storage-option", "storage_options", multiple=True, metavar="KEY=VALUE", callback=pairs, help=STORAGE)
@click.option("--format", type=click.Choice(["batch", "body"]), help="Batch lines, or bare bodies.")
@click.option("--prompt", metavar="TEMPLATE", help="The user's message of each row, from its columns: '{{ text }}'.")
@click.option("--system", metavar="TEMPLATE", help="The system message of each row.")
@click.option("--messages", metavar="JSON", callback=message_list, help="Messages of each row, with templates in them.")
@click.option("--parse", type=click.Choice(["json"]), help="Make columns of the fields of answers that are JSON.")
@click.option("-m", "--model", metavar="MODEL", help="The model; without it the one that the rows name.")
@click.option("--served-model-name", multiple=True, metavar="NAME", help="Another name for the model; repeatable.")
@click.option("--lora-modules", multiple=True, metavar="NAME=PATH", callback=pairs, help="An adapter; repeatable.")
@vllm_flags
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--engine-arg", multiple=True, metavar="NAME=VALUE", callback=pairs, help="Any other setting of vLLM.")
@click.option(
    "--order", type=click.Choice(["auto", "input", "prefix"]), help="Of rows in the engine; the output's stays."
)
@click.option("--look-ahead", metavar="SIZE", help="Memory for rows that wait: 32MiB.")
@click.option("--no-dedupe", is_flag=True, help="Ask also what is sure to get the same answer as another row.")
@click.option("--max-failures", metavar="N|P%", help="Failed rows that still count as success.")
@click.option("--retry-failed", type=click.Choice(["retryable", "all"]), help="Run rows again that have failed.")
@click.option("--request-timeout", metavar="DURATION", help="Time of one row in the engine.")
@click.option("--max-engine-restarts", type=int, metavar="N", help="Restarts without a row in between.")
@click.option("--max-line-bytes", type=int, metavar="BYTES", help="Longest row that is read.")
@click.option("--deadline", metavar="DURATION|TIME", help="Stop then, to be resumed: 90m, 06:00.")
@click.option("--drain-s", type=float, metavar="SECONDS", help="Time for rows in flight when stopped.")
@click.option("--state", metavar="URI", help="Where the state lies; without it OUTPUT.xbatch.")
@click.option("--storage-timeout", metavar="DURATION", help="Wait so long for a store that does not answer: 15m.")
@click.option("--spool-limit", metavar="SIZE", help="Settled rows that may wait here for a store: 20GiB.")
@click.option("--commit-interval-s", type=float, metavar="SECONDS", help="Longest time to a segment.")
@click.option(
    "--lease-s",
    type=float,
    envvar="XBATCH_LEASE_S",
    metavar="SECONDS",
    help="After so long without a sign of life another machine may take the job over.",
)
@click.option("--shard-rows", type=int, envvar="XBATCH_SHARD_ROWS", hidden=True)
@click.option("--extend", is_flag=True, help="Take inputs in that the job does not have yet.")
@click.option("--accept-change", multiple=True, metavar="FIELD", help="Go on though this has changed; repeatable.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier run has done and begin anew.")
@click.option("--print-job", is_flag=True, help="Print the job as a job file, with everything filled in; run nothing.")
@click.option("--quiet", is_flag=True, help="Show errors only.")
@click.option("--engine", type=click.Choice(["vllm", "fake"]), hidden=True)
def run(**options: Any) -> None:
    """Answer every row of the inputs.

    INPUT is a file, a glob, a folder, or - for standard input; or a job file (.yaml), whose fields the flags
    override. Rows are OpenAI batch lines, bare bodies of /v1/chat/completions and /v1/completions, or with --prompt
    columns of a table. Running the same command again finishes what was interrupted.

    \b
    Exit codes:
      0   complete          2   can't be used, nothing was run   4   storage failed
      1   too many failed   3   the engine failed                75  interrupted, run it again
    """  # noqa: D301 - click takes the control character for a paragraph to be kept
    from xbatch.cli import signals
    from xbatch.cli.ending import run_to_exit
    from xbatch.cli.terminal import Terminal
    from xbatch.job.loading import load_job

    signals.block()
    quiet, print_job = options.pop("quiet"), options.pop("print_job")
    spec = load_job(fields_of(options))
    terminal = Terminal()
    terminal.quiet = quiet
    if print_job:
        _print_job(spec, terminal)
    check_streams(spec)
    terminal.leave(*run_to_exit(lambda scratch: _answer(spec, scratch, terminal)))


def options_of_run(wanted: "Callable[[str], bool]") -> "Callable[[click.Command], click.Command]":
    """Give another command the options of `xbatch run` whose names, as click has them, are wanted."""

    def share(command: click.Command) -> click.Command:
        command.params += [each for each in run.params if wanted(each.name or "")]
        return command

    return share


def check_streams(spec: "JobSpec", *, writes: bool = True) -> None:
    """Check that the standard streams are there that the job reads and, if it `writes`, those that it writes to.

    Raises UsageError.
    """
    from xbatch.cli.guard import is_closed
    from xbatch.errors import UsageError
    from xbatch.job.inputs import is_stdin
    from xbatch.job.places import streams_of

    if any(map(is_stdin, spec.inputs)) and is_closed("stdin"):
        raise UsageError("standard input is closed, so - can't be read")
    for flag, stream in streams_of(spec).items() if writes else ():
        if (name := _STANDARD.get(stream)) is not None and is_closed(f"std{name[:3]}"):
            other = "-o where the output" if flag == "output" else "--errors where failures"
            raise UsageError(f"standard {name} is closed: say by {other} should go")


def _print_job(spec: "JobSpec", terminal: "Terminal") -> NoReturn:
    from xbatch.job.loading import shown_job

    terminal.out.write(shown_job(spec).encode())
    terminal.leave(0)


async def _answer(spec: "JobSpec", scratch: "Path", terminal: "Terminal") -> int:
    import asyncio
    import shutil
    from contextlib import suppress
    from datetime import datetime

    from xbatch.assemble.job import Job
    from xbatch.assemble.streams import Streams
    from xbatch.cli import signals
    from xbatch.cli.stopping import Stopping
    from xbatch.job.deadline import seconds_until
    from xbatch.report.closing import show_closing
    from xbatch.report.totals import exit_code
    from xbatch.run import Stop

    terminal.divert(scratch / "printed.log")
    began, stop, tell = datetime.now().astimezone(), Stop(spec.drain_s), terminal.say

    def clean_up() -> None:
        if stopping.job is not None:
            stopping.job.leave()
        shutil.rmtree(scratch, ignore_errors=True)

    stopping = Stopping(stop, tell, lambda text: terminal.leave(75, text, before=clean_up), _go_on(spec))
    signals.watch(stopping.ask)
    if spec.deadline is not None:
        left_s = 0.0
        with suppress(ValueError):  # it has come since the command was read
            left_s = seconds_until(spec.deadline, began)
        stopping.ask_after(left_s, "the deadline has come")
    # Standard input is read to its end first, and stores may be slow, which must not hold up the signals.
    job = stopping.job = await asyncio.to_thread(Job, spec, scratch, stop, tell, terminal.divert)
    streams = Streams(job.places.streams, terminal.descriptors)
    ticker = None if terminal.quiet else _show_progress(job.course.snapshot, terminal)
    try:
        report = await job.run()
    finally:
        if ticker is not None:
            ticker.close()
            terminal.has_bar = False
        job.close()
    await asyncio.to_thread(streams.send, terminal.say)
    report |= {"outputs": [each for each in report["outputs"] if each["uri"] not in job.places.streams]}
    if job.places.targets[0] in job.places.streams:
        report |= {"state": None, "engine_log": None}
    if not terminal.quiet:
        show_closing(terminal.console, report)
    return exit_code(report, spec.allowed_failures(report["request_counts"]["total"]))


def _go_on(spec: "JobSpec") -> str:
    """Say how a job that was stopped is resumed."""
    from xbatch.job.places import streams_of

    if spec.state is None and "output" in streams_of(spec):
        return "nothing is kept of a job that writes to a stream: give it a place by -o or --state"
    if spec.restart:
        return "run it again without --restart to go on"
    return "run the same command again to go on"


def _show_progress(look: "Callable[[], Snapshot]", terminal: "Terminal") -> "Ticker":
    from xbatch.report.progress import BAR_EVERY_S, JSON_EVERY_S, BarProgress, JsonProgress, Ticker

    if terminal.console.is_terminal:
        terminal.has_bar = True
        return Ticker(BarProgress(look, terminal.console), BAR_EVERY_S)
    return Ticker(JsonProgress(look, terminal.err), JSON_EVERY_S)
