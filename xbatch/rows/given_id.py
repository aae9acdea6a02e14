"""The `custom_id` of a row, also of one that can't be read."""

import json
from typing import Any

_decoder = json.JSONDecoder()
_BLANKS = " \t\r\n"


def id_text(given: Any) -> str | None:
    """Return a `custom_id` as text; None if it can't be one. Whole numbers are taken by their digits."""
    if type(given) is int:
        return str(given)
    return given if isinstance(given, str) and given else None


def recovered_id(data: bytes) -> str | None:
    """Find the `custom_id` of a line that is no acceptable JSON, or only the beginning of one.

    The fields of the line's object are read one after another until the id is found or a field can't be read. What
    Python's reader forgives (NaN, half a surrogate pair) and bytes that are not UTF-8 are no hindrance, unless they
    are part of the id itself.
    """
    text = data.decode("utf-8", "surrogateescape")
    try:
        given = _field(text, "custom_id")
    except (ValueError, RecursionError, IndexError):
        return None
    found = id_text(given)
    try:
        return found if found is None or found.encode() else None
    except UnicodeEncodeError:
        return None


def _field(text: str, wanted: str) -> Any:
    """Return a field of the object that a text begins with. Raises ValueError or IndexError where it ends before."""
    at = _skip(text, 0, "{")
    while True:
        name, at = _decoder.raw_decode(text, _skip(text, at))
        value, at = _decoder.raw_decode(text, _skip(text, _skip(text, at, ":")))
        at = _skip(text, at)  # the value is whole: a number at the end of what is left may go on
        if name == wanted:
            return value
        at = _skip(text, at, ",")


def _skip(text: str, at: int, sign: str = "") -> int:
    """Return the place behind blanks and a sign. Raises ValueError if the sign is not there."""
    while text[at] in _BLANKS:
        at += 1
    if not text.startswith(sign, at):
        raise ValueError
    return at + len(sign)
