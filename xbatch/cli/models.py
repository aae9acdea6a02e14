"""`xbatch models`: what models can do."""

from typing import TYPE_CHECKING, Any

import click

from xbatch.cli.run import options_of_run
from xbatch.cli.words import fields_of, vllm_names

if TYPE_CHECKING:
    from pathlib import Path

_OPTIONS = {"trust_remote_code", "engine_arg", "engine"}
"""Those of `xbatch run` that change what a model can do, with vLLM's own."""


@options_of_run(lambda name: name in _OPTIONS | vllm_names())
@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL...]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a model.")
def models(names: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Tell what models can do, without loading them: demo, if none is named.

    \b
    generate    goes on with a text           tools      calls functions (--tool-call-parser)
    chat        has a chat template           reasoning  thinks apart (--reasoning-parser)
    vision      sees pictures
    """  # noqa: D301 - click takes the control character for a paragraph to be kept
    from xbatch.assemble.describing import describe
    from xbatch.cli.ending import to_exit
    from xbatch.cli.terminal import Terminal
    from xbatch.errors import ExitCode
    from xbatch.job.loading import load_job

    terminal = Terminal()

    def tell(scratch: "Path") -> int:
        terminal.divert(scratch / "printed.log")
        spec = load_job(fields_of(options | {"inputs": ("-",)}))
        for name in names or ("demo",):
            told = describe(spec, name, scratch, terminal.divert)
            if as_json:
                terminal.write_json(told)
            else:
                terminal.write(_line(told))
        return ExitCode.COMPLETE

    terminal.leave(*to_exit(tell))


def _line(told: dict[str, Any]) -> str:
    from xbatch.display import counted

    size = "" if told["parameters"] is None else f", {counted(told['parameters'], 'parameter')}"
    context = counted(told["context_tokens"], "token")
    return f"{told['model']}: {', '.join(told['abilities'])}; context of {context}{size}"
