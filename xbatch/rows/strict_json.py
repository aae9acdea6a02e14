"""JSON as RFC 8259 has it: no NaN, no infinities, no lone surrogates, integers of any size kept exact."""

import json
from typing import Any

import msgspec

MAX_DEPTH = 500
"""Nesting that is still read; deeper input is an attack or an accident, and costs stack in every later step."""

_decode = msgspec.json.Decoder().decode


class BadJson(Exception):
    """The bytes are not acceptable JSON; `code` is the failure's code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def decode(data: bytes) -> Any:
    """Decode one JSON document.

    Raises BadJson (`invalid_json_line`, `invalid_unicode`, `json_too_deep`).
    """
    try:
        value = _decode(data)
    except RecursionError:
        raise BadJson("json_too_deep", f"JSON is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError as e:
        raise BadJson("invalid_unicode", f"not valid UTF-8: {e.reason}") from None
    except msgspec.MsgspecError as e:
        raise _explain(data, str(e)) from None
    if may_be_deep(data) and _depth(value) > MAX_DEPTH:
        raise BadJson("json_too_deep", f"JSON is nested deeper than {MAX_DEPTH} levels")
    return value


def may_be_deep(data: bytes) -> bool:
    """A document may be nested deeper than MAX_DEPTH; told at the speed of memory, so others need no closer look."""
    return len(data) > 2 * MAX_DEPTH and data.count(b"[") + data.count(b"{") > MAX_DEPTH


def _explain(data: bytes, fallback: str) -> BadJson:
    """Say what is wrong in the words of the standard library, which name the column."""
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        return BadJson("invalid_unicode", f"not valid UTF-8: {e.reason} at byte {e.start}")
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except json.JSONDecodeError as e:
        return BadJson("invalid_json_line", f"not valid JSON: {e.msg.removesuffix(' at')} at column {e.colno}")
    except UnicodeEncodeError:
        return BadJson("invalid_unicode", "a string holds half of a surrogate pair")
    except RecursionError:
        return BadJson("json_too_deep", f"JSON is nested deeper than {MAX_DEPTH} levels")
    except ValueError as e:
        return BadJson("invalid_json_line", f"not valid JSON: {e}")
    return BadJson("invalid_json_line", f"not valid JSON: {_number_trouble(text) or fallback}")


def _number_trouble(text: str) -> str | None:
    """Name the first constant that Python reads and JSON does not have."""
    names: list[str] = []
    json.loads(text, parse_constant=names.append)
    return f"{names[0]} is not a JSON number" if names else None


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [child for node in level for child in _children(node)]
    return depth


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [v for v in node.values() if isinstance(v, (dict, list))]
    if isinstance(node, list):
        return [v for v in node if isinstance(v, (dict, list))]
    return []
