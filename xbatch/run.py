"""The run loop: how rows become responses. Over interfaces only; it opens nothing and knows no implementation."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeAlias

from xbatch.engines import Engine
from xbatch.planning.scheduler import Scheduler
from xbatch.rows.outcome import Completion, Failure, Outcome, Usage
from xbatch.rows.request import ParsedRow, Rejected, Request
from xbatch.rows.shard import Shard
from xbatch.state.journal import Journal
from xbatch.state.records import Record

Feed: TypeAlias = Iterator[tuple[Shard, ParsedRow]]
"""Rows that have no outcome yet, each with its shard."""
Respond: TypeAlias = Callable[[int, str, Outcome], bytes]
"""Makes the response line from index, `custom_id` and outcome."""

_ROWS_A_TURN = 256
"""Rows read before the loop looks at outcomes and signals again."""


class Stop:
    """Asks the run loop to stop: once to admit nothing more and drain, twice to leave at once.

    Safe to call from other threads by `loop.call_soon_threadsafe`.
    """

    def __init__(self, drain_s: float = 20.0) -> None:
        self.drain_s = drain_s
        self.requests = 0
        self._listeners: list[Callable[[], None]] = []

    def request(self) -> None:
        """Ask once more."""
        self.requests += 1
        for listener in self._listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called at every request to stop."""
        self._listeners.append(listener)


async def run_job(
    feed: Feed, scheduler: Scheduler, engine: Engine, journal: Journal, respond: Respond, stop: Stop
) -> bool:
    """Answer every row of `feed` and journal its response; True if all of them were, False if stopped before.

    Reads only as far ahead as `scheduler` is hungry. Raises EngineError or StorageError; what is settled stays so.
    """
    flight = _Flight(engine, scheduler, journal, respond)
    stop.listen(flight.wake)
    try:
        more = True
        while not stop.requests:
            more = more and flight.take_in(feed)
            flight.submit()
            if scheduler.idle and not more:
                return True
            await flight.land(wait=not (more and scheduler.hungry))
        await flight.drain(stop)
        return scheduler.idle and not flight.take_in(feed) and scheduler.idle
    finally:
        flight.abandon()


class _Flight:
    """The requests between reading and journal."""

    def __init__(self, engine: Engine, scheduler: Scheduler, journal: Journal, respond: Respond) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._journal = journal
        self._respond = respond
        self._shards: dict[int, Shard] = {}
        self._tasks: dict[asyncio.Task[Outcome], Request] = {}
        self._landed: asyncio.Queue[asyncio.Task[Outcome] | None] = asyncio.Queue()

    def take_in(self, feed: Feed) -> bool:
        """Read rows while the scheduler is hungry; False if there are no more."""
        for _ in range(_ROWS_A_TURN):
            if not self._scheduler.hungry:
                return True
            if (item := next(feed, None)) is None:
                return False
            shard, parsed = item
            if isinstance(parsed, Rejected):
                self._settle(shard, parsed.index, parsed.custom_id, parsed.failure)
            else:
                self._shards[parsed.index] = shard
                self._scheduler.offer(parsed)
        return True

    def submit(self) -> None:
        """Hand over to the engine what the scheduler admits."""
        for request in self._scheduler.admit():
            task = asyncio.create_task(self._engine.generate(request))
            self._tasks[task] = request
            task.add_done_callback(self._landed.put_nowait)

    async def land(self, *, wait: bool) -> None:
        """Settle the outcomes that have arrived, having waited for one if asked to."""
        if wait:
            self._land(await self._landed.get())
        else:
            await asyncio.sleep(0)
        while not self._landed.empty():
            self._land(self._landed.get_nowait())

    async def drain(self, stop: Stop) -> None:
        """Let the engine finish what is in flight, until the time is up or the user insists."""
        try:
            async with asyncio.timeout(stop.drain_s):
                while self._tasks and stop.requests < 2:
                    await self.land(wait=True)
        except TimeoutError:
            pass

    def wake(self) -> None:
        """Make `land` return."""
        self._landed.put_nowait(None)

    def abandon(self) -> None:
        """Forget what is still in flight."""
        for task in self._tasks:
            task.remove_done_callback(self._landed.put_nowait)
            task.cancel()

    def _land(self, task: "asyncio.Task[Outcome] | None") -> None:
        if task is None:
            return
        request = self._tasks.pop(task)
        outcome = task.result()
        self._scheduler.settle(request)
        self._settle(self._shards.pop(request.index), request.index, request.custom_id, outcome)

    def _settle(self, shard: Shard, index: int, custom_id: str, outcome: Outcome) -> None:
        usage = Usage() if isinstance(outcome, Failure) else outcome.usage
        line = self._respond(index, custom_id, outcome)
        self._journal.append(shard, Record(index, isinstance(outcome, Completion), usage, line))
