"""From names and texts to vLLM's own arguments, checked by vLLM's own parser before any model loads."""

from argparse import Namespace
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from vllm.utils.argparse_utils import FlexibleArgumentParser

from xbatch.engines.vllm.troubles import translated
from xbatch.engines.vllm.versions import make_arg_parser, validate_parsed_serve_args
from xbatch.errors import UsageError

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class _Parser(FlexibleArgumentParser):
    """vLLM's parser, but trouble is an exception."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"vLLM does not take these settings: {message}")


def parse(settings: Mapping[str, Any]) -> Namespace:
    """Let vLLM's parser for `vllm serve` read `settings`, whose names are vLLM's, with `-` or `_`.

    Values are texts as on a command line, or lists of them. Raises UsageError, or EngineError if this vLLM has another
    parser than xbatch knows.
    """
    with translated("vLLM does not take these settings"):
        return _parse(settings)


def _parse(settings: Mapping[str, Any]) -> Namespace:
    parser = make_arg_parser(_Parser())
    known = {action.dest: action for action in parser._actions}  # noqa: SLF001 - argparse has no other list of them
    words: list[str] = []
    for name, value in settings.items():
        dest = name.lstrip("-").replace("-", "_")
        if dest not in known:
            close = get_close_matches(dest, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"vLLM has no setting called {name!r}{hint}")
        words += _words(dest.replace("_", "-"), value, takes_value=known[dest].nargs != 0)
    args: Namespace = parser.parse_args(words)
    validate_parsed_serve_args(args)
    return args


def _words(flag: str, value: Any, *, takes_value: bool) -> list[str]:
    if isinstance(value, list):
        return [f"--{flag}", *map(str, value)]
    if takes_value:
        return [f"--{flag}={value}"]
    text = str(value).lower()
    if text in _TRUE:
        return [f"--{flag}"]
    if text in _FALSE:
        return [f"--no-{flag}"]
    raise UsageError(f"vLLM's setting {flag} is true or false, not {value!r}")
