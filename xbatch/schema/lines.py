"""The lines of inputs and outputs. Format: OpenAI's Batch API, whose bodies are those of its two endpoints."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.config import JsonDict

_OURS = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_OPENAIS = ConfigDict(extra="allow", use_attribute_docstrings=True)
"""Bodies have more fields than are described here: those of OpenAI's API and vLLM's own."""

CustomId = Annotated[str, Field(min_length=1)]
GivenId = CustomId | int
_URL = r"^(https?://[^/?#]+)?/?([^?#]*/)?(chat/completions|completions)/*([?#].*)?$"


class Sampling(BaseModel):
    """Fields that both endpoints share; there are more."""

    model_config = _OPENAIS

    model: str | None = None
    """The model to ask; rows may leave it out if the command or the job file names one."""
    max_tokens: int | None = None
    """Longest answer, in tokens."""
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    """Answers to one request."""
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: dict[str, Any] | None = None
    """The form that the answer must have: `{"type": "json_schema", "json_schema": {...}}`."""


class ChatBody(Sampling):
    """The body of a request to /v1/chat/completions."""

    messages: list[dict[str, Any]]
    """The conversation, in OpenAI's form; it may hold tool calls and parts that are not text, too."""


class CompletionBody(Sampling):
    """The body of a request to /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] | list[dict[str, Any]]
    """One text or several, or token ids; without a `url` also a list of messages, which makes it a chat."""


class BatchLine(BaseModel):
    """A line of OpenAI's batch input files."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    custom_id: GivenId | None = None
    """Names the row in the output; unique in a file. A number is taken by its digits; without it `row-<index>`."""
    method: Literal["POST"] | None = None
    url: Annotated[str, Field(pattern=_URL)] | None = None
    """Of `/v1/chat/completions` or `/v1/completions`, also without `/v1`, as a whole address, with a slash or a query
    behind it. Without it the body tells."""
    body: ChatBody | CompletionBody


class ChatLine(ChatBody):
    """A bare body of a chat."""

    custom_id: GivenId | None = None
    """Names the row in the output; unique in a file. A number is taken by its digits; without it `row-<index>`."""


class CompletionLine(CompletionBody):
    """A bare body of a completion."""

    custom_id: GivenId | None = None
    """Names the row in the output; unique in a file. A number is taken by its digits; without it `row-<index>`."""


class RequestLine(RootModel[BatchLine | ChatLine | CompletionLine]):
    """A line of an input, unless a template makes the request from it."""


class ApiErrorFields(BaseModel):
    """OpenAI's error object."""

    model_config = _OPENAIS

    message: str
    type: str | None
    param: str | None
    code: int | str | None


class ApiError(BaseModel):
    """What the API answers to a request that it refuses."""

    model_config = _OPENAIS

    error: ApiErrorFields


class Tokens(BaseModel):
    """Tokens that an answer cost."""

    model_config = _OPENAIS

    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class ChatMessage(BaseModel):
    """The model's message."""

    model_config = _OPENAIS

    role: str
    content: str | None = None


class ChatChoice(BaseModel):
    """One answer of a chat."""

    model_config = _OPENAIS

    index: int
    message: ChatMessage
    finish_reason: str | None


class ChatCompletion(BaseModel):
    """OpenAI's chat completion object."""

    model_config = _OPENAIS

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Tokens


class TextChoice(BaseModel):
    """One answer of a completion."""

    model_config = _OPENAIS

    index: int
    text: str
    finish_reason: str | None


class TextCompletion(BaseModel):
    """OpenAI's completion object."""

    model_config = _OPENAIS

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Tokens


class Response(BaseModel):
    """What the API answered."""

    model_config = _OURS

    status_code: Annotated[int, Field(ge=100, le=599)]
    """200, or what OpenAI's API says of a request that it refuses."""
    request_id: Annotated[str, Field(pattern="^req_[0-9a-f]{24}$")]
    body: ChatCompletion | TextCompletion | ApiError


class RowError(BaseModel):
    """Why a row never got an answer."""

    model_config = _OURS

    code: str
    """Such as `invalid_json_line`, `unknown_row_shape`, `template_failed`, `request_timeout`, `engine_crashed`."""
    message: str
    retryable: bool
    """The same row may succeed when it is tried again: `--retry-failed` does that."""


_ONE_OF_TWO: JsonDict = {
    "oneOf": [
        {"properties": {"response": {"type": "object"}, "error": {"type": "null"}}},
        {"properties": {"response": {"type": "null"}, "error": {"type": "object"}}},
    ]
}


class ResponseLine(BaseModel):
    """A line of the output, or of the file of failures: what became of one row."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, json_schema_extra=_ONE_OF_TWO)

    id: Annotated[str, Field(pattern="^batch_req_[0-9a-f]{24}$")]
    """The same on every attempt."""
    custom_id: CustomId
    response: Response | None
    """None if the row never got an answer."""
    error: RowError | None
    """None if it got one, also a refusal."""
    input: dict[str, Any] = {}
    """Columns of a table's row that are not part of the request, where `with_input` asks for them."""
    parsed: dict[str, Any] = {}
    """The answer as an object, with `parse: json`."""
    parse_error: str = ""
    """What is wrong with the answer, with `parse: json`."""
