"""`xbatch run`: answer every row of the inputs."""

import errno
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from xbatch.cli.terminal import Terminal
    from xbatch.job.spec import JobSpec
    from xbatch.report.progress import Snapshot, Ticker

DISK_TROUBLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS))

# vLLM's flags that users give most, under vLLM's names; every other one goes through --engine-arg.
VLLM_FLAGS: dict[str, str] = {
    "tokenizer": "Name or folder of the tokenizer, if it is not the model's.",
    "revision": "Branch, tag or commit of the model.",
    "dtype": "Number type of weights and activations.",
    "quantization": "How the weights are quantized.",
    "load-format": "Format of the weights.",
    "max-model-len": "Longest prompt and answer together, in tokens.",
    "max-num-seqs": "Sequences that run at a time.",
    "max-num-batched-tokens": "Tokens of one step.",
    "tensor-parallel-size": "GPUs that share one copy of the model.",
    "pipeline-parallel-size": "Stages that the model's layers are split into.",
    "gpu-memory-utilization": "Share of the GPU's memory to use.",
    "seed": "Seed of the engine.",
    "chat-template": "A chat template, or the file that holds it.",
    "tool-call-parser": "How the model writes tool calls; turns on automatic tool choice.",
    "reasoning-parser": "How the model marks its reasoning.",
}


def vllm_flags(command: Any) -> Any:
    """Add vLLM's flags to a command."""
    for name, text in reversed(VLLM_FLAGS.items()):
        command = click.option(f"--{name}", metavar="VALUE", help=text)(command)
    return command


def _pairs(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param=parameter)
    return dict(value.split("=", 1) for value in values)


class _Run(click.Command):
    """`--retry-failed` alone means the retryable ones; click would take the next word for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = ["--retry-failed=retryable" if arg == "--retry-failed" else arg for arg in args]
        return super().parse_args(ctx, args)


def _duration(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    from xbatch.job.deadline import seconds

    try:
        return None if value is None else seconds(value)
    except ValueError as e:
        raise click.BadParameter(str(e), param=parameter) from None


def _deadline(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    from datetime import datetime

    from xbatch.job.deadline import seconds_until

    try:
        return None if value is None else seconds_until(value, datetime.now().astimezone())
    except ValueError as e:
        raise click.BadParameter(str(e), param=parameter) from None


@click.command(cls=_Run)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", metavar="PATH", help="A file, a folder (ending in /), or - for standard output.")
@click.option("--errors", metavar="PATH", help="Put failed rows into a file of their own.")
@click.option("--format", type=click.Choice(["batch", "body"]), default="batch", help="Batch lines, or bare bodies.")
@click.option("-m", "--model", metavar="MODEL", help="The model; without it the one that the rows name.")
@click.option("--served-model-name", multiple=True, metavar="NAME", help="Another name for the model; repeatable.")
@click.option("--lora-modules", multiple=True, metavar="NAME=PATH", callback=_pairs, help="An adapter; repeatable.")
@vllm_flags
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--engine-arg", multiple=True, metavar="NAME=VALUE", callback=_pairs, help="Any other setting of vLLM.")
@click.option("--max-failures", default="0", metavar="N|P%", help="Failed rows that still count as success.")
@click.option("--retry-failed", type=click.Choice(["retryable", "all"]), help="Run rows again that have failed.")
@click.option("--request-timeout", metavar="DURATION", callback=_duration, help="Time of one row in the engine.")
@click.option("--max-engine-restarts", type=int, default=20, metavar="N", help="Restarts without a row in between.")
@click.option("--max-line-bytes", type=int, default=64 << 20, metavar="BYTES", help="Longest row that is read.")
@click.option("--deadline", metavar="DURATION|TIME", callback=_deadline, help="Stop then, to be resumed: 90m, 06:00.")
@click.option("--drain-s", type=float, default=20.0, metavar="SECONDS", help="Time for rows in flight when stopped.")
@click.option("--state", metavar="URI", help="Where the state lies; without it OUTPUT.xbatch.")
@click.option("--commit-interval-s", type=float, default=15.0, metavar="SECONDS", help="Longest time to a segment.")
@click.option(
    "--lease-s",
    type=float,
    default=60.0,
    envvar="XBATCH_LEASE_S",
    metavar="SECONDS",
    help="After so long without a sign of life another machine may take the job over.",
)
@click.option("--shard-rows", type=int, default=4096, envvar="XBATCH_SHARD_ROWS", hidden=True)
@click.option("--extend", is_flag=True, help="Take inputs in that the job does not have yet.")
@click.option("--accept-change", multiple=True, metavar="FIELD", help="Go on though this has changed; repeatable.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier run has done and begin anew.")
@click.option("--quiet", is_flag=True, help="Show errors only.")
@click.option("--engine", type=click.Choice(["vllm", "fake"]), default="vllm", hidden=True)
def run(**options: Any) -> None:
    r"""Answer every row of the inputs.

    INPUT is a file of JSONL, a glob, a folder, or - for standard input. Rows are OpenAI batch lines or bare bodies of
    /v1/chat/completions and /v1/completions. Running the same command again finishes what was interrupted.

    \b
    Exit codes:
      0   complete          2   can't be used, nothing was run   4   storage failed
      1   too many failed   3   the engine failed                75  interrupted, run it again
    """
    from xbatch.cli import signals
    from xbatch.cli.terminal import Terminal

    signals.block()
    terminal = Terminal()
    quiet, deadline_s = options.pop("quiet"), options.pop("deadline")
    terminal.leave(*_run(_spec(options, terminal), terminal, quiet=quiet, deadline_s=deadline_s))


def _spec(options: dict[str, Any], terminal: "Terminal") -> "JobSpec":
    from pydantic import ValidationError

    from xbatch.job.spec import JobSpec

    given = {name.replace("-", "_"): options.pop(name.replace("-", "_")) for name in VLLM_FLAGS}
    settings = {name: value for name, value in given.items() if value is not None}
    if "tool_call_parser" in settings:
        settings["enable_auto_tool_choice"] = "true"
    if options.pop("trust_remote_code"):
        settings["trust_remote_code"] = "true"
    settings |= {name.replace("-", "_"): value for name, value in options.pop("engine_arg").items()}
    for name in ("inputs", "served_model_name", "accept_change"):
        options[name] = list(options[name])
    try:
        return JobSpec(engine_args=settings, **options)
    except ValidationError as e:
        first = e.errors()[0]
        terminal.leave(2, f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")


def _run(spec: "JobSpec", terminal: "Terminal", *, quiet: bool, deadline_s: float | None) -> "tuple[int, str | None]":
    import asyncio
    import tempfile
    import traceback
    from pathlib import Path

    from xbatch.errors import ExitCode, XbatchError

    with tempfile.TemporaryDirectory(prefix="xbatch-") as scratch:
        try:
            return asyncio.run(_answer(spec, Path(scratch), terminal, quiet=quiet, deadline_s=deadline_s)), None
        except XbatchError as e:
            return e.exit_code, str(e)
        except OSError as e:
            if e.filename is None and e.errno not in DISK_TROUBLE:
                return ExitCode.BUG, f"this is a bug in xbatch; progress is kept\n{traceback.format_exc()}"
            return ExitCode.STORAGE, f"{e.filename or scratch}: {e.strerror}"
        except Exception:  # noqa: BLE001 - the last resort of the process
            return ExitCode.BUG, f"this is a bug in xbatch; progress is kept\n{traceback.format_exc()}"


async def _answer(
    spec: "JobSpec", scratch: "Path", terminal: "Terminal", *, quiet: bool, deadline_s: float | None
) -> int:
    import asyncio
    import shutil

    from rich.console import Console

    from xbatch.assemble.job import Job
    from xbatch.cli import signals
    from xbatch.cli.stopping import Stopping
    from xbatch.job.places import STDOUT
    from xbatch.report.closing import show_closing
    from xbatch.report.totals import exit_code
    from xbatch.run import Stop

    console = Console(file=terminal.err, highlight=False)
    stop = Stop(spec.drain_s)

    def tell(text: str) -> None:
        if not quiet:
            console.print(text, markup=False, soft_wrap=True)

    def clean_up() -> None:
        if stopping.job is not None:
            stopping.job.leave()
        console.show_cursor()
        shutil.rmtree(scratch, ignore_errors=True)

    stopping = Stopping(stop, tell, lambda text: terminal.leave(75, text, before=clean_up), _go_on(spec))
    signals.watch(stopping.ask)
    if deadline_s is not None:
        stopping.ask_after(deadline_s, "the deadline has come")
    # Standard input is read to its end first, and stores may be slow, which must not hold up the signals.
    job = stopping.job = await asyncio.to_thread(Job, spec, scratch, stop, tell, terminal.divert)
    ticker = None if quiet else _show_progress(job.course.snapshot, console, terminal)
    try:
        report = await job.run()
    finally:
        if ticker is not None:
            ticker.close()
        job.close()
    if job.places.shown_output == STDOUT:
        _copy_out(job.places.targets[0], terminal)
        report |= {"outputs": [], "state": None, "engine_log": None}
    if not quiet:
        show_closing(console, report)
    return exit_code(report, spec.allowed_failures(report["request_counts"]["total"]))


def _go_on(spec: "JobSpec") -> str:
    """How a job that was stopped is resumed."""
    from xbatch.job.places import STDOUT

    if spec.state is None and (spec.output == STDOUT or (spec.output is None and spec.inputs == [STDOUT])):
        return "nothing is kept of a job that writes to standard output: give it a place by -o or --state"
    if spec.restart:
        return "run it again without --restart to go on"
    return "run the same command again to go on"


def _show_progress(look: "Callable[[], Snapshot]", console: "Console", terminal: "Terminal") -> "Ticker":
    from xbatch.report.progress import BAR_EVERY_S, JSON_EVERY_S, BarProgress, JsonProgress, Ticker

    if console.is_terminal:
        return Ticker(BarProgress(look, console), BAR_EVERY_S)
    return Ticker(JsonProgress(look, terminal.err), JSON_EVERY_S)


def _copy_out(path: "Path", terminal: "Terminal") -> None:
    import shutil
    from contextlib import suppress

    with open(path, "rb") as file, suppress(BrokenPipeError):  # whoever reads has read enough
        shutil.copyfileobj(file, terminal.out)
        terminal.out.flush()
