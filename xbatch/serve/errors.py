"""What the server answers when it can't do what it was asked, in the words of both families of clients.

Formats: OpenAI's error object, which its clients read under `error`; and `detail`, which is all that Xinference's
clients show.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xbatch.rows.outcome import Failure

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_LOG = logging.getLogger("xbatch.serve")


class ApiProblem(HTTPException):
    """A request that is answered with an error.

    `kind` is OpenAI's `type`, without it the one that goes with the status; `param` names the field that is wrong,
    `code` is for programs. `headers` go with the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        default = "server_error" if status >= 500 else "invalid_request_error"
        self.error = {"message": message, "type": kind or _KINDS.get(status, default), "param": param, "code": code}


class Json(Response):
    """A JSON body on one line."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode `content`, or take it as it is if it is encoded already."""
        return content if isinstance(content, bytes) else msgspec.json.encode(content)


def error_body(error: Mapping[str, Any]) -> dict[str, Any]:
    """The body that carries an OpenAI error object, for either family of clients."""
    return {"error": dict(error), "detail": str(error.get("message"))}


def answer_problem(problem: ApiProblem) -> Response:
    """The answer that tells a problem."""
    return Json(error_body(problem.error), problem.status_code, problem.headers)


def answer_failure(failure: Failure) -> Response:
    """The answer that tells why the engine has none."""
    if failure.body is None:
        return answer_problem(ApiProblem(500, failure.message, code=failure.code))
    return Json(error_body(msgspec.json.decode(failure.body)["error"]), failure.status_code or 500)


def add_handlers(app: FastAPI) -> None:
    """Have every error of an app answered in both dialects."""

    async def on_http(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, ApiProblem):
            return answer_problem(error)
        return answer_problem(ApiProblem(error.status_code, str(error.detail), headers=error.headers))

    async def on_invalid(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answer_problem(ApiProblem(400, f"{where or 'the body'}: {first['msg']}", param=where or None))

    async def on_bug(_: HttpRequest, error: Exception) -> Response:
        _LOG.error("a request has failed", exc_info=error)
        return answer_problem(ApiProblem(500, "this is a bug in xbatch; the server's log has more"))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_bug)
