"""The share of the engine that batches get, below whatever is asked online."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import msgspec

from xbatch.engines import Engine, ModelCard, Piece
from xbatch.errors import EngineError
from xbatch.rows.outcome import Failure, Outcome
from xbatch.rows.request import Request
from xbatch.serve.errors import ApiProblem
from xbatch.serve.keeper import EngineKeeper
from xbatch.serve.media import private_media

BATCH_PRIORITY = 1 << 20
"""By vLLM's priority scheduling, lower numbers come first; online requests have 0 unless they say otherwise."""


class BatchEngine:
    """The kept engine as the jobs of all batches see it: rows come after online requests.

    At most `share` of the places in which the engine works are taken by rows at a time, so that an online request
    always finds one, and all jobs wait in one line for them.
    """

    def __init__(self, keeper: EngineKeeper, engine: Engine, share: float) -> None:
        self.max_running = max(1, int(engine.max_running * share))
        self.max_in_flight = self.max_running
        self.description = engine.description
        self.card: ModelCard = engine.card
        self._keeper = keeper
        self._places = asyncio.Semaphore(self.max_running)

    @property
    def is_dead(self) -> bool:
        """Whoever asks waits until the engine answers again."""
        return False

    def check(self) -> None:
        """The server has checked the engine."""

    async def start(self) -> None:
        """Wait until the engine answers."""
        await self._keeper.ready()

    async def generate(self, request: Request) -> Outcome:
        """Answer one row, after online requests.

        Raises EngineError if the engine dies meanwhile.
        """
        if (trouble := await private_media(request.body)) is not None:
            body = msgspec.json.encode({"error": ApiProblem(400, trouble, param="messages").error})
            return Failure("api_error", "status 400", status_code=400, body=body)
        async with self._places:
            engine = await self._keeper.ready()
            try:
                return await engine.generate(replace(request, body=request.body | {"priority": BATCH_PRIORITY}))
            except EngineError:
                self._keeper.suspect()
                raise

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Rows are not streamed."""
        raise NotImplementedError

    def kill(self) -> None:
        """The engine is the server's."""

    def close(self) -> None:
        """The engine is the server's."""


class SharedStarter:
    """What a job takes for its own engine's starter: the engine is the server's, which keeps it alive."""

    def __init__(self, keeper: EngineKeeper, share: float) -> None:
        self.engine: BatchEngine | None = None
        self._keeper = keeper
        self._share = share

    async def start(self, model: str) -> None:
        """Wait until the engine answers."""
        engine = await self._keeper.ready()
        if self.engine is None:
            self.engine = BatchEngine(self._keeper, engine, self._share)

    async def revive(self) -> None:
        """Wait until the engine answers again."""
        self._keeper.suspect()
        await asyncio.sleep(0)
        await self._keeper.ready()

    def close(self) -> None:
        """The engine is the server's."""

    def kill(self) -> None:
        """The engine is the server's."""
