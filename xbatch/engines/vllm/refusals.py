"""How vLLM's server words a refusal, for requests that never pass through its HTTP layer."""

from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from xbatch.engines.vllm.versions import create_error_response, validation_exception_handler
from xbatch.rows.outcome import Failure

_ANOTHER_TIME = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_SERVER = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(args=SimpleNamespace(log_error_stack=False))))


async def refuse_invalid(error: ValidationError, body: dict[str, Any]) -> Failure:
    """The refusal of a body that vLLM's request model does not accept, as FastAPI hands it to vLLM's handler."""
    errors = [{**e, "loc": ("body", *e["loc"])} for e in error.errors(include_url=False)]
    answer = await validation_exception_handler(_SERVER, RequestValidationError(errors, body=body))
    return _failure(answer.status_code, bytes(answer.body))


def refuse_exception(error: Exception) -> Failure:
    """The refusal that vLLM's server makes of an exception."""
    return refuse(create_error_response(error))


def refuse(response: Any) -> Failure:
    """The refusal in one of vLLM's ErrorResponse objects."""
    return _failure(int(response.error.code), msgspec.json.encode(response.model_dump()))


def refuse_streamed(event: dict[str, Any]) -> Failure:
    """The refusal in an event of a stream."""
    return _failure(int(event["error"]["code"]), msgspec.json.encode(event))


def _failure(status_code: int, body: bytes) -> Failure:
    retryable = status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or status_code in _ANOTHER_TIME
    return Failure("api_error", f"status {status_code}", retryable, status_code, body)
