"""The run loop: how rows become responses. Over interfaces only; it opens nothing and knows no implementation."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

from xbatch import crash
from xbatch.engines import Engine
from xbatch.errors import EngineError, XbatchError
from xbatch.planning.scheduler import Scheduler
from xbatch.rows.outcome import Failure, Outcome
from xbatch.rows.request import ParsedRow, Rejected, Request
from xbatch.rows.shard import Shard
from xbatch.state.journal import Journal
from xbatch.state.records import Record
from xbatch.state.wal import Submission

Feed: TypeAlias = Iterator[tuple[Shard, ParsedRow]]
"""Rows that have no outcome yet, each with its shard."""
Respond: TypeAlias = Callable[[int, str, Outcome], bytes]
"""Makes the response line from index, `custom_id` and outcome."""
Revive: TypeAlias = Callable[[EngineError], Awaitable[None]]
"""Gets a dead engine ready again. Raises EngineError if that can't be done."""

SPOOL_LIMIT = 20 << 30
"""Bytes of settled rows that may wait for a store; with more, nothing further is asked until it answers."""
_STORE_LOOK_S = 0.2
MAX_ENGINE_RESTARTS = 20
"""Restarts without a single row settled in between, after which it is not the rows that kill the engine."""
_ROWS_A_TURN = 256
"""Rows read before the loop looks at outcomes and signals again."""
_ENGINE_CRASHED = Failure("engine_crashed", "the engine died each time that this row ran, also with no other beside it")


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
    request_timeout_s: float | None = None,
    spool_limit: int = SPOOL_LIMIT,
    max_engine_restarts: int = MAX_ENGINE_RESTARTS,
) -> bool:
    """Answer every row of `feed` and journal its response; True if all of them were, False if stopped before.

    Reads only as far ahead as `scheduler` is hungry. When the engine dies, `revive` gets it back and the rows that
    were in flight run again. While more than `spool_limit` bytes are settled and not sealed, nothing further is
    submitted. Raises EngineError or StorageError; what is settled stays so.
    """
    flight = _Flight(engine, scheduler, journal, respond, request_timeout_s, spool_limit)
    stop.listen(flight.wake)
    restarts = _Restarts(max_engine_restarts, revive)
    try:
        more = True
        while not stop.requests:
            more = more and flight.take_in(feed)
            flight.submit()
            if scheduler.idle and not more:
                return True
            await flight.land(wait=not (more and scheduler.hungry))
            if (death := flight.engine_death()) is not None:
                await restarts.revive(death, flight.progress)
        await flight.drain(stop)
        flight.withdraw()
        if stop.error is not None:
            raise stop.error
        return scheduler.idle and not flight.take_in(feed) and scheduler.idle
    finally:
        stop.forget(flight.wake)
        flight.abandon()


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
            raise EngineError(f"the engine died {self._count} times with no row settled in between: {death}")
        await self._revive(death)


class _Flight:
    """The requests between reading and journal."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        journal: Journal,
        respond: Respond,
        request_timeout_s: float | None,
        spool_limit: int,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._journal = journal
        self._respond = respond
        self._request_timeout_s = request_timeout_s
        self._spool_limit = spool_limit
        self._shards: dict[int, Shard] = {}
        self._tasks: dict[asyncio.Task[Outcome], Request] = {}
        self._submitted: dict[int, Submission] = {}
        self._answered = self._blamed = 0
        self._landed: asyncio.Queue[asyncio.Task[Outcome] | None] = asyncio.Queue()
        self._death: EngineError | None = None

    @property
    def progress(self) -> int:
        """Rows that the engine has settled, also by dying of them; none while it has never answered one."""
        return self._answered + self._blamed if self._answered else 0

    def take_in(self, feed: Feed) -> bool:
        """Read rows while the scheduler is hungry; False if there are no more."""
        for _ in range(_ROWS_A_TURN):
            if not self._scheduler.hungry:
                return True
            if (item := next(feed, None)) is None:
                return False
            shard, parsed = item
            self._shards[parsed.index] = shard
            if isinstance(parsed, Rejected):
                self._settle(parsed, parsed.failure)
                continue
            strikes = self._journal.strikes(shard, parsed.index)
            if not self._scheduler.offer(parsed, strikes.times, strikes.alone):
                self._settle(parsed, _ENGINE_CRASHED)
        return True

    def submit(self) -> None:
        """Hand over to the engine what the scheduler admits, if there is room for what comes of it."""
        if self._journal.unsealed_bytes > self._spool_limit:
            return
        admitted = self._scheduler.admit()
        by_shard: dict[int, list[Submission]] = defaultdict(list)
        for request in admitted:
            submission = Submission(request.index, self._scheduler.alone)
            by_shard[self._shards[request.index].id].append(submission)
            self._submitted[request.index] = submission
        for submissions in by_shard.values():
            self._journal.submit(self._shards[submissions[0].row], submissions)
        for request in admitted:
            task = asyncio.create_task(self._generate(request))
            self._tasks[task] = request
            task.add_done_callback(self._landed.put_nowait)
            crash.here("row-submitted")

    async def land(self, *, wait: bool) -> None:
        """Settle the outcomes that have arrived, having waited for one if asked to."""
        if wait and self._tasks:
            self._land(await self._landed.get())
        elif wait:
            await asyncio.sleep(_STORE_LOOK_S)  # nothing is in flight, so a store must take what is settled
        else:
            await asyncio.sleep(0)
        while not self._landed.empty():
            self._land(self._landed.get_nowait())

    def engine_death(self) -> EngineError | None:
        """If the engine has died, what of; everything that was in flight waits again or is settled as its cause."""
        death, self._death = self._death, None
        if death is not None:
            for task in [task for task in self._tasks if task.done()]:
                self._land(task)
            self._death = None
            self.abandon()
            self._tasks.clear()
            for request in self._scheduler.engine_died():
                self._blamed += 1
                self._settle(request, _ENGINE_CRASHED)
        return death

    async def drain(self, stop: Stop) -> None:
        """Let the engine finish what is in flight, until the time is up or the user insists."""
        try:
            async with asyncio.timeout(stop.drain_s):
                while self._tasks and self._death is None and stop.requests < 2 and stop.error is None:
                    await self.land(wait=True)
        except TimeoutError:
            pass

    def withdraw(self) -> None:
        """Have nothing held against rows that are left in flight in an engine that lives."""
        if self._death is None:
            for request in self._tasks.values():
                self._journal.withdraw(self._shards[request.index], [self._submitted[request.index]])

    def wake(self) -> None:
        """Make `land` return."""
        self._landed.put_nowait(None)

    def abandon(self) -> None:
        """Forget what is still in flight."""
        for task in self._tasks:
            task.remove_done_callback(self._landed.put_nowait)
            task.cancel()

    async def _generate(self, request: Request) -> Outcome:
        if self._request_timeout_s is None:
            return await self._engine.generate(request)
        try:
            async with asyncio.timeout(self._request_timeout_s) as limit:
                return await self._engine.generate(request)
        except TimeoutError:
            if not limit.expired():
                raise
            text = f"no answer within {self._request_timeout_s:g} s (--request-timeout)"
            return Failure("request_timeout", text, retryable=True)

    def _land(self, task: "asyncio.Task[Outcome] | None") -> None:
        if task is None or (request := self._tasks.pop(task, None)) is None:
            return
        try:
            outcome = task.result()
        except EngineError as e:
            self._death = e
            return
        self._scheduler.settle(request)
        self._answered += 1
        self._settle(request, outcome)

    def _settle(self, row: Request | Rejected, outcome: Outcome) -> None:
        line = self._respond(row.index, row.custom_id, outcome)
        self._submitted.pop(row.index, None)
        self._journal.append(self._shards.pop(row.index), Record.of(row.index, outcome, line))
