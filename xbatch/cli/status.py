"""`xbatch status`: where a job stands, from its state alone."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xbatch.state.folder import StateFolder


@click.command()
@click.argument("output", metavar="OUTPUT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, output: str, as_json: bool) -> None:
    """Tell where a job stands, from its state alone.

    OUTPUT is the job's output, its state folder or URI, or its only input. Works while the job runs and after it; exits
    2 if no job has begun there.
    """
    from xbatch import storage
    from xbatch.cli.terminal import Terminal
    from xbatch.errors import ExitCode, UsageError
    from xbatch.report.closing import show_standing
    from xbatch.state.standing import look

    terminal = Terminal()
    storage.use_settings(storage.StorageSettings(tell=terminal.say))
    folder = _find(output)
    if folder is None:
        raise UsageError(f"no job has begun for {output}")
    standing: dict[str, Any] = look(folder)
    if as_json:
        terminal.write_json(standing, indent=2)
    else:
        show_standing(terminal.results, standing)
    terminal.leave(ExitCode.COMPLETE)


def _find(output: str) -> "StateFolder | None":
    from xbatch import storage
    from xbatch.job.places import default_output, state_of
    from xbatch.state.folder import StateFolder

    places = [state_of(output), output]
    if storage.is_local(output):
        places.append(state_of(default_output([output])))
    for uri in places:
        folder = StateFolder(uri)
        if folder.exists:
            return folder
    return None
