"""The look at a batch's input before any row is answered: every line must be a request for the batch's endpoint."""

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from xbatch.display import counted
from xbatch.errors import UsageError
from xbatch.planning.repeats import RepeatFinder
from xbatch.rows.problem import unplaced
from xbatch.rows.request import ParsedRow, Rejected, parse
from xbatch.rows.row import Row
from xbatch.serve.batches import Mistake
from xbatch.sources.opening import SourceOptions, open_source

MAX_MISTAKES = 100
"""So many are told; with more the look ends."""
_UNREADABLE = ("line_too_long", "invalid_json_line", "invalid_unicode", "json_too_deep")
_PARAMS = {
    "body_not_object": "body",
    "invalid_custom_id": "custom_id",
    "invalid_method": "method",
    "invalid_url": "url",
    "unknown_row_shape": "body",
}


class _Line(msgspec.Struct):
    """What every line must have."""

    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class InputRules:
    """What a batch's input is held against."""

    endpoint: str
    models: Collection[str]
    """Names under which the model is served."""
    max_rows: int
    max_line_bytes: int


@dataclass(slots=True)
class Checked:
    """What was found."""

    total: int = 0
    models: dict[str, None] = field(default_factory=dict)
    """Names under which rows ask for the model."""
    mistakes: list[Mistake] = field(default_factory=list)
    """In the order of their lines; the first of them, if there are many."""


def check_input(uri: str, shown_as: str, rules: InputRules, stopped: Callable[[], bool]) -> Checked | None:
    """Look at every line of an input, in bounded memory; None if `stopped` told to end before.

    Raises StorageError.
    """
    checked = Checked()
    try:
        source = open_source(uri, shown_as, SourceOptions(rules.max_line_bytes))
        source.check()
        with closing(RepeatFinder()) as repeats:
            for row in source.scan(0):
                if stopped():
                    return None
                if not _take(row, rules, checked, repeats):
                    break
            checked.mistakes += [_repeat(*each) for each in islice(repeats.repeats(), MAX_MISTAKES)]
    except UsageError as e:
        checked.mistakes.append(Mistake("invalid_file", str(e)))
    if not checked.total and not checked.mistakes:
        checked.mistakes.append(Mistake("empty_file", f"{shown_as} holds no request"))
    checked.mistakes = sorted(checked.mistakes, key=lambda each: each.line or 0)[:MAX_MISTAKES]
    return checked


def _take(row: Row, rules: InputRules, checked: Checked, repeats: RepeatFinder) -> bool:
    """Judge one row; False if there is no need to look at others."""
    checked.total += 1
    if checked.total > rules.max_rows:
        text = f"the file has more than {counted(rules.max_rows, 'request')} (--max-batch-rows)"
        checked.mistakes.append(Mistake("too_many_tasks", text, row.line))
        return False
    parsed = parse(row)
    if (mistake := _mistake(row, parsed, rules)) is not None:
        checked.mistakes.append(mistake)
    elif not isinstance(parsed, Rejected):
        repeats.add(parsed.custom_id.encode(), row.line, 0, row.line)
        if isinstance(parsed.model, str):
            checked.models[parsed.model] = None
    return len(checked.mistakes) < MAX_MISTAKES


def _mistake(row: Row, parsed: ParsedRow, rules: InputRules) -> Mistake | None:
    """Return what is wrong with a row, None if nothing is; its line is a field of its own, so no message repeats it."""
    refused = parsed.failure if isinstance(parsed, Rejected) else None
    if refused is None or refused.code not in _UNREADABLE:
        line = _line(row.data)
        for name in _missing(line):
            text = f"missing required parameter: {name!r}"
            return Mistake("missing_required_parameter", text, row.line, name)
        if refused is None and line is not None and not isinstance(line.custom_id, str):
            # Jobs take whole numbers; here the client looks for what it has sent, and OpenAI wants a text.
            return Mistake("invalid_custom_id", "custom_id is not a text", row.line, "custom_id")
    if isinstance(parsed, Rejected):
        text = unplaced(parsed.failure, row.place)
        return Mistake(parsed.failure.code, text, row.line, _PARAMS.get(parsed.failure.code))
    if parsed.endpoint != rules.endpoint:
        text = f"url is {parsed.endpoint}, and the endpoint of the batch {rules.endpoint}"
        return Mistake("url_mismatch", text, row.line, "url")
    if isinstance(parsed.model, str) and parsed.model not in rules.models:
        served = ", ".join(sorted(rules.models))
        text = f"the model {parsed.model[:200]!r} is not served here; served: {served}"
        return Mistake("model_not_found", text, row.line, "body.model")
    return None


def _line(data: bytes) -> _Line | None:
    """Return what a row has of what every line must have, None if it is no object."""
    try:
        return msgspec.json.decode(data, type=_Line)
    except msgspec.MsgspecError:
        return None


def _missing(line: _Line | None) -> Iterator[str]:
    """Yield the names of what a row lacks, if it is an object."""
    if line is None:
        return
    for name in ("custom_id", "method", "url"):
        if getattr(line, name) in (None, "") and not (name == "custom_id" and line.custom_id == ""):
            yield name
    if not bytes(line.body):
        yield "body"


def _repeat(line: int, first: tuple[int, int] | None) -> Mistake:
    assert first is not None  # rows without an id are mistakes by themselves
    text = f"its custom_id is already used in line {first[1]}; each must be used once"
    return Mistake("duplicate_custom_id", text, line, "custom_id")
