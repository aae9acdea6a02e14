"""Who has the engine of a batch's job: the server, or, once a batch ends early, nobody."""

import asyncio
from asyncio import to_thread
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

from xbatch.assemble.starting import Starter
from xbatch.engines import Engine, Load, ModelCard, Piece, PrefixCache
from xbatch.errors import Interrupted
from xbatch.rows.outcome import Failure, Outcome
from xbatch.rows.request import Prompt, Request
from xbatch.run import Stop

CANCELLED = Failure("batch_cancelled", "This batch was cancelled before this request could be executed.")
EXPIRED = Failure("batch_expired", "This request could not be executed before the completion window expired.")
_LOOK_S = 0.1


class ClosingEngine:
    """Answers every request with the same failure."""

    max_in_flight = 256
    max_running = 256
    description = "none: the batch has ended early"
    card = ModelCard()
    cache = PrefixCache()
    load = Load()
    is_dead = False

    def __init__(self, failure: Failure) -> None:
        self._failure = failure

    def check(self) -> None:
        """Find nothing wrong."""

    async def start(self) -> None:
        """Be ready."""

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """No prompt is needed."""
        return [None] * len(requests)

    async def generate(self, request: Request) -> Outcome:
        """The failure."""
        return self._failure

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """The failure."""
        yield self._failure

    def kill(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """There is nothing to end."""


class ClosingStarter:
    """Has such an engine."""

    def __init__(self, failure: Failure) -> None:
        self.engine: Engine | None = None
        self._engine = ClosingEngine(failure)

    async def check(self, model: str) -> None:
        """Have the engine."""
        self.engine = self._engine

    async def start(self) -> None:
        """It is ready."""

    async def revive(self) -> None:
        """It does not die."""

    def close(self) -> None:
        """There is nothing to end."""

    def kill(self) -> None:
        """There is nothing to end."""


class PatientStarter:
    """Asks another starter for the engine for as long as the job is not stopped.

    `check` is called in a thread before the engine is asked for, and raises what keeps the job from beginning.
    """

    def __init__(self, starter: Starter, stop: Stop, check: Callable[[], None]) -> None:
        self._starter = starter
        self._stop = stop
        self._check = check

    @property
    def engine(self) -> Engine | None:
        """The other's."""
        return self._starter.engine

    async def check(self, model: str) -> None:
        """Have the other make it. Raises Interrupted if the job is stopped meanwhile."""
        await to_thread(self._check)
        await self._wait(self._starter.check(model))

    async def start(self) -> None:
        """Have the other start it. Raises Interrupted if the job is stopped meanwhile."""
        await self._wait(self._starter.start())

    async def revive(self) -> None:
        """Have the other revive it. Raises Interrupted if the job is stopped meanwhile."""
        await self._wait(self._starter.revive())

    def close(self) -> None:
        """Have the other close it."""
        self._starter.close()

    def kill(self) -> None:
        """Have the other kill it."""
        self._starter.kill()

    async def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
                if self._stop.requests:
                    raise Interrupted("stopped while there was no engine")
            task.result()
        finally:
            task.cancel()
