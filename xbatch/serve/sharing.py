"""The share of the engine that batches get, below whatever is asked online."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec

from xbatch.engines import Engine, Load, ModelCard, Piece, PrefixCache
from xbatch.errors import EngineError
from xbatch.rows.outcome import Failure, Outcome
from xbatch.rows.request import Prompt, Request
from xbatch.serve.errors import ApiProblem
from xbatch.serve.keeper import EngineKeeper
from xbatch.serve.media import private_media

BATCH_PRIORITY = 1 << 20
"""By vLLM's priority scheduling, lower numbers come first; online requests have 0 unless they say otherwise."""


class BatchShare:
    """The places of the engine that rows of batches may take: at most `share` of those in which it works.

    So an online request always finds one, and the jobs of all batches wait in one line for the others.
    """

    def __init__(self, keeper: EngineKeeper, share: float) -> None:
        self._keeper = keeper
        self._share = share
        self._places: asyncio.Semaphore | None = None

    def starter(self) -> "SharedStarter":
        """What a further job takes for the starter of its engine."""
        return SharedStarter(self._keeper, self)

    def size(self, engine: Engine) -> int:
        """The number of places."""
        return max(1, int(engine.max_running * self._share))

    def places(self, engine: Engine) -> asyncio.Semaphore:
        """The places themselves."""
        if self._places is None:
            self._places = asyncio.Semaphore(self.size(engine))
        return self._places


class SharedStarter:
    """What a job takes for the starter of its engine: the engine is the server's, which keeps it alive."""

    def __init__(self, keeper: EngineKeeper, share: BatchShare) -> None:
        self.engine: BatchEngine | None = None
        self._keeper = keeper
        self._share = share

    async def check(self, model: str) -> None:
        """Wait until the engine answers."""
        engine = await self._keeper.ready()
        if self.engine is None:
            self.engine = BatchEngine(self._keeper, self._share, engine)

    async def start(self) -> None:
        """It has been started."""

    async def revive(self) -> None:
        """Wait until the engine answers again."""
        self._keeper.suspect()
        await asyncio.sleep(0)
        await self._keeper.ready()

    def close(self) -> None:
        """The engine is the server's."""

    def kill(self) -> None:
        """The engine is the server's."""


class BatchEngine:
    """The server's engine as one job sees it.

    A row that was in flight when the engine died, and that the job now runs with no other of its rows beside it, is
    suspected to be the cause: it runs alone, so that it is not blamed for what others do.
    """

    def __init__(self, keeper: EngineKeeper, share: BatchShare, engine: Engine) -> None:
        self.max_running = self.max_in_flight = share.size(engine)
        self.description = engine.description
        self.card: ModelCard = engine.card
        self.cache: PrefixCache = engine.cache
        self._engine = engine
        self._keeper = keeper
        self._places = share.places(engine)
        self._in_flight = 0
        self._struck: set[int] = set()

    @property
    def load(self) -> Load:
        """All the work of the server's engine."""
        return self._engine.load

    @property
    def is_dead(self) -> bool:
        """Whoever asks waits until the engine answers again."""
        return False

    def check(self) -> None:
        """The server has checked the engine."""

    async def start(self) -> None:
        """Wait until the engine answers."""
        await self._keeper.ready()

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """The prompts as the server's engine makes them."""
        return self._engine.prepare([_low(request) for request in requests])

    async def generate(self, request: Request) -> Outcome:
        """Answer one row, after online requests.

        Raises EngineError if the engine dies meanwhile.
        """
        if (trouble := await private_media(request.body)) is not None:
            body = msgspec.json.encode({"error": ApiProblem(400, trouble, param="messages").error})
            return Failure("api_error", "status 400", status_code=400, body=body)
        self._in_flight += 1
        try:
            return await self._generate(request)
        except EngineError:
            self._struck.add(request.index)
            self._keeper.suspect()
            raise
        finally:
            self._in_flight -= 1

    async def _generate(self, request: Request) -> Outcome:
        request = _low(request)
        turns = self._keeper.turns
        if self._in_flight == 1 and request.index in self._struck:
            async with turns.alone():
                return await (await self._keeper.ready()).generate(request)
        async with self._places:
            await turns.join()
            try:
                return await (await self._keeper.ready()).generate(request)
            finally:
                turns.part()

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Rows are not streamed."""
        raise NotImplementedError

    def kill(self) -> None:
        """The engine is the server's."""

    def close(self) -> None:
        """The engine is the server's."""


def _low(request: Request) -> Request:
    return msgspec.structs.replace(request, body=request.body | {"priority": BATCH_PRIORITY})
