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
    import json

    from rich.console import Console

    from xbatch.errors import UsageError
    from xbatch.report.closing import show_standing
    from xbatch.state.standing import look

    folder = _find(output)
    if folder is None:
        raise UsageError(f"no job has begun for {output}")
    standing: dict[str, Any] = look(folder)
    if as_json:
        click.echo(json.dumps(standing, indent=2))
    else:
        show_standing(Console(highlight=False), standing)


def _find(output: str) -> "StateFolder | None":
    from xbatch.job.places import default_output, state_of
    from xbatch.state.folder import StateFolder

    for uri in (state_of(output), output, state_of(default_output([output]))):
        folder = StateFolder(uri)
        if folder.exists:
            return folder
    return None
