"""What the server answers when it can't do what it was asked, in the words of both families of clients.

Formats: OpenAI's error object, which its clients read under `error`; and `detail`, which is all that Xinference's
clients show.
"""

from collections.abc import Mapping
from typing import Any

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class ApiProblem(Exception):
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
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        default = "server_error" if status >= 500 else "invalid_request_error"
        self.error = {"message": message, "type": kind or _KINDS.get(status, default), "param": param, "code": code}


def error_body(error: Mapping[str, Any]) -> dict[str, Any]:
    """The body that carries an OpenAI error object, for either family of clients."""
    return {"error": dict(error), "detail": str(error.get("message"))}
