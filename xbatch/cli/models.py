"""`xbatch models`: what models can do."""

from typing import Any

import click

from xbatch.cli.run import options_of_run
from xbatch.cli.words import fields_of, vllm_names

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
    import tempfile
    from pathlib import Path

    from xbatch.assemble.describing import describe
    from xbatch.cli.terminal import Terminal
    from xbatch.errors import XbatchError
    from xbatch.job.loading import load_job

    terminal = Terminal()
    with tempfile.TemporaryDirectory(prefix="xbatch-") as scratch:
        terminal.divert(Path(scratch) / "printed.log")
        try:
            spec = load_job(fields_of(options | {"inputs": ("-",)}))
            for name in names or ("demo",):
                told = describe(spec, name, Path(scratch), terminal.divert)
                if as_json:
                    terminal.write_json(told)
                else:
                    terminal.write(_line(told))
        except XbatchError as e:
            terminal.leave(e.exit_code, str(e))
    terminal.leave(0)


def _line(told: dict[str, Any]) -> str:
    from xbatch.display import counted

    size = "" if told["parameters"] is None else f", {counted(told['parameters'], 'parameter')}"
    context = counted(told["context_tokens"], "token")
    return f"{told['model']}: {', '.join(told['abilities'])}; context of {context}{size}"
