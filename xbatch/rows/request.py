"""From a row to a request, or to the reason why it is none."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from xbatch.display import counted
from xbatch.rows import strict_json
from xbatch.rows.outcome import Failure
from xbatch.rows.row import Row
from xbatch.rows.template import RequestTemplate, TemplateError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ENDPOINTS = (CHAT, COMPLETIONS)
EXCERPT_BYTES = 200
TOKEN_BYTES = 4


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
    line: int = 0
    """Number of its line in its input, from 1; 0 if it comes from no input."""

    def prepared(self, prompt: Prompt) -> "Request":
        """The same request with its prompt."""
        return Request(
            self.index, self.custom_id, self.endpoint, self.body, self.num_bytes, self.to_context_end, prompt, self.line
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

    A template first makes a bare body of the row's columns; a `custom_id` in it wins over the row's own.
    What stands inside the body is the API's to judge, so only what keeps a row from being sent is rejected here:
    the codes are `line_too_long`, `invalid_json_line`, `invalid_unicode`, `json_too_deep`, `body_not_object`,
    `invalid_custom_id`, `duplicate_custom_id`, `invalid_method`, `invalid_url`, `template_failed`.
    """
    return (_usual(row) if template is None else None) or _parse(row, template)


def _parse(row: Row, template: RequestTemplate | None = None) -> ParsedRow:
    custom_id = f"row-{row.index}"
    try:
        if row.too_long:
            raise _Unfit(
                "line_too_long", f"the row has {counted(row.num_bytes, 'byte')}, more than --max-line-bytes allows"
            )
        value = _object(strict_json.decode(row.data), "the row")
        custom_id = _custom_id(value, custom_id)
        if template is not None:
            value = template.body(value)
            custom_id = _custom_id(value, custom_id)
        if row.first_use is not None:
            raise _Unfit("duplicate_custom_id", f"custom_id {_short(custom_id)} is already used in {row.first_use}")
        endpoint, body = _body(value)
        return Request(row.index, custom_id, endpoint, body, row.num_bytes, line=row.line)
    except (_Unfit, strict_json.BadJson, TemplateError) as e:
        failure = Failure(e.code, f"{row.place}: {e}{_excerpt(row, e.code)}")
        return Rejected(row.index, custom_id, failure, row.line)


class _Line(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A line as OpenAI's batches have it; a field more would be passed over without a look at what it holds."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: dict[str, Any]


_decode_line = msgspec.json.Decoder(_Line).decode


def _usual(row: Row) -> Request | None:
    """The request of a line that has nothing unusual; None if it must be looked at more closely."""
    data = row.data
    if row.too_long or row.first_use is not None or strict_json.may_be_deep(data):
        return None
    try:
        line = _decode_line(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not line.custom_id:
        return None
    return Request(row.index, line.custom_id, line.url, line.body, row.num_bytes, line=row.line)


def _object(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    hint = "; write it as an object, not as a string that holds JSON" if isinstance(value, str) else ""
    raise _Unfit("body_not_object", f"{what} is {_kind(value)}, not an object{hint}")


def _custom_id(value: dict[str, Any], generated: str) -> str:
    given = value.get("custom_id")
    if given is None:
        return generated
    if isinstance(given, str) and given:
        return given
    what = "an empty string" if given == "" else _kind(given)
    raise _Unfit("invalid_custom_id", f"custom_id is {what}, not a text")


def _body(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "body" not in value and "url" not in value and "method" not in value:
        body = {key: v for key, v in value.items() if key != "custom_id"}
        return _endpoint_for(body, "the row"), body
    if (method := value.get("method") or "POST") != "POST":
        raise _Unfit("invalid_method", f"method is {_short(method)}; only POST makes a response")
    if "body" not in value:
        raise _Unfit("body_not_object", 'the row has no "body"')
    body = _object(value["body"], "body")
    if (url := value.get("url")) is None:
        return _endpoint_for(body, "body"), body
    if url not in ENDPOINTS:
        raise _Unfit("invalid_url", f"url is {_short(url)}; xbatch answers {' and '.join(ENDPOINTS)}")
    return url, body


def _endpoint_for(body: dict[str, Any], what: str) -> str:
    if "messages" in body:
        return CHAT
    if "prompt" in body:
        return COMPLETIONS
    raise _Unfit("invalid_url", f'{what} has neither "messages" nor "prompt", so no endpoint fits it')


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


def _excerpt(row: Row, code: str) -> str:
    """The row's beginning, where the row can't be told otherwise."""
    if code not in ("invalid_json_line", "invalid_unicode", "json_too_deep", "line_too_long"):
        return ""
    text = row.data[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
    return f": {text}" + ("..." if row.num_bytes > EXCERPT_BYTES else "")
