"""Answers that are sent while they are made.

Format: server-sent events as OpenAI's API has them; each event is `data: ` and one line of JSON, the last one
`data: [DONE]`. An error after the beginning is an event with `error`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from xbatch.engines import Piece
from xbatch.errors import EngineError
from xbatch.rows.outcome import Failure, Usage
from xbatch.rows.request import CHAT
from xbatch.serve.errors import ApiProblem, error_body

SEND_S = 60.0
"""A client must have taken what was sent after so long, else it is taken for gone."""
_HAS_CONTENT = (b'"delta":{"content":"', b'"delta":{"role":"assistant","content":"')


class SlowReader(Exception):
    """The client takes nothing any more."""


class EventStream(Response):
    """Sends the pieces of an answer as they come, until the client goes away.

    `until_s` is the time by the event loop's clock at which the answer ends at the latest. `on_end` is called in any
    case, with the tokens of the answer if it came to its end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: Piece,
        rest: AsyncGenerator[Piece, None],
        endpoint: str,
        until_s: float | None,
        on_end: Callable[[Usage | None], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._endpoint = endpoint
        self._until_s = until_s
        self._on_end = on_end
        self._usage: Usage | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop because the client does not want it any more.

        Raises SlowReader, by which its connection is closed.
        """
        sending = asyncio.create_task(self._send_all(send))
        listening = asyncio.create_task(until_disconnect(receive))
        try:
            await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(sending, listening, return_exceptions=True)
            self._on_end(self._usage)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            raise error

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async with asyncio.timeout_at(self._until_s):
                    await self._send_piece(send, self._first)
                    async for piece in self._rest:
                        await self._send_piece(send, piece)
            except EngineError:
                await self._send_error(send, "the engine has died: ask again in a moment", "engine_unavailable")
            except TimeoutError:
                await self._send_error(send, "the answer has taken too long", "request_timeout")
            await _send(send, b"data: [DONE]\n\n", more=False)

    async def _send_piece(self, send: Send, piece: Piece) -> None:
        if isinstance(piece, Usage):
            self._usage = piece
        elif isinstance(piece, bytes):
            await _send(send, b"data: " + as_clients_expect(piece, self._endpoint) + b"\n\n")
        else:
            await _send(send, b"data: " + _failure(piece) + b"\n\n")

    async def _send_error(self, send: Send, message: str, code: str) -> None:
        error = error_body(ApiProblem(500, message, code=code).error)
        await _send(send, b"data: " + msgspec.json.encode(error) + b"\n\n")


async def until_disconnect(receive: Receive) -> None:
    """Wait until the client has gone away; its body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def as_clients_expect(chunk: bytes, endpoint: str) -> bytes:
    """A chunk in which each choice's `delta.content` is a text.

    vLLM leaves it out where there is nothing to say, and clients of Xinference look for it in each.
    """
    if endpoint != CHAT or any(sign in chunk for sign in _HAS_CONTENT):
        return chunk
    value = msgspec.json.decode(chunk)
    for choice in value.get("choices", ()):
        delta = choice.setdefault("delta", {})
        if not isinstance(delta.get("content"), str):
            delta["content"] = ""
    return msgspec.json.encode(value)


def _failure(failure: Failure) -> bytes:
    if failure.body is None:
        return msgspec.json.encode(error_body({"message": failure.message, "code": failure.code}))
    return msgspec.json.encode(error_body(msgspec.json.decode(failure.body)["error"]))


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    try:
        async with asyncio.timeout(SEND_S):
            await send({"type": "http.response.body", "body": body, "more_body": more})
    except TimeoutError:
        raise SlowReader from None
