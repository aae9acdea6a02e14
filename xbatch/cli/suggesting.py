"""What to write instead of a command or an option that does not exist."""

import json
import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches

import click

from xbatch.cli.vllm_settings import SHORT, SWITCHES, VALUES

_MEANT = {
    "answer": "run",
    "api": "serve",
    "batch": "run",
    "check": "validate",
    "continue": "run",
    "generate": "run",
    "infer": "run",
    "info": "doctor",
    "lint": "validate",
    "model": "models",
    "resume": "run",
    "retry": "run",
    "run-batch": "run",
    "server": "serve",
    "start": "run",
    "test": "validate",
}
"""Commands by the words that other tools have for them."""
_INPUT = ("-i", "--input", "--input-file", "--inputs", "--input-path", "--file", "--dataset")
_OUTPUT = ("--output-file", "--output-path", "--out")
_IN_BODIES = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "min_tokens", "stop", "n"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "tools"),
        *("tool_choice", "response_format", "guided_json", "structured_outputs", "chat_template_kwargs"),
    )
)
_SHOWN = 60


def about_command(words: Sequence[str], commands: Sequence[str]) -> str:
    """Say what to write instead of `words`, the first of which names no command."""
    word = words[0]
    if is_place(word):
        return f"there is no command {_quoted(word)}; to answer its rows: {_shown(['run', *words])}"
    meant = _MEANT.get(word.lower()) or next(iter(get_close_matches(word.lower(), commands, 1)), None)
    if meant is None:
        return f"there is no command {_quoted(word)}; the commands are {', '.join(commands)}"
    return f"there is no command {_quoted(word)}; did you mean {_shown([meant])}?"


def about_option(error: click.NoSuchOption, words: Sequence[str]) -> str:
    """Say what to write instead of an option that a command does not have; `words` are those of the command line."""
    word, value = _find(error.option_name, words)
    command = error.ctx.command if error.ctx is not None else None
    own = _options_of(command)
    return f"there is no option {_quoted(word)}{next(_ways(word, value, own, error.ctx))}"


def about_extra_name(flag: str, first: str, more: str) -> str:
    """Say how a flag that takes one value is given several, which `vllm serve` takes as words behind it."""
    again = f"{flag} {shlex.quote(first)} {flag} {shlex.quote(more)}"
    return f"{_quoted(more)} is no file; a further value of {flag} has its own flag: {again}"


def _ways(word: str, value: str | None, own: list[str], context: click.Context | None) -> Iterator[str]:
    """Yield what may be written instead of an option, the likeliest first."""
    command = context.info_name if context is not None and context.parent is not None else None
    if command is None:
        yield "; options follow the command: xbatch run INPUT... [OPTIONS]"
    if word in _INPUT and command in ("run", "validate", "watch"):
        yield f"; input files are plain words: {_shown([command, value or 'FILE'])}"
    if word in _OUTPUT and "--output" in own:
        yield f"; the output is named by -o {shlex.quote(value or 'PATH')}"
    name = SHORT.get(word) or _setting(word)
    if (flag := f"--{name.replace('_', '-')}") in own and flag != word:
        yield f"; write {flag} {shlex.quote(value or 'VALUE')}"
    if name in SWITCHES | VALUES and "--engine-arg" in own:
        yield f", but vLLM has such a setting: write --engine-arg {_argument(word, name, value)}"
    if others := _commands_with(word, context):
        yield f"; {word} is an option of {' and '.join(f'xbatch {each}' for each in others)}"
    field, near, theirs = (_nearest(name, _IN_BODIES), _nearest(word, own), _nearest(name, SWITCHES | VALUES))
    if field[1] and field[0] >= max(near[0], theirs[0]):
        yield f"; {field[1]} stands in the body of each row, or under `request:` in a job file"
    if near[1] and near[0] >= theirs[0]:
        yield f"; did you mean {near[1]}?"
    if theirs[1] and "--engine-arg" in own:
        yield f"; did you mean --engine-arg {_argument(theirs[1], theirs[1], value)}, a setting of vLLM?"
    setting = f"; a setting of vLLM is given by --engine-arg {name}=VALUE" if "--engine-arg" in own else ""
    yield f"; xbatch {command} --help lists the options{setting}"


def _nearest(word: str, known: Collection[str]) -> tuple[float, str]:
    """Return the known word that is most like another, empty if none is, and how like they are, from 0 to 1."""
    close = get_close_matches(word, sorted(known), 1)
    return (SequenceMatcher(None, close[0], word).ratio(), close[0]) if close else (0.0, "")


def _setting(word: str) -> str:
    """Return the setting that a flag of `vllm serve` sets, be it `--no-enable-lora` or `--speculative-config.model`."""
    name = word.lstrip("-").partition(".")[0].replace("-", "_")
    return name.removeprefix("no_") if name.removeprefix("no_") in SWITCHES else name


def _argument(word: str, name: str, value: str | None) -> str:
    """Write NAME=VALUE for a flag of `vllm serve` and the word that follows it."""
    if name in SWITCHES:
        return f"{name}={'false' if word.startswith('--no-') else 'true'}"
    inner = word.partition(".")[2]
    if inner and value is not None:
        try:
            value = json.dumps({inner: json.loads(value)})
        except (ValueError, RecursionError):
            value = json.dumps({inner: value})
    return shlex.quote(f"{name}={value or 'VALUE'}")


def _find(option: str, words: Sequence[str]) -> tuple[str, str | None]:
    """Find the word in which an option stands (click tells `-t` of `-tp`), and the value behind it."""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option or (len(option) == 2 and name[:2] == option and name[:3] != "--"):
            follows = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else None
            return name, value if equals else follows
    return option, None


def _options_of(command: click.Command | None) -> list[str]:
    return [word for each in (command.params if command else ()) for word in each.opts if word.startswith("-")]


def _commands_with(word: str, context: click.Context | None) -> list[str]:
    group = context.parent.command if context is not None and context.parent is not None else None
    if not isinstance(group, click.Group) or context is None:
        return []
    names = group.list_commands(context)
    return [name for name in names if word in _options_of(group.get_command(context, name))]


def is_place(word: str) -> bool:
    """Tell whether a word looks like an input: a file, a URI, a glob, a list, or standard input."""
    return word == "-" or any(mark in word for mark in "./*@") or os.path.exists(word)  # noqa: PTH110 - never raises


def _shown(words: Sequence[str]) -> str:
    return "xbatch " + _cut(shlex.join(words))


def _quoted(word: str) -> str:
    return _cut(word if word.isprintable() and word else repr(word))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
