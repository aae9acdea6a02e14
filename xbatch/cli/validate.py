"""`xbatch validate`: everything that is wrong with the inputs, without a GPU."""

from typing import TYPE_CHECKING, Any

import click

from xbatch.cli.run import JobCommand, check_streams, options_of_run
from xbatch.cli.words import fields_of, vllm_names

if TYPE_CHECKING:
    from pathlib import Path

    from xbatch.cli.terminal import Terminal

_OF_RUN = {
    *("prompt", "system", "messages", "model", "served_model_name", "lora_modules", "trust_remote_code", "engine_arg"),
    *("max_failures", "max_line_bytes", "storage_options", "storage_timeout", "quiet", "engine"),
}


@options_of_run(lambda name: name in _OF_RUN | vllm_names())
@click.command(cls=JobCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--tokens", is_flag=True, help="Judge bodies as vLLM does, and count tokens; no engine is started.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a problem, then one with the totals.")
@click.option(
    "--max-problems",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    metavar="N",
    help="So many are shown, all are counted; 0 shows all.",
)
def validate(*, tokens: bool, as_json: bool, max_problems: int, **options: Any) -> None:
    """Tell everything that is wrong with the inputs, line by line, without answering them.

    INPUT is what `xbatch run` takes, a job file too. Problems go to standard output as `FILE:LINE: CODE: MESSAGE`,
    totals to standard error. Nothing is written. Without --tokens only what is evident about a body is told, fast;
    with it all that vLLM's server would say, for which vLLM must be installed and the model's files be here.

    \b
    Exit codes:
      0   every row can be sent   1   some can't   2   the inputs can't be used
    """  # noqa: D301 - click takes the control character for a paragraph to be kept
    import signal

    from xbatch.cli.ending import to_exit
    from xbatch.cli.terminal import Terminal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal = Terminal()
    terminal.quiet = options.pop("quiet")
    try:
        ended = to_exit(
            lambda scratch: _validate(
                fields_of(options), scratch, terminal, tokens=tokens, as_json=as_json, most=max_problems
            )
        )
    except KeyboardInterrupt:
        ended = 75, "stopped before every row was looked at"
    terminal.leave(*ended)


def _validate(
    given: dict[str, Any], scratch: "Path", terminal: "Terminal", *, tokens: bool, as_json: bool, most: int
) -> int:
    from xbatch.assemble.validating import Validation
    from xbatch.display import lines
    from xbatch.errors import ExitCode, UsageError
    from xbatch.job.loading import load_job
    from xbatch.report.validation import Looking, Printer, show_totals

    terminal.divert(scratch / "printed.log")
    spec = load_job(given)
    check_streams(spec, writes=False)
    looking = Looking(terminal.err)

    def tell(text: str) -> None:
        looking.clear()
        terminal.say(text)

    def tick() -> None:
        if not terminal.quiet:
            looking.show(validation.survey.index.rows, validation.survey.failed)

    validation = Validation(spec, scratch, tell, tick, terminal.divert, tokens=tokens)
    printer = Printer(terminal.out, looking, as_json=as_json, most=most)
    try:
        for problem in validation.problems():
            printer.show(problem)
        totals = validation.totals()
    finally:
        validation.close()
        looking.clear()
    printer.end(totals)
    if not terminal.quiet and (totals["rows"] or not validation.refused):
        show_totals(terminal.console, totals, printer.hidden)
    if validation.refused:
        raise UsageError(lines(*validation.refused))
    too_many = totals["failed"] > spec.allowed_failures(totals["rows"])
    return ExitCode.TOO_MANY_FAILURES if too_many else ExitCode.COMPLETE
