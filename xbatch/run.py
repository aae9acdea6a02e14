"""The run loop: how rows become responses. Over interfaces only; it opens nothing and knows no implementation."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from xbatch.display import counted
from xbatch.engines import Engine
from xbatch.errors import EngineError, XbatchError
from xbatch.flight import Flight, Respond
from xbatch.intake import Feed, Intake
from xbatch.planning.dedupe import Dedupe
from xbatch.planning.scheduler import Scheduler
from xbatch.state.journal import Journal

Revive: TypeAlias = Callable[[EngineError], Awaitable[None]]
"""Gets a dead engine ready again. Raises EngineError if that can't be done."""

SPOOL_LIMIT = 20 << 30
"""Bytes of settled rows that may wait for a store; with more, nothing further is asked until it answers."""
_STORE_LOOK_S = 0.2
MAX_ENGINE_RESTARTS = 20
"""Restarts without a single row settled in between, after which it is not the rows that kill the engine."""


class Stop:
    """Asks the run loop to stop: once to admit nothing more and drain, twice to leave at once.

    Safe to call from other threads by `loop.call_soon_threadsafe`.
    """

    def __init__(self, drain_s: float = 20.0) -> None:
        self.drain_s = drain_s
        self.requests = 0
        self.error: XbatchError | None = None
        self._listeners: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask once more."""
        self.requests += 1
        for listener in self._listeners:
            listener()

    def fail(self, error: XbatchError) -> None:
        """Have the run loop raise `error`: what it works for is lost."""
        self.error = error
        self.request()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called at every request to stop."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call `listener` no more."""
        self._listeners.remove(listener)


async def run_job(
    feed: Feed,
    scheduler: Scheduler,
    engine: Engine,
    journal: Journal,
    respond: Respond,
    stop: Stop,
    *,
    revive: Revive,
    ready: Awaitable[None] | None = None,
    dedupe: Dedupe | None = None,
    request_timeout_s: float | None = None,
    spool_limit: int = SPOOL_LIMIT,
    max_engine_restarts: int = MAX_ENGINE_RESTARTS,
) -> bool:
    """Answer every row of `feed` and journal its response; True if all of them were, False if stopped before.

    Rows are read and prepared in a thread, only as far ahead as `scheduler` is hungry; until `ready` is done, none is
    submitted. With `dedupe`, rows that are sure to get the same answer are asked once. When the engine dies, `revive`
    gets it back and the rows that were in flight run again. While more than `spool_limit` bytes are settled and not
    sealed, nothing further is submitted. Raises EngineError or StorageError, and what `ready` raises; what is settled
    stays so.
    """
    flight = Flight(engine, scheduler, journal, respond, dedupe, request_timeout_s, spool_limit)
    intake = Intake(feed, engine.prepare, dedupe, flight.wake)
    start = _Start(engine, scheduler, ready, flight.wake)
    restarts = _Restarts(max_engine_restarts, revive)
    stop.listen(flight.wake)
    try:
        while not stop.requests:
            flight.take_in(intake.take())
            if flight.hungry:
                intake.begin()
            if start.done():
                flight.submit(more=intake.reading)
            if scheduler.idle and intake.ended and start.done():
                return True
            idle = flight.empty and not intake.reading and start.done()
            await flight.land(_STORE_LOOK_S if idle else None)
            if (death := flight.engine_death()) is not None:
                await restarts.revive(death, flight.progress)
        await _drain(flight, stop)
        flight.withdraw()
        if stop.error is not None:
            raise stop.error
        if scheduler.idle and stop.requests < 2:
            flight.take_in(await intake.last())
        return scheduler.idle and intake.ended
    finally:
        stop.forget(flight.wake)
        flight.abandon()
        await start.close()
        await intake.close()


async def end(work: "asyncio.Future[None] | None") -> None:
    """Cancel what is no longer waited for, whatever came of it."""
    if work is not None:
        work.cancel()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # looked at, so that nobody takes it for forgotten


async def _drain(flight: Flight, stop: Stop) -> None:
    """Let the engine finish what is in flight, until the time is up or the user insists."""
    try:
        async with asyncio.timeout(stop.drain_s):
            while not flight.empty and flight.death is None and stop.requests < 2 and stop.error is None:
                await flight.land()
    except TimeoutError:
        pass


class _Start:
    """Waits for the engine to be ready, if it is not yet."""

    def __init__(
        self, engine: Engine, scheduler: Scheduler, ready: Awaitable[None] | None, wake: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._starting = None if ready is None else asyncio.ensure_future(ready)
        self._told = False
        if self._starting is not None:
            self._starting.add_done_callback(lambda _: wake())

    def done(self) -> bool:
        """Requests may be submitted. Raises what has gone wrong."""
        if self._starting is not None:
            if not self._starting.done():
                return False
            self._starting.result()
        if not self._told:
            self._told = True
            self._scheduler.know_cache(self._engine.cache.tokens, self._engine.cache.block)
        return True

    async def close(self) -> None:
        """Wait no more."""
        await end(self._starting)


class _Restarts:
    """Counts restarts between which no row was settled."""

    def __init__(self, allowed: int, revive: Revive) -> None:
        self._allowed = allowed
        self._revive = revive
        self._settled = -1
        self._count = 0

    async def revive(self, death: EngineError, settled: int) -> None:
        self._count = self._count + 1 if settled == self._settled else 1
        self._settled = settled
        if self._count > self._allowed:
            raise EngineError(f"the engine died {counted(self._count, 'time')} with no row settled in between: {death}")
        await self._revive(death)
