"""A real S3 server on this machine that can be told to misbehave."""

import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

Start = Callable[..., Any]

ANSWERS = {
    "slow-down": ("503 Slow Down", "SlowDown"),
    "forbidden": ("403 Forbidden", "AccessDenied"),
    "expired": ("400 Bad Request", "ExpiredToken"),
    "conflict": ("409 Conflict", "ConditionalRequestConflict"),
    "bad": ("400 Bad Request", "InvalidRequest"),
    "unnamed-412": ("412 Precondition Failed", "PreconditionFailed"),
}
"""Faults by name, each with the status and the code that S3 gives them."""

_CREDENTIAL = re.compile(r"Credential=(\w+)/")


class _Quiet(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        pass


@dataclass
class ObjectStore:
    """moto's S3, with faults laid over what it answers."""

    port: int = 0
    faults: list[str] = field(default_factory=list)
    """What befalls the next requests, one each: a name from ANSWERS, `drop-before` or `drop-after`."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""
    keys: list[str] = field(default_factory=list)
    """The access key of every request that is signed."""
    fault_method: str = "PUT"
    """The only method that they befall."""
    down: bool = False
    _server: BaseWSGIServer | None = None
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._deciding = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.down = False
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and answer on none that is open; the objects stay."""
        self.down = True
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if signed := _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", "")):
            self.keys.append(signed[1])
        if self.down:
            return _hang_up(environ)
        fault = self._fault(environ["REQUEST_METHOD"])
        if fault in ANSWERS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code = ANSWERS[fault]
            body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
            start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if fault == "drop-before":
            return _hang_up(environ)
        if environ["REQUEST_METHOD"] == "PUT":
            # S3 decides about one key one request at a time; moto looks first and stores then.
            with self._deciding:
                answer = list(self._app(environ, start))
        else:
            answer = list(self._app(environ, start))
        return _hang_up(environ) if fault == "drop-after" else answer

    def _fault(self, method: str) -> str:
        with self._deciding:
            return self.faults.pop(0) if self.faults and method == self.fault_method else ""


def _hang_up(environ: dict[str, Any]) -> list[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


@contextmanager
def running() -> Iterator[ObjectStore]:
    """An object store that refuses connections when this is over."""
    store = ObjectStore()
    store.start()
    try:
        yield store
    finally:
        store.stop()
