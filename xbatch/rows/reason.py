"""Why a row failed, read back from its response."""

import re
from typing import Any, NamedTuple

import msgspec

UNKNOWN = "unknown"
_READING = ("invalid_json_line", "invalid_unicode", "json_too_deep", "line_too_long")
"""Codes whose messages quote the row."""
_PLACE = re.compile(r"(.+?:(?:row )?)(\d+): ", re.DOTALL)
_VARYING = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|`[^`]*`|\([^()]*\)|\d[\d,.]*""")
"""What differs in messages that mean the same: quoted values, remarks in parentheses, numbers."""
_MESSAGE_CHARS = 300
_CUSTOM_ID_CHARS = 100
_KEY_CHARS = 160

_decode = msgspec.json.Decoder().decode


class Explanation(NamedTuple):
    """What a failed row's response says."""

    code: str
    """The status that the API answers, such as `400`, or xbatch's own code, such as `invalid_json_line`."""
    status_code: int | None
    """None if the row never got as far as the API."""
    message: str
    """Without the row's place, cut if it is long."""
    custom_id: str | None
    line: int
    """Number of the row's line, if the message names it; else 0."""

    @property
    def kind(self) -> str:
        """The same for failures that differ only in numbers and quoted values."""
        if self.code in _READING:
            return self.code
        return f"{self.code} {_VARYING.sub('#', self.message)[:_KEY_CHARS]}"


def explain(response: bytes) -> Explanation:
    """Read from a failed row's response line, of either format, why it failed."""
    try:
        value = _decode(response)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = None
    whole = value if isinstance(value, dict) else {}
    custom_id = whole.get("custom_id")
    answer, status = whole, None
    if isinstance(response_part := whole.get("response"), dict):
        status, body = response_part.get("status_code"), response_part.get("body")
        answer = body if isinstance(body, dict) else {}
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    code, message = error.get("code"), _text(error.get("message"))
    if status is None and type(code) is int:
        status = code  # a bare body holds the status only here
    line = 0
    if status is None and (place := _PLACE.match(message)) is not None:
        message, line = message[place.end() :], int(place[2])
    shown_code = str(status) if status is not None else _text(code) or UNKNOWN
    return Explanation(
        shown_code,
        status if type(status) is int else None,
        _short(message),
        custom_id[:_CUSTOM_ID_CHARS] if isinstance(custom_id, str) else None,
        line,
    )


def place_of(message: str) -> str:
    """Return the place with which the message about a rejected row begins, such as `requests.jsonl:7`."""
    place = _PLACE.match(message)
    return "" if place is None else place[1] + place[2]


def advice(code: str, *, status_code: int | None, retryable: bool) -> str:
    """Say what helps against failures of a kind."""
    if code in _ADVICE:
        return _ADVICE[code]
    if retryable:
        return "--retry-failed runs them again"
    if status_code is not None:
        return "change the requests or the settings"
    return "--retry-failed=all runs them again"


_FIX = "fix them and run them as a new input"
_ADVICE = {
    **dict.fromkeys(("invalid_json_line", "invalid_unicode", "json_too_deep", "body_not_object"), _FIX),
    **dict.fromkeys(("invalid_custom_id", "invalid_method", "invalid_url", "unknown_row_shape"), _FIX),
    "line_too_long": "--max-line-bytes allows longer rows",
    "duplicate_custom_id": "give each a custom_id of its own",
    "template_failed": "change the template or fill in what it needs",
    "404": "--served-model-name gives the model another name",
    "request_timeout": "--retry-failed runs them again, --request-timeout allows more time",
    "engine_crashed": "--retry-failed=all runs them again",
    "batch_cancelled": "make a new batch of them",
    "batch_expired": "make a new batch of them",
}
"""By code."""


def _short(message: str) -> str:
    """Return a message on one line, cut if it is long."""
    message = " ".join(message.split())
    return message if len(message) <= _MESSAGE_CHARS else f"{message[:_MESSAGE_CHARS]}..."


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
