"""From a row to a request, or to the reason why it is none."""

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from xbatch.display import counted
from xbatch.rows import strict_json
from xbatch.rows.endpoint import CHAT, COMPLETIONS, ENDPOINTS, endpoint_of, is_conversation
from xbatch.rows.given_id import id_text, recovered_id
from xbatch.rows.nulls import drop_null_settings, drop_nulls
from xbatch.rows.outcome import Failure
from xbatch.rows.row import Row
from xbatch.rows.shapes import describe, keys_of
from xbatch.rows.template import RequestTemplate, TemplateError

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "ENDPOINTS",
    "EXCERPT_BYTES",
    "TOKEN_BYTES",
    "ParsedRow",
    "Prompt",
    "Rejected",
    "Request",
    "parse",
]

EXCERPT_BYTES = 200
TOKEN_BYTES = 4
_CUSTOM_ID = "custom_id"
_find_null = re.compile(b"null").search  # faster than `in`


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine makes of a request before it runs it."""

    tokens: bytes
    """The prompt's token ids, four bytes each, the highest first: so these bytes are ordered as the tokens are, and
    prompts that share their beginning stand together."""
    max_tokens: int
    """So many tokens the answer has at most."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.tokens) // TOKEN_BYTES


class Request(msgspec.Struct, gc=False):
    """A row that can be sent to an engine; nobody changes one.

    Formats: the lines of OpenAI's batch input files, and bare bodies of its two endpoints. A struct, for it is made for
    each row of the input, and to make a dataclass takes three times as long.
    """

    index: int
    custom_id: str
    endpoint: str
    """One of ENDPOINTS."""
    body: dict[str, Any]
    num_bytes: int
    """Size of the row in its input: what the request costs while it waits."""
    to_context_end: bool = False
    """A completion that names no `max_tokens` goes on to the end of the context, not for OpenAI's 16 tokens."""
    prompt: Prompt | None = None
    """None until an engine has prepared it, and where it can't be told beforehand."""
    nameless: bool = False
    """The row gives no `custom_id`; this one was made for it."""
    line: int = 0
    """Number of its line in its input, from 1; 0 if it comes from no input."""

    def prepared(self, prompt: Prompt) -> "Request":
        """Return the same request with its prompt."""
        to_end, nameless, line = self.to_context_end, self.nameless, self.line
        return Request(
            self.index, self.custom_id, self.endpoint, self.body, self.num_bytes, to_end, prompt, nameless, line
        )

    @property
    def model(self) -> object:
        """The model that the row names, None if it names none; any JSON value if the row is wrong."""
        return self.body.get("model")

    @property
    def limit(self) -> int | None:
        """The most tokens that the row allows its answer, None if it does not say."""
        get = self.body.get
        if type(given := get("max_completion_tokens")) is int and given > 0:
            return given
        return given if type(given := get("max_tokens")) is int and given > 0 else None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that never became a request."""

    index: int
    custom_id: str
    failure: Failure
    nameless: bool = False
    """As for `Request`; also where the `custom_id` that the row gives can't be told."""
    line: int = 0
    """Number of its line in its input, from 1."""


ParsedRow: TypeAlias = Request | Rejected


class _Unfit(Exception):
    """Leaves the nested checks below; never leaves this module."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(row: Row, template: RequestTemplate | None = None) -> ParsedRow:
    """Turn a row into a request, or into the failure that is its response.

    A template first makes a bare body of the row's columns; a `custom_id` in it wins over the row's own. A row that
    gives none gets `row-<index>`, or the row's `fallback_id`. A bare body whose prompt is a list of messages is a chat,
    and nulls that only writers of structs leave in messages are removed.
    What stands inside the body is the API's to judge, so only what keeps a row from being sent is rejected here:
    the codes are `line_too_long`, `invalid_json_line`, `invalid_unicode`, `json_too_deep`, `body_not_object`,
    `invalid_custom_id`, `duplicate_custom_id`, `invalid_method`, `invalid_url`, `unknown_row_shape`, `template_failed`.
    """
    return (_usual(row) if template is None else None) or _parse(row, template)


def _parse(row: Row, template: RequestTemplate | None = None) -> ParsedRow:
    given: str | None = None
    try:
        value = _value(row)
        not_text = row.bad_cell.not_text if row.bad_cell is not None else ()
        if row.bad_cell is not None and (template is None or (_CUSTOM_ID,) in not_text):
            raise _Unfit("invalid_unicode", f"column {row.bad_cell.column} holds bytes that are not UTF-8 text")
        given = _custom_id(value)
        if template is not None:
            value = template.body(value, not_text)
            given = _custom_id(value) or given
        custom_id = given or _fallback_id(row)
        if row.first_use is not None:
            raise _Unfit("duplicate_custom_id", f"custom_id {_short(custom_id)} is already used in {row.first_use}")
        endpoint, body = _body(value)
        if template is not None:
            drop_null_settings(body)
            drop_nulls(body)
        elif _find_null(row.data):
            drop_nulls(body)
        return Request(row.index, custom_id, endpoint, body, row.num_bytes, nameless=given is None, line=row.line)
    except (_Unfit, strict_json.BadJson, TemplateError) as e:
        if isinstance(e, TemplateError):
            given = e.custom_id or given
        elif given is None:
            given = row.bad_cell.custom_id if row.bad_cell is not None else recovered_id(row.data)
        excerpt = _excerpt(row) if isinstance(e, strict_json.BadJson) or e.code == "line_too_long" else ""
        failure = Failure(e.code, f"{row.place}: {_column(row, e)}{e}{excerpt}")
        return Rejected(row.index, given or _fallback_id(row), failure, given is None, row.line)


def _value(row: Row) -> dict[str, Any]:
    """Return the object that a row is. Raises _Unfit or BadJson if it is none, or can't become a request."""
    if row.too_long:
        size = counted(row.num_bytes, "byte")
        raise _Unfit("line_too_long", f"the row has {size}, more than --max-line-bytes allows")
    return _object(strict_json.decode(row.data), "the row")


def _fallback_id(row: Row) -> str:
    return row.fallback_id or f"row-{row.index}"


class _Line(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A line as OpenAI's batches have it; a field more would be passed over without a look at what it holds."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: dict[str, Any]


_decode_line = msgspec.json.Decoder(_Line).decode


def _usual(row: Row) -> Request | None:
    """Return the request of a line that has nothing unusual; None if it must be looked at more closely."""
    data = row.data
    if row.too_long or row.first_use is not None or row.bad_cell is not None or strict_json.may_be_deep(data):
        return None
    try:
        line = _decode_line(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not line.custom_id:
        return None
    if _find_null(data):
        drop_nulls(line.body)
    return Request(row.index, line.custom_id, line.url, line.body, row.num_bytes, line=row.line)


def _object(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    hint = "; write it as an object, not as a string that holds JSON" if isinstance(value, str) else ""
    raise _Unfit("body_not_object", f"{what} is {_kind(value)}, not an object{hint}")


def _custom_id(value: dict[str, Any]) -> str | None:
    """Return the `custom_id` that a row gives, as text; None if it gives none."""
    if (given := value.get(_CUSTOM_ID)) is None:
        return None
    if (found := id_text(given)) is None:
        what = "an empty string" if given == "" else f"{_kind(given)} with a fraction" if type(given) is float else ""
        raise _Unfit("invalid_custom_id", f"custom_id is {what or _kind(given)}; it must be a text or a whole number")
    return found


def _body(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "body" not in value and "url" not in value and "method" not in value:
        return _bare({key: v for key, v in value.items() if key != _CUSTOM_ID}, "the row", value)
    if (method := value.get("method") or "POST") != "POST":
        raise _Unfit("invalid_method", f"method is {_short(method)}; only POST makes a response")
    if "body" not in value:
        raise _Unfit("body_not_object", f'the row has no "body" (it has: {keys_of(value)})')
    body = _object(value["body"], "body")
    if (url := value.get("url")) is None:
        return _bare(body, "body")
    if (endpoint := endpoint_of(url)) is None:
        raise _Unfit("invalid_url", f"url is {_short(url)}; xbatch answers {' and '.join(ENDPOINTS)}")
    return endpoint, body


def _bare(body: dict[str, Any], what: str, whole: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Return the endpoint that fits a body which comes without one, and the body as that endpoint has it."""
    if body.get("messages") is None and is_conversation(body.get("prompt")):
        body = {"messages" if key == "prompt" else key: v for key, v in body.items() if key != "messages"}
    return _endpoint_for(body, what, whole), body


def _endpoint_for(body: dict[str, Any], what: str, whole: dict[str, Any] | None = None) -> str:
    """Return the endpoint that a body is for; `whole` is the object around it, where that has a shape of its own."""
    if "messages" in body:
        return CHAT
    if "prompt" in body:
        return COMPLETIONS
    raise _Unfit("unknown_row_shape", describe(body if whole is None else whole, what))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= EXCERPT_BYTES else f"{text[:EXCERPT_BYTES]}..."


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "an array",
        dict: "an object",
    }
    return names[type(value)]


def _column(row: Row, e: Exception) -> str:
    """Name the column of a table whose text can't be read."""
    return f"column {row.bad_cell.column}: " if row.bad_cell is not None and isinstance(e, strict_json.BadJson) else ""


def _excerpt(row: Row) -> str:
    """Return the beginning of a row that can't be read."""
    text = row.data[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
    return f": {text}" + ("..." if row.num_bytes > EXCERPT_BYTES else "")
