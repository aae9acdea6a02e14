"""A server with the real page whose every answer a test decides on: states, batches and streams of any shape."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from xbatch.serve.page import page_router

Body = dict[str, Any]


def first_status() -> Body:
    """What /status says of a server that has just loaded its model."""
    return {
        "version": "0.1.0",
        "model": "demo",
        "abilities": ["generate", "chat"],
        "context_length": 2048,
        "engine": {"state": "ready", "description": "vLLM 0.32.0 on CPU: float32, 2 threads", "restarts": 0},
        "uptime_s": 12.0,
        "requests": {"running": 0, "waiting": 0, "completed": 0, "failed": 0},
        "tokens": {"prompt": 0, "completion": 0},
        "batches": {
            "running": 0,
            "open": 0,
            "rows": {"in_flight": 0, "waiting": 0, "completed": 0, "failed": 0},
            "tokens": {"prompt": 0, "completion": 0},
        },
    }


@dataclass
class Answers:
    """What the server says; tests change it while it runs."""

    status: Body = field(default_factory=first_status)
    batches: list[Body] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    key: str = ""
    stream: list[bytes] = field(default_factory=list)
    """The parts in which an answer goes over the wire; an empty one stands for a wait until the client leaves."""
    pause_s: float = 0.01
    """Between two parts, so that each is a packet of its own."""
    refusal: tuple[int, Body, dict[str, str]] | None = None
    """Status, body and headers of every answer to a chat or a prompt."""
    asked: list[tuple[str, Body]] = field(default_factory=list)
    """Path and body of what was asked."""
    polls: int = 0
    left: int = 0
    """How many clients went away before they had the whole answer."""

    def start_over(self) -> None:
        """Answer as at first."""
        vars(self).update(vars(Answers()))


def make_stub(answers: Answers) -> FastAPI:
    """The app."""
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(page_router())

    def refused(request: Request) -> JSONResponse | None:
        if not answers.key or request.headers.get("Authorization") == f"Bearer {answers.key}":
            return None
        message = "The API key is missing or wrong."
        return JSONResponse({"error": {"message": message}, "detail": message}, 401)

    @app.get("/status")
    async def status(request: Request) -> Response:
        answers.polls += 1
        return refused(request) or JSONResponse(answers.status)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        card = {"id": "demo", "context_length": 2048, "model_size_in_billions": 0.002, "model_format": "pytorch"}
        return refused(request) or JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/batches")
    async def batches(request: Request, limit: int = 20) -> Response:
        found = {"object": "list", "data": answers.batches[:limit], "has_more": len(answers.batches) > limit}
        return refused(request) or JSONResponse(found)

    @app.get("/v1/files/{file_id}/content")
    async def content(request: Request, file_id: str) -> Response:
        return refused(request) or Response(answers.files[file_id])

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def chat(request: Request) -> Response:
        answers.asked.append((request.url.path, await request.json()))
        if (no := refused(request)) is not None:
            return no
        if answers.refusal is not None:
            return JSONResponse(answers.refusal[1], answers.refusal[0], headers=answers.refusal[2])
        return StreamingResponse(_parts(answers), media_type="text/event-stream")

    return app


async def _parts(answers: Answers) -> AsyncIterator[bytes]:
    try:
        for part in list(answers.stream):
            if not part:
                await asyncio.sleep(60)
            yield part
            await asyncio.sleep(answers.pause_s)
    except asyncio.CancelledError:
        answers.left += 1
        raise


@contextmanager
def serving(answers: Answers, port: int = 0) -> Iterator[str]:
    """The address of the app while it runs in a thread; on any free port unless one is named."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(make_stub(answers), log_level="error", timeout_graceful_shutdown=1, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
