"""Nulls that writers with fixed columns leave in a request, where a field that is left out is meant.

Whatever makes JSON from structs (Arrow, Spark, pydantic, Go) writes every field in every row, so that a user's message
has `"name": null`. vLLM's request models refuse some of these nulls and ignore the others.
"""

from typing import Any

_NEVER_NULL = frozenset(
    (
        *("n", "min_tokens", "bad_words", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens"),
        *("spaces_between_special_tokens", "length_penalty", "use_beam_search", "echo", "include_reasoning"),
        *("add_generation_prompt", "continue_final_message", "add_special_tokens", "priority", "request_id"),
    )
)
"""Fields of a body that vLLM's request models refuse as null; without them it takes its default."""
_KEPT = ("content",)
"""Fields of a message whose null has a meaning: the assistant's message that calls tools has no content."""
_SCHEMAS = ("parameters", "schema")
"""Fields that hold JSON Schemas, in which null is a value."""
_DATA = ("arguments",)
"""Fields that hold the user's own values."""
_TAGS = ("format",)
"""Fields that hold structural tags, in which JSON Schemas have other names."""


def drop_nulls(body: dict[str, Any]) -> None:
    """Remove fields that are null from the messages, tools and response format of a body, in place.

    Nulls that are values stay: the content of a message, whatever JSON Schemas hold, the arguments of calls, and media
    that a part of a message names by a uuid alone. So do the fields of the body itself, of which the API judges.
    """
    for message in _objects(body.get("messages")):
        _drop(message, _KEPT)
    for tool in _objects(body.get("tools")):
        _drop(tool)
    for name in ("response_format", "tool_choice"):
        if type(given := body.get(name)) is dict:
            _drop(given)


def drop_null_settings(body: dict[str, Any]) -> None:
    """Remove settings that are null from a body that was made of a table's row, in place, where vLLM refuses them."""
    for name in _NEVER_NULL.intersection(body):
        if body[name] is None:
            del body[name]


def _objects(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if type(value) is dict] if type(values) is list else []


def _drop(fields: dict[str, Any], kept: tuple[str, ...] = ()) -> None:
    if fields.get("uuid") is not None:
        kept = (*kept, fields.get("type", ""))  # an image that vLLM has already: `"image_url": null`
    for name, value in list(fields.items()):
        if value is None:
            if name not in kept and name not in _SCHEMAS + _DATA:
                del fields[name]
        elif name not in _SCHEMAS + _DATA + _TAGS:
            for each in (value,) if type(value) is dict else _objects(value):
                _drop(each)
