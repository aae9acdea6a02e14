"""Files and batches for tests: in this process, with the fake engine, asked by OpenAI's own client."""

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
from fastapi import FastAPI
from openai.types import Batch, FileObject

from xbatch.assemble.starting import EngineStarter
from xbatch.engines.fake import FakeEngine
from xbatch.job.spec import JobSpec
from xbatch.serve.errors import add_handlers
from xbatch.serve.offline import Offline
from xbatch.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
WAIT_S = 30


def line(index: int, **changes: Any) -> str:
    """A line of a batch's input; a change to None leaves a field out."""
    body = {"model": "demo", "messages": [{"role": "user", "content": f"text {index}"}]}
    fields = {"custom_id": f"id-{index}", "method": "POST", "url": CHAT, "body": body} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def content(rows: Iterable[int] | Iterable[str]) -> bytes:
    return "".join((row if isinstance(row, str) else line(row)) + "\n" for row in rows).encode()


@dataclass
class Desk:
    """Files and batches that can be asked for."""

    client: openai.AsyncOpenAI
    http: httpx2.AsyncClient
    offline: Offline
    engine: FakeEngine
    told: list[str]

    async def upload(self, rows: Iterable[int] | Iterable[str] | bytes) -> FileObject:
        data = rows if isinstance(rows, bytes) else content(rows)
        return await self.client.files.create(file=("rows.jsonl", io.BytesIO(data)), purpose="batch")

    async def begin(self, rows: Iterable[int] | Iterable[str] | bytes, window: str = "24h", **more: Any) -> Batch:
        file = await self.upload(rows)
        window_: Any = window
        return await self.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window_, **more)

    async def until(self, batch: str, *statuses: str, completed: int = 0) -> Batch:
        """A batch, once it has one of these statuses, or else has ended; or, in progress, so many completed rows."""
        wanted, end = statuses or (("in_progress",) if completed else ENDED), time.monotonic() + WAIT_S
        while True:
            found = await self.client.batches.retrieve(batch)
            assert found.request_counts is not None
            if found.status in wanted and found.request_counts.completed >= completed:
                return found
            assert time.monotonic() < end, (found, self.told)
            await asyncio.sleep(0.02)

    async def hears(self, *words: str) -> None:
        """Wait until one sentence that was told has all of these words."""
        end = time.monotonic() + WAIT_S
        while not any(all(word in text for word in words) for text in self.told):
            assert time.monotonic() < end, self.told
            await asyncio.sleep(0.02)

    async def lines(self, file: str | None) -> list[dict[str, Any]]:
        if file is None:
            return []
        return [json.loads(each) for each in (await self.client.files.content(file)).content.splitlines()]

    async def answers(self, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return await self.lines(batch.output_file_id), await self.lines(batch.error_file_id)


@asynccontextmanager
async def desk(
    folder: Path,
    *,
    files: str | None = None,
    names: Iterable[str] = ("demo",),
    spec: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **engine: Any,
) -> AsyncIterator[Desk]:
    """A desk over `folder` where the model has `names`; engine settings are those of the fake one."""
    served = list(names)
    own = {"drain_s": 5, "served_model_name": served[1:], "engine": {"name": "fake", **engine}}
    given = JobSpec(inputs=["-"], model="demo", **{**own, **(spec or {})})
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    starter = EngineStarter(given, folder, folder / "log", lambda _: None, lambda _: None)
    await starter.check("demo")
    await starter.start()
    told: list[str] = []
    chosen = ServeSettings(files=files or str(folder / "files"), **(settings or {}))
    offline = Offline(given, chosen, lambda: starter, lambda: served, scratch, told.append)
    app = FastAPI()
    add_handlers(app)
    for router in offline.routers:
        app.include_router(router)
    running = asyncio.create_task(offline.run())
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)
        assert isinstance(starter.engine, FakeEngine)
        yield Desk(client, http, offline, starter.engine, told)
        await offline.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def once_each(rows: int, *files: list[dict[str, Any]]) -> None:
    """Every row has its line, in one of the files, in input order."""
    found = [[int(each["custom_id"].removeprefix("id-")) for each in file] for file in files]
    assert all(file == sorted(file) for file in found)
    assert Counter(row for file in found for row in file) == Counter(range(rows))
