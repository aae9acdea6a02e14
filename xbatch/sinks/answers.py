"""What a response line says, field by field."""

from typing import Any, NamedTuple

import msgspec


class Answer(NamedTuple):
    """The fields of a response that tables have columns for; of several choices, the first."""

    custom_id: str
    status_code: int | None
    text: str | None
    reasoning: str | None
    """What a model has thought before its answer, where vLLM tells both apart."""
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    response: str | None
    """The line's `response` as JSON, with all choices."""
    error: str | None
    """The line's `error` as JSON."""


class _Message(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: Any = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _WholeResponse(msgspec.Struct):
    body: _Body = msgspec.field(default_factory=_Body)


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw


class _Line(msgspec.Struct):
    custom_id: str
    response: msgspec.Raw
    error: msgspec.Raw


class _BodyLine(_Body):
    response: _WholeResponse | None = None


_line = msgspec.json.Decoder(_Line)
_response = msgspec.json.Decoder(_Response)
_body = msgspec.json.Decoder(_Body)
_body_line = msgspec.json.Decoder(_BodyLine)
_REASONING = b'"reasoning":"'


def read_answer(line: bytes) -> Answer:
    """Take a line of OpenAI's batch output apart."""
    read = _line.decode(line)
    error, response = _text(read.error), _text(read.response)
    if response is None:
        return Answer(read.custom_id, None, None, None, None, None, None, None, error)
    whole = _response.decode(response)
    try:
        body = _body.decode(whole.body)
    except msgspec.ValidationError:
        body = _Body()  # not what the API says, but kept as it is in `response`
    choice, usage = body.choices[0] if body.choices else _Choice(), body.usage or _Usage()
    message = choice.message
    text = message.content if message is not None else choice.text
    reasoning = message.reasoning if message is not None else None
    return Answer(
        read.custom_id,
        whole.status_code,
        text if isinstance(text, str) else None,
        reasoning if isinstance(reasoning, str) else None,
        choice.finish_reason,
        usage.prompt_tokens,
        usage.completion_tokens,
        response,
        error,
    )


def is_all_reasoning(line: bytes) -> bool:
    """Tell whether an answer, a batch line or a bare body, has reasoning and no text; of several choices, the first."""
    if _REASONING not in line:
        return False
    try:
        read = _body_line.decode(line)
    except msgspec.ValidationError:
        return False
    choices = read.response.body.choices if read.response is not None else read.choices
    message = choices[0].message if choices else None
    return message is not None and bool(message.reasoning) and not message.content and not message.tool_calls


def _text(value: msgspec.Raw) -> str | None:
    text = bytes(value).decode()
    return text if text != "null" else None
