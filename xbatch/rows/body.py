"""What is evidently wrong inside a body, told without an engine.

Only what every version of vLLM refuses is told here, so that no good row is called bad: its request models take the
text "0.5" for a number, so a text is wrong only where no number can be read from it. Source: vLLM's
ChatCompletionRequest, CompletionRequest and SamplingParams.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from xbatch.rows.problem import Refusal
from xbatch.rows.request import CHAT, Request

Check = Callable[[Any], str | None]
"""What is wrong with a value, None if nothing is."""

_NEEDED_FOR_CHAT = ("messages",)
_NEEDED_FOR_COMPLETIONS = ("prompt", "prompt_embeds")
"""One of each must be there."""
_NAMES = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array", dict: "an object"}


def refusal(request: Request) -> Refusal | None:
    """What the API would surely refuse in a request's body, None if nothing is evident."""
    is_chat = request.endpoint == CHAT
    try:
        msgspec.convert(request.body, _FineChat if is_chat else _FineCompletion)
    except msgspec.ValidationError:
        return _refusal(request.body, is_chat=is_chat)
    return None


def _refusal(body: dict[str, Any], *, is_chat: bool) -> Refusal | None:
    """The first of its fields that is wrong, in words; None if every one is as good as usual ones."""
    checks = _OF_CHAT if is_chat else _OF_COMPLETIONS
    for name, value in body.items():
        check = checks.get(name)
        if check is not None and value is not None and (what := check(value)) is not None:
            return Refusal("invalid_request", f"{name} {what}", name, 400)
    needed = _NEEDED_FOR_CHAT if is_chat else _NEEDED_FOR_COMPLETIONS
    if body.get(needed[0]) is None and body.get(needed[-1]) is None:
        return Refusal("invalid_request", f"{needed[0]} is missing", needed[0], 400)
    return None


class _Object(msgspec.Struct, gc=False):
    """Any object."""


class _Fine(msgspec.Struct, gc=False):
    """The usual types of what is checked below: a body that fits needs no look at each of its fields."""

    model: str | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    seed: int | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None


class _FineChat(_Fine, kw_only=True, gc=False):
    messages: list[_Object]
    max_completion_tokens: int | None = None
    top_logprobs: int | None = None


class _FineCompletion(_Fine, kw_only=True, gc=False):
    prompt: str | list[str | int | list[Any]]


def _model(value: Any) -> str | None:
    return None if type(value) is str else f"is {_kind(value)}, not a text"


def _messages(value: Any) -> str | None:
    if type(value) is not list:
        return f"is {_kind(value)}, not an array"
    for message in value:
        if type(message) is not dict:
            return f"holds {_kind(message)}, not an object"
    return None


def _prompt(value: Any) -> str | None:
    if type(value) is list and any(type(each) is dict for each in value):
        return f"holds an object; messages are for {CHAT}"
    return None if type(value) in (str, list) else f"is {_kind(value)}, not a text or an array"


def _stop(value: Any) -> str | None:
    if type(value) is list:
        wrong = next((each for each in value if type(each) is not str), None)
        return None if wrong is None else f"holds {_kind(wrong)}, not a text"
    return None if type(value) is str else f"is {_kind(value)}, not a text or an array"


def _number(low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, whole: bool = False) -> Check:
    """A check for a number from `low` to `high`, and more than `above`."""

    def check(value: Any) -> str | None:
        kind = type(value)
        if kind is int or kind is float:
            if not low <= value <= high or value <= above:
                return f"is {value}, out of range"
            return f"is {value}, not a whole number" if whole and kind is float and not value.is_integer() else None
        if kind is str:
            return None if _reads_as_number(value) else "is a text, not a number"
        return None if kind is bool else f"is {_kind(value)}, not a number"

    return check


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kind(value: Any) -> str:
    return "null" if value is None else _NAMES[type(value)]


_OF_BOTH: dict[str, Check] = {
    "model": _model,
    "temperature": _number(0),
    "top_p": _number(high=1, above=0),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "n": _number(1, whole=True),
    "max_tokens": _number(whole=True),
    "min_tokens": _number(whole=True),
    "seed": _number(whole=True),
    "top_k": _number(whole=True),
    "stop": _stop,
}
_OF_CHAT = {
    **_OF_BOTH,
    "messages": _messages,
    "max_completion_tokens": _number(whole=True),
    "top_logprobs": _number(whole=True),
}
_OF_COMPLETIONS = {**_OF_BOTH, "prompt": _prompt}
