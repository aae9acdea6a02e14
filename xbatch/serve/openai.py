"""OpenAI's two endpoints, answered as they come."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xbatch.engines import Engine, Piece
from xbatch.errors import EngineError
from xbatch.rows.outcome import Completion, Failure, Usage
from xbatch.rows.request import CHAT, COMPLETIONS, Request
from xbatch.schema.lines import ApiError, ChatBody, ChatCompletion, CompletionBody, TextCompletion
from xbatch.serve.admission import Admission, Place
from xbatch.serve.bodies import make_request, read_object, wants_stream
from xbatch.serve.errors import ApiProblem, Json, answer_failure
from xbatch.serve.keeper import EngineKeeper, unavailable
from xbatch.serve.media import private_media
from xbatch.serve.metrics import Figures
from xbatch.serve.models import Served
from xbatch.serve.streaming import EventStream, until_disconnect

_T = TypeVar("_T")
QUESTION = "What is the largest animal?"
"""Of the examples in the description of the API."""


class _Gone(Exception):
    """The client went away."""


@dataclass(frozen=True, slots=True)
class Online:
    """What it takes to answer a request online.

    `timeout_s` is the longest that an answer may take.
    """

    keeper: EngineKeeper
    served: Served
    admission: Admission
    figures: Figures
    timeout_s: float | None

    async def answer(self, http: HttpRequest, endpoint: str) -> Response:
        """Answer one request, as a whole or as a stream."""
        began_s = time.monotonic()
        place = self.admission.enter()
        streams = False
        try:
            body, size = await read_object(http)
            stream = wants_stream(body)
            request = make_request(body, size, endpoint, self.served)
            if (trouble := await private_media(body)) is not None:
                raise ApiProblem(400, trouble, param="messages")
            async with asyncio.timeout(self.timeout_s) as limit:
                await place.begin()
                engine = self.keeper.engine
                if not stream:
                    return await self._whole(http, engine, request)
                answer = await self._streamed(http, engine, request, place, began_s, limit.when())
                streams = isinstance(answer, EventStream)
                return answer
        except TimeoutError:
            text = f"no answer within {self.timeout_s:g} s (--request-timeout)"
            raise ApiProblem(504, text, code="request_timeout") from None
        except EngineError:
            self.keeper.suspect()
            raise unavailable("the engine has died and is being started again: try again in a moment") from None
        except _Gone:
            return Response(status_code=499)
        finally:
            if not streams:
                place.leave()

    async def _whole(self, http: HttpRequest, engine: Engine, request: Request) -> Response:
        outcome = await _unless_gone(http, engine.generate(request))
        if isinstance(outcome, Failure):
            return answer_failure(outcome)
        assert isinstance(outcome, Completion)
        self.figures.count_tokens(outcome.usage)
        return Json(outcome.body)

    async def _streamed(
        self,
        http: HttpRequest,
        engine: Engine,
        request: Request,
        place: Place,
        began_s: float,
        until_s: float | None,
    ) -> Response:
        pieces = engine.stream(request)
        try:
            # What is wrong with a request is told by a status, so nothing is sent before the first chunk is there.
            first = await _unless_gone(http, _first(pieces))
        except BaseException:
            await pieces.aclose()
            raise
        if isinstance(first, Failure):
            await pieces.aclose()
            return answer_failure(first)
        self.figures.first_token_s.observe(time.monotonic() - began_s)

        def end(usage: Usage | None) -> None:
            place.leave()
            if usage is None:
                self.keeper.suspect()
            else:
                self.figures.count_tokens(usage)

        return EventStream(first, pieces, request.endpoint, until_s, end)


def openai_router(online: Online) -> APIRouter:
    """The routes of the two endpoints."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        CHAT,
        summary="Answer a conversation",
        openapi_extra=_body(ChatBody, messages=[{"role": "user", "content": QUESTION}]),
        responses=_answers(ChatCompletion),
    )
    async def chat(http: HttpRequest) -> Response:
        return await online.answer(http, CHAT)

    @router.post(
        COMPLETIONS,
        summary="Go on with a text; to the end of the context unless max_tokens says otherwise",
        openapi_extra=_body(CompletionBody, prompt=QUESTION),
        responses=_answers(TextCompletion),
    )
    async def complete(http: HttpRequest) -> Response:
        return await online.answer(http, COMPLETIONS)

    return router


def _body(model: type[BaseModel], **example: Any) -> dict[str, Any]:
    schema = model.model_json_schema() | {"examples": [{**example, "max_tokens": 64}]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    told = {400: "What is wrong with it", 404: "Unknown model", 429: "Too many wait", 503: "No engine yet or any more"}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ApiError, "description": text} for status, text in told.items()
    }
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return errors | {200: {"model": model, "description": "The answer", "content": stream}}


async def _first(pieces: AsyncGenerator[Piece, None]) -> Piece:
    return await anext(pieces)


async def _unless_gone(http: HttpRequest, answer: Awaitable[_T]) -> _T:
    """Wait for an answer. Raises _Gone, and takes the question back, if the client goes away before."""
    answering = asyncio.ensure_future(answer)
    listening = asyncio.create_task(until_disconnect(http.receive))
    try:
        await asyncio.wait((answering, listening), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise _Gone
    finally:
        listening.cancel()
        if not answering.done():
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
