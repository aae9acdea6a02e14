"""Answers that are JSON, as typed fields."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from xbatch.rows import strict_json
from xbatch.sinks.answers import Answer

Kind: TypeAlias = Literal["string", "integer", "number", "boolean", "json"]

_KINDS: tuple[Kind, ...] = ("string", "integer", "number", "boolean")
_INT64 = range(-(1 << 63), 1 << 63)
_NAMES = {"string": "a text", "integer": "a 64-bit integer", "number": "a number", "boolean": "a boolean"}


class Field(NamedTuple):
    """A property of the answers' JSON Schema."""

    name: str
    kind: Kind
    required: bool


class Parsed(NamedTuple):
    """What was found in an answer."""

    values: dict[str, Any]
    """The fields that have a value of their type; arrays, objects and what may be of several types as JSON text."""
    error: str | None
    """Why there is none, or what is wrong with the first field that is missing or has another type."""
    text: str | None
    """The whole object as JSON."""


def fields_of(schema: Mapping[str, Any]) -> list[Field]:
    """The properties of a JSON Schema in their order."""
    required = schema.get("required") or []
    return [Field(name, _kind(each), name in required) for name, each in (schema.get("properties") or {}).items()]


def parse_answer(answer: Answer, fields: list[Field]) -> Parsed:
    """Read an answer's text as an object with these fields; a row without an answer has neither values nor an error."""
    if answer.text is None:
        completed = answer.status_code == 200
        return Parsed({}, "the answer has no text" if completed else None, None)
    try:
        value = strict_json.decode(answer.text.encode())
    except strict_json.BadJson as e:
        cut = ", for it was cut off" if answer.finish_reason == "length" else ""
        return Parsed({}, f"the answer is {e}{cut}", None)
    if not isinstance(value, dict):
        return Parsed({}, "the answer is JSON, but not an object", None)
    values: dict[str, Any] = {}
    errors: list[str] = []
    for field in fields:
        if (given := value.get(field.name)) is None:
            if field.required and field.name not in value:
                errors.append(f"{field.name} is missing")
        elif (found := _typed(given, field.kind)) is None:
            errors.append(f"{field.name} is not {_NAMES[field.kind]}")
        else:
            values[field.name] = found
    return Parsed(values, errors[0] if errors else None, msgspec.json.encode(value).decode())


def _kind(schema: Any) -> Kind:
    """The one type of a property besides null; `json` if there are several, or none is named."""
    if not isinstance(schema, dict):
        return "json"
    named = schema.get("type")
    if named is None and all(isinstance(each, str) for each in schema.get("enum") or [None]):
        return "string"
    types = [each for each in (named if isinstance(named, list) else [named]) if each != "null"]
    return next((kind for kind in _KINDS if types == [kind]), "json")


def _typed(value: Any, kind: Kind) -> Any:
    """The value as a column of this type has it, None if it is of another type."""
    if kind == "json":
        return msgspec.json.encode(value).decode()
    if kind == "string":
        return value if isinstance(value, str) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if kind == "number":
        return _float(value)
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return whole if isinstance(whole, int) and whole in _INT64 else None


def _float(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
