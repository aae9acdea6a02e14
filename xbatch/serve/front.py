"""What every HTTP request passes first: the access log, the limits on bodies, and who may ask."""

import hmac
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xbatch.display import counted
from xbatch.serve.errors import ApiProblem, answer_problem
from xbatch.serve.metrics import Figures

OPEN_PATHS = ("/", "/page.js", "/page.css", "/docs", "/docs.js", "/openapi.json", "/health", "/v1/cluster/auth")
"""No key is asked for here: the page, which asks for one itself, and what clients and orchestrators ask without one."""
UPLOADS = "/v1/files"
"""Bodies have a limit of their own there."""
_SAFE = ("GET", "HEAD", "OPTIONS")


class AccessLog:
    """Counts every request, and writes a line of JSON about it once it is answered.

    Fields: `time` (ISO 8601), `client`, `method`, `path`, `status`, `duration_s`, `sent_bytes`, `user_agent`. A client
    that went away before it got a status has 499.
    """

    def __init__(self, app: ASGIApp, figures: Figures, write: Callable[[str], None] | None) -> None:
        self._app = app
        self._figures = figures
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and tell about it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status, sent = time.monotonic(), 499, 0

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            duration_s = time.monotonic() - began_s
            # The pattern of the route, for paths are without number.
            route = getattr(scope.get("route"), "path", "other")
            self._figures.count_request(route, status, duration_s)
            if self._write is not None:
                self._write(_line(scope, status, duration_s, sent))


class Guard:
    """Turns away who has no key, whose body is too large, and what a web page of another site makes a browser send.

    Without `keys` everybody may ask. `origins` are those of the pages that may.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], origins: Collection[str], max_body_bytes: int) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._origins = set(origins)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
        except ApiProblem as e:
            await answer_problem(e)(scope, receive, send)
            return
        within = receive if scope["path"] == UPLOADS else self._limited(receive)
        await self._app(scope, within, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if scope["method"] not in _SAFE and headers.get("sec-fetch-site") == "cross-site":
            origin = headers.get("origin", "")
            if not self._origins & {origin, "*"}:
                raise ApiProblem(403, f"pages of {origin[:200]} may not ask here (--cors-origin)")
        if self._keys and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS" and not self._knows(headers):
            text = "this server wants an API key: Authorization: Bearer KEY"
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ApiProblem(401, text, code="invalid_api_key", headers=challenge)
        length = headers.get("content-length", "0")
        if scope["path"] != UPLOADS and length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip().encode("latin-1", "replace")
        # Every key is compared, each in constant time, so that the time tells nothing about any of them.
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        return scheme.lower() == "bearer" and any(matches)

    def _limited(self, receive: Receive) -> Receive:
        left = self._max_body_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiProblem:
        return ApiProblem(413, f"the body has more than {counted(self._max_body_bytes, 'byte')} (--max-body)")


def _line(scope: Scope, status: int, duration_s: float, sent: int) -> str:
    client = scope.get("client")
    told = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": None if client is None else client[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "duration_s": round(duration_s, 4),
        "sent_bytes": sent,
        "user_agent": Headers(scope=scope).get("user-agent"),
    }
    return msgspec.json.encode(told).decode()
