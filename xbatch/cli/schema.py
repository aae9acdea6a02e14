"""`xbatch schema`: the JSON Schemas of what xbatch reads and writes."""

import click

NAMES = ("job", "request", "response", "status", "report", "validate")


@click.command()
@click.argument("name", type=click.Choice(NAMES), required=False)
@click.option("--write", "folder", metavar="FOLDER", help="Write all of them into a folder instead.")
def schema(*, name: str | None, folder: str | None) -> None:
    """Print the JSON Schema of a job file, a line of an input or an output, a status, a report or a problem.

    \b
    job       a job file                      status  what `xbatch status --json` prints
    request   a line of an input              report  report.json in a job's state
    response  a line of an output             validate  a line of `xbatch validate --json`

    Without NAME the names are listed.
    """  # noqa: D301 - click takes the control character for a paragraph to be kept
    from xbatch.display import shown
    from xbatch.schema.generate import text_of, write_all

    if folder is not None:
        written = write_all(folder)
        click.echo("\n".join(shown(f"{folder.rstrip('/')}/{file}") for file in written))
    elif name is not None:
        click.echo(text_of(name), nl=False)
    else:
        click.echo("\n".join(NAMES))
