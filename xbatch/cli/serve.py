"""`xbatch serve`: the same engine behind HTTP."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from xbatch.cli.run import JobCommand, options_of_run
from xbatch.cli.words import fields_of, vllm_names

if TYPE_CHECKING:
    from pathlib import Path

    from xbatch.cli.terminal import Terminal
    from xbatch.job.spec import JobSpec
    from xbatch.serve.settings import ServeSettings

_OF_JOBS = {
    *("served_model_name", "lora_modules", "trust_remote_code", "engine_arg", "engine", "storage_options"),
    *("request_timeout", "drain_s", "storage_timeout", "spool_limit", "commit_interval_s", "lease_s", "shard_rows"),
    *("max_engine_restarts", "max_line_bytes", "quiet"),
}
"""Options of `xbatch run` that are about the model, its engine and the state of batches."""
_NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""Modules that the server needs, each with the distribution that has it; every engine brings them."""
_OF_SERVER = (
    *("host", "port", "files", "cors_origins", "max_waiting", "max_body", "max_file"),
    *("max_batch_rows", "max_running_batches", "batch_share"),
)


class _Serve(JobCommand):
    """A command that says how the model is named, which `vllm serve` takes as a plain word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the command line apart."""
        if args and not args[0].startswith("-"):
            ctx.fail(f"the model is named by -m: xbatch serve -m {args[0]}")
        return super().parse_args(ctx, args)


@options_of_run(lambda name: name in _OF_JOBS | vllm_names())
@click.command(cls=_Serve)
@click.option("-m", "--model", required=True, metavar="MODEL", help="A name or folder of a model, or demo.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, help="Port to listen at; 0 for any that is free.")
@click.option("--files", default="xbatch-files", show_default=True, metavar="URI", help="Where files and batches lie.")
@click.option("--api-key", "api_keys", multiple=True, envvar="XBATCH_API_KEY", help="A key that clients need.")
@click.option("--api-key-file", metavar="PATH", help="A file with a key on each line.")
@click.option("--cors-origin", "cors_origins", multiple=True, help="Origin of a web page that may ask, or *.")
@click.option("--max-waiting", type=click.IntRange(0), metavar="N", help="Online requests that may wait: 1024.")
@click.option("--max-body", metavar="SIZE", help="Largest body of a request: 32MiB.")
@click.option("--max-file", metavar="SIZE", help="Largest file that is taken in: 200MiB.")
@click.option("--max-batch-rows", type=click.IntRange(1), metavar="N", help="Most rows of a batch: 50000.")
@click.option("--max-running-batches", type=click.IntRange(1), metavar="N", help="Batches that run at a time: 4.")
@click.option(
    "--batch-share",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Places of the engine that rows of batches may take: 0.75.",
)
def serve(**options: Any) -> None:
    """Answer requests over HTTP, one by one and in batches.

    Clients of OpenAI's API and of Xinference find their routes, OpenAI's Files and Batches among them; a page at /
    shows what goes on. Batches go on where they were when the server is started again.

    \b
    Exit codes:
      0   stopped           3   the engine failed
      2   can't be used     4   storage failed
    """  # noqa: D301 - click takes the control character for a paragraph to be kept
    from xbatch.cli import signals
    from xbatch.cli.ending import run_to_exit
    from xbatch.cli.terminal import Terminal
    from xbatch.errors import UsageError

    signals.block()
    quiet = options.pop("quiet")
    if (missing := _missing(options)) is not None:
        raise UsageError(missing)
    settings, spec = _settings(options), _spec(options)
    terminal = Terminal()
    terminal.quiet = quiet
    terminal.leave(*run_to_exit(lambda scratch: _serve(spec, settings, scratch, terminal)))


def _missing(options: dict[str, Any]) -> str | None:
    """Say what is not installed and how to install all of it at once, None if nothing is missing."""
    from xbatch.engines.vllm.installed import missing_engine_sentence

    names = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
    no_engine = missing_engine_sentence() if options.get("engine") != "fake" else None
    if no_engine is None or not names:
        return f"{listed} not installed: run `pip install 'xbatch[serve]'`" if names else no_engine
    return f"{no_engine} That also brings what the server needs and what is not installed either: {listed}."


def _settings(options: dict[str, Any]) -> "ServeSettings":
    """The settings of the server, taken out of the options. Raises UsageError."""
    from xbatch.serve.settings import make_settings, read_keys

    keys = read_keys(options.pop("api_keys"), options.pop("api_key_file"))
    return make_settings({name: options.pop(name) for name in _OF_SERVER} | {"api_keys": keys})


def _spec(options: dict[str, Any]) -> "JobSpec":
    """What all jobs of the server have in common. Raises UsageError."""
    from xbatch.job.loading import load_job

    fields = fields_of(options | {"inputs": ("-",)})
    # Rows of batches have to come after what is asked online.
    fields["engine"] = {"scheduling_policy": "priority"} | fields.get("engine", {})
    if fields["engine"].get("name") == "fake":
        del fields["engine"]["scheduling_policy"]
    return load_job(fields)


async def _serve(spec: "JobSpec", settings: "ServeSettings", scratch: "Path", terminal: "Terminal") -> int:
    import shutil

    from xbatch.cli import signals
    from xbatch.cli.stopping import Stopping
    from xbatch.errors import ExitCode
    from xbatch.run import Stop
    from xbatch.serve.serving import Server

    terminal.divert(scratch / "printed.log")
    tell = terminal.say

    def clean_up() -> None:
        server.leave()
        shutil.rmtree(scratch, ignore_errors=True)

    stop = Stop(spec.drain_s)
    server = Server(spec, settings, scratch, stop, tell, None if terminal.quiet else terminal.log, terminal.divert)
    leave = lambda text: terminal.leave(ExitCode.COMPLETE, text, before=clean_up)  # noqa: E731
    stopping = Stopping(stop, tell, leave, "batches go on when it is started again")
    stopping.job = server
    signals.watch(stopping.ask)
    await server.serve()
    return ExitCode.COMPLETE
