"""Words in, exit code out; one file a command, imported only when the command is called."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from xbatch import __version__

COMMANDS = {
    "run": "Answer every row of the inputs.",
    "validate": "Tell everything that is wrong with the inputs, without answering them.",
    "watch": "Answer every file that lands under a prefix, once.",
    "serve": "Answer requests over HTTP, one by one and in batches.",
    "models": "Tell what models can do.",
    "status": "Tell where a job stands, from its state alone.",
    "schema": "Print the JSON Schema of job files, rows, responses, status or report.",
    "doctor": "Tell what this machine can run, what is missing and how to mend it.",
}
"""Commands by name; the text is told here so that help need not import them."""


class LazyGroup(click.Group):
    """A group whose commands lie in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"xbatch.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command that the words name; of a word that names none, say what to write instead."""
        if args and args[0] not in COMMANDS and (args[0] == "-" or not args[0].startswith("-")):
            from xbatch.cli.suggesting import about_command

            ctx.fail(about_command(args, list(COMMANDS)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(name="xbatch", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def group() -> None:
    """Turn a file of LLM requests into a file of answers, and never lose or repeat a row."""


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the words name, those of the process if none are given, and end with its exit code."""
    from xbatch.cli.guard import guarded

    sys.exit(guarded(group, words))
