"""The rows between reading and the journal: who waits, who is in the engine, who has landed."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from xbatch import crash
from xbatch.engines import Engine
from xbatch.errors import EngineError
from xbatch.intake import Read
from xbatch.planning.dedupe import Dedupe
from xbatch.planning.scheduler import Scheduler
from xbatch.rows.outcome import Completion, Failure, Outcome
from xbatch.rows.request import Rejected, Request
from xbatch.rows.shard import Shard
from xbatch.state.journal import Journal
from xbatch.state.records import Record
from xbatch.state.wal import Submission

Respond: TypeAlias = Callable[[int, str, Outcome], bytes]
"""Makes the response line from index, `custom_id` and outcome."""

_Settled: TypeAlias = tuple[Shard, list[Record]]
_Landed: TypeAlias = deque[tuple[Request, Outcome | Exception]]

_ENGINE_CRASHED = Failure("engine_crashed", "the engine died each time that this row ran, also with no other beside it")


class Flight:
    """Hands requests to the engine and journals what comes of them; rows that land together by one write a shard."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        journal: Journal,
        respond: Respond,
        dedupe: Dedupe | None,
        request_timeout_s: float | None,
        spool_limit: int,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._journal = journal
        self._respond = respond
        self._dedupe = dedupe
        self._request_timeout_s = request_timeout_s
        self._spool_limit = spool_limit
        self._shards: dict[int, Shard] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._submitted: dict[int, Submission] = {}
        self._settled: dict[int, _Settled] = {}
        self._answered = self._blamed = 0
        self._landed: _Landed = deque()
        self._awake = asyncio.Event()
        self._death: EngineError | None = None

    @property
    def progress(self) -> int:
        """Rows that the engine has settled, also by dying of them; none while it has never answered one."""
        return self._answered + self._blamed if self._answered else 0

    @property
    def hungry(self) -> bool:
        """More rows should be read."""
        return self._scheduler.hungry(self._dedupe.num_bytes if self._dedupe is not None else 0)

    @property
    def empty(self) -> bool:
        """The engine has nothing to answer."""
        return not self._tasks

    @property
    def death(self) -> EngineError | None:
        """What the engine has died of, if it has."""
        return self._death

    def take_in(self, rows: Iterable[Read]) -> None:
        """Let rows wait, or settle those whose outcome is known."""
        for shard, row, key in rows:
            self._shards[row.index] = shard
            if isinstance(row, Rejected):
                self._settle(row, row.failure)
            elif key is None or self._dedupe is None or (known := self._dedupe.join(row, key)) is True:
                self._offer(row)
            elif known is not False:
                self._settle(row, known)
        self._keep()

    def submit(self, *, more: bool) -> None:
        """Hand over to the engine what the scheduler admits, if there is room for what comes of it."""
        if self._journal.unsealed_bytes > self._spool_limit:
            return
        self._scheduler.allow(self._engine.max_in_flight)
        admitted = self._scheduler.admit(more=more)
        by_shard: dict[int, list[Submission]] = defaultdict(list)
        for request in admitted:
            submission = Submission(request.index, self._scheduler.alone)
            by_shard[self._shards[request.index].id].append(submission)
            self._submitted[request.index] = submission
        for submissions in by_shard.values():
            self._journal.submit(self._shards[submissions[0].row], submissions)
        for request in admitted:
            self._tasks[request.index] = asyncio.create_task(self._run(request, self._landed))
            crash.here("row-submitted")

    async def land(self, wait_s: float | None = None) -> None:
        """Wait until something has happened, or for so long; then settle the outcomes that have arrived."""
        if wait_s is None:
            await self._awake.wait()
        else:
            await asyncio.sleep(wait_s)
        self._awake.clear()
        self._land()

    def engine_death(self) -> EngineError | None:
        """If the engine has died, what of; everything that was in flight waits again or is settled as its cause."""
        death, self._death = self._death, None
        if death is not None:
            self._land()
            self._death = None
            self.abandon()
            for request in self._scheduler.engine_died():
                self._blamed += 1
                self._settle_run(request, _ENGINE_CRASHED)
            self._keep()
        return death

    def withdraw(self) -> None:
        """Have nothing held against rows that are left in flight in an engine that lives."""
        if self._death is None:
            for index in self._tasks:
                self._journal.withdraw(self._shards[index], [self._submitted[index]])

    def wake(self) -> None:
        """Make `land` return."""
        self._awake.set()

    def abandon(self) -> None:
        """Forget what is still in flight."""
        self._landed = deque()  # what comes now comes to nothing
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def _offer(self, request: Request) -> None:
        strikes = self._journal.strikes(self._shards[request.index], request.index)
        if not self._scheduler.offer(request, strikes.times, strikes.alone):
            self._settle_run(request, _ENGINE_CRASHED)

    async def _run(self, request: Request, landed: _Landed) -> None:
        """Have a request answered, and put what comes of it into `landed`."""
        try:
            outcome: Outcome | Exception = await self._generate(request)
        except Exception as e:  # noqa: BLE001 - raised by who takes it out
            outcome = e
        landed.append((request, outcome))
        self._awake.set()

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

    def _land(self) -> None:
        landed = self._landed
        while landed:
            request, outcome = landed.popleft()
            del self._tasks[request.index]
            if isinstance(outcome, EngineError):
                self._death = outcome
                continue
            if isinstance(outcome, Exception):
                raise outcome
            self._answered += 1
            tokens = outcome.usage.completion_tokens if isinstance(outcome, Completion) else None
            self._scheduler.settle(request, tokens)
            self._settle_run(request, outcome)
        self._keep()

    def _settle_run(self, request: Request, outcome: Outcome) -> None:
        """Settle a row that was run, and those that wait for the same answer."""
        self._settle(request, outcome)
        if self._dedupe is None:
            return
        for follower, its in self._dedupe.settle(request, outcome):
            self._settle(follower, its)
        if (leader := self._dedupe.next_leader(request)) is not None:
            self._offer(leader)

    def _settle(self, row: Request | Rejected, outcome: Outcome) -> None:
        line = self._respond(row.index, row.custom_id, outcome)
        self._submitted.pop(row.index, None)
        shard = self._shards.pop(row.index)
        self._settled.setdefault(shard.id, (shard, []))[1].append(Record.of(row.index, outcome, line, row.line))

    def _keep(self) -> None:
        """Journal what was settled."""
        settled, self._settled = self._settled, {}
        for shard, records in settled.values():
            self._journal.append(shard, *records)
