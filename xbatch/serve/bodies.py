"""From the bytes that a client sends to a request for the engine."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from xbatch.rows import strict_json
from xbatch.rows.request import CHAT, COMPLETIONS, Request
from xbatch.serve.errors import ApiProblem
from xbatch.serve.models import Served

BODY_S = 60.0
"""A body must have arrived after so long."""
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
"""Older clients' fields, and what vLLM calls each under `structured_outputs`."""


async def read_object(http: HttpRequest) -> tuple[dict[str, Any], int]:
    """Read a JSON object from a request's body; also its size in bytes.

    Raises ApiProblem.
    """
    kind = http.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiProblem(415, f"the body's Content-Type is {kind!r}, not application/json")
    try:
        async with asyncio.timeout(BODY_S):
            data = await http.body()
    except TimeoutError:
        raise ApiProblem(408, f"the body did not arrive within {BODY_S:g} s") from None
    except ClientDisconnect:
        raise ApiProblem(400, "the client went away") from None
    try:
        value = strict_json.decode(data)
    except strict_json.BadJson as e:
        raise ApiProblem(400, f"the body is {e}", code=e.code) from None
    if not isinstance(value, dict):
        raise ApiProblem(400, "the body is JSON, but not an object", code="body_not_object")
    return value, len(data)


def wants_stream(body: dict[str, Any]) -> bool:
    """Tell whether the answer is to be streamed. Raises ApiProblem if that can't be told."""
    if (stream := body.get("stream")) is not None and not isinstance(stream, bool):
        raise ApiProblem(400, "stream is neither true nor false", param="stream")
    return bool(stream)


def make_request(body: dict[str, Any], size: int, endpoint: str, served: Served) -> Request:
    """Make a request for the engine of what a client has sent, in whatever dialect.

    A completion that does not say how long it may be goes on to the end of the context, as Xinference's does. Fields
    that are unknown are left to vLLM, which ignores them. Raises ApiProblem.
    """
    served.check_name(body.get("model"))
    body = _in_vllms_words(body, served)
    if endpoint == CHAT:
        served.check_ability("chat", f"it only generates: use {COMPLETIONS}")
        if body.get("messages") == []:
            raise ApiProblem(400, "messages is empty", param="messages")
    return Request(0, "", endpoint, body, size, to_context_end=endpoint == COMPLETIONS)


def _in_vllms_words(body: dict[str, Any], served: Served) -> dict[str, Any]:
    body = dict(body)
    guided = {ours: body.pop(name) for name, ours in _GUIDED.items() if body.get(name) is not None}
    if guided:
        body.setdefault("structured_outputs", guided)
    if (thinking := body.pop("enable_thinking", None)) is not None:
        given = body.get("chat_template_kwargs")
        if given is None or isinstance(given, dict):
            body["chat_template_kwargs"] = {"enable_thinking": thinking, "thinking": thinking} | (given or {})
    if (adapter := body.pop("lora_name", None)) is not None:
        served.check_name(adapter)
        body["model"] = adapter
    return body
