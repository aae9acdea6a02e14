"""What requests have in common, so that what vLLM makes of one tells what it would make of the others."""

from dataclasses import dataclass
from typing import Any

import msgspec

from xbatch.rows.request import CHAT, Request

_ROLES = ("system", "user", "assistant")
_MESSAGE_KEYS = {"role", "content"}
_LIMITS = ("max_tokens", "max_completion_tokens")
_UNREAD = ("stream", "stream_options", "user")
"""Fields that change nothing about an answer that comes as a whole."""
_MAX_SEED = (1 << 63) - 1
_ENCODER = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Shape:
    """A request, parted into what its like have in common and what is its own."""

    key: bytes
    """Equal for requests that differ in their prompts, seeds and limits only."""
    prompt: Any
    """Messages, each with a role and a text, or a text, or token ids."""
    limit: int | None
    """The tokens that the answer may have, if the body says so."""
    seed: int | None


def shape_of(request: Request) -> Shape | None:
    """The shape of a request; None if its prompt is of a sort that is vLLM's to judge."""
    body = {name: value for name, value in request.body.items() if name not in _UNREAD}
    is_chat = request.endpoint == CHAT
    prompt = body.pop("messages" if is_chat else "prompt", None)
    if request.to_context_end or not (_are_plain(prompt) if is_chat else _is_single(prompt)):
        return None
    limits = [name for name in _LIMITS if name in body]
    limit = seed = None
    if len(limits) == 1 and type(body[limits[0]]) is int and body[limits[0]] > 0:
        limit = body[limits[0]]
        body[limits[0]] = 1
    if type(given := body.get("seed")) is int and 0 <= given <= _MAX_SEED:
        seed = given
        body["seed"] = 1
    kind = type(prompt).__name__
    try:
        key = _ENCODER.encode((request.endpoint, kind, limit is None, seed is None, body))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return Shape(key, prompt, limit, seed)


def _are_plain(messages: Any) -> bool:
    """Messages of people and machines in words, without tools, media or names."""
    return (
        type(messages) is list
        and bool(messages)
        and all(
            type(each) is dict
            and each.keys() == _MESSAGE_KEYS
            and each["role"] in _ROLES
            and type(each["content"]) is str
            and each["content"] != ""
            for each in messages
        )
    )


def _is_single(prompt: Any) -> bool:
    """One prompt, as a text or as token ids."""
    if type(prompt) is str:
        return prompt != ""
    return type(prompt) is list and bool(prompt) and all(type(token) is int for token in prompt)
