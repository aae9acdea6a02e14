"""The run loop: every row gets one response, whatever the engine does and whenever it is stopped."""

import asyncio
import gc
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from xbatch import intake
from xbatch.engines.fake import FakeEngine
from xbatch.errors import EngineError, Interrupted, StorageError
from xbatch.planning.dedupe import Dedupe
from xbatch.planning.scheduler import Scheduler
from xbatch.planning.waiting import WAITING_BYTES
from xbatch.rows.outcome import Failure, Outcome, Usage
from xbatch.rows.request import CHAT, ParsedRow, Prompt, Rejected, Request
from xbatch.rows.response import repeated, response_line
from xbatch.rows.shard import Shard
from xbatch.run import Stop, run_job
from xbatch.state.journal import Journal
from xbatch.state.layer import Layer
from xbatch.state.records import Kind, Record
from xbatch.state.segments import Settled
from xbatch.state.shard_log import ShardLog
from xbatch.state.wal import Submission
from xbatch.storage import LocalStore

SHARD_ROWS = 10
EPOCHS = count(1)


class Recorder(FakeEngine):
    """The fake engine, which also remembers what it was asked and how many were in flight at most."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.flying: set[int] = set()
        self.most = 0

    async def generate(self, request: Request) -> Outcome:
        self.asked.append(request.index)
        self.flying.add(request.index)
        self.most = max(self.most, len(self.flying))
        try:
            outcome = await super().generate(request)
            self.answered.append(request.index)
            return outcome
        finally:
            self.flying.discard(request.index)


def shards(rows: int) -> list[Shard]:
    starts = range(0, rows, SHARD_ROWS)
    return [Shard(i, 0, 0, 1, first, min(SHARD_ROWS, rows - first), 1) for i, first in enumerate(starts)]


def parsed(index: int) -> ParsedRow:
    if index % 7 == 3:
        return Rejected(index, f"row-{index}", Failure("invalid_url", "no"))
    return Request(index, f"row-{index}", CHAT, {"messages": [{"content": f"text {index}"}]}, 50)


def requests(rows: int) -> list[int]:
    return [i for i in range(rows) if isinstance(parsed(i), Request)]


def open_journal(folder: Path) -> Journal:
    return Journal(Layer(LocalStore(str(folder)), folder, "", "job", next(EPOCHS)))


class Run:
    """One run of a job of some rows over a state folder."""

    def __init__(self, folder: Path, rows: int, engine: Recorder, drain_s: float = 20.0, **limits: Any) -> None:
        self.engine = engine
        self.parsed: Callable[[int], ParsedRow] = parsed
        self.plan: dict[str, Any] = {}
        """How the scheduler orders rows, if not as it does by itself."""
        self.stop = Stop(drain_s)
        self.shards = shards(rows)
        self.journal = open_journal(folder)
        self.journal.resume(self.shards)
        self.read = 0
        self.revived: list[set[int]] = []
        """For each death, the rows that the journal had by then."""
        self._folder = folder
        self._limits = limits

    def feed(self) -> Iterator[tuple[Shard, ParsedRow]]:
        for shard in self.shards:
            if (settled := self.journal.settled(shard)) is None:
                continue
            for index in range(shard.first_row, shard.first_row + shard.rows):
                if index not in settled:
                    self.read += 1
                    yield shard, self.parsed(index)

    async def revive(self, death: EngineError) -> None:
        assert str(death)
        self.revived.append(self.known())
        self.engine.close()
        await self.engine.start()

    async def go(self) -> bool:
        def respond(index: int, custom_id: str, outcome: Outcome) -> bytes:
            return response_line("job", index, custom_id, outcome, "batch")

        scheduler = Scheduler(self.engine.max_in_flight, **self.plan)
        try:
            return await run_job(
                self.feed(),
                scheduler,
                self.engine,
                self.journal,
                respond,
                self.stop,
                revive=self.revive,
                **self._limits,
            )
        finally:
            self.journal.close()

    def known(self) -> set[int]:
        """The rows that have an outcome at this moment."""
        known: set[int] = set()
        for shard in self.shards:
            settled = self.journal.settled(shard)
            known |= settled if settled is not None else set(range(shard.first_row, shard.first_row + shard.rows))
        return known

    def rows(self) -> list[Settled]:
        """Every row that stands in a finished shard, each checked to be the response to its row."""
        rows = [row for shard in self.shards for row in self.journal.rows(shard)]
        assert [json.loads(row.line)["custom_id"] for row in rows] == [f"row-{row.row}" for row in rows]
        return rows

    def settled(self) -> list[int]:
        """Every row that the next process finds settled; those of finished shards are checked."""
        self.rows()
        again = open_journal(self._folder)
        again.resume(self.shards)
        self.journal = again
        known = sorted(self.known())
        again.close()
        return known

    def errors(self) -> dict[int, str]:
        """The codes of the rows that failed otherwise than by being rejected, by row."""
        codes = {row.row: json.loads(row.line)["error"] for row in self.rows() if row.kind is not Kind.COMPLETED}
        return {index: error["code"] for index, error in codes.items() if error and index % 7 != 3}


async def soon(run: Run, answered: int, times: int = 1) -> None:
    while len(run.engine.answered) < answered:
        await asyncio.sleep(0)
    for _ in range(times):
        run.stop.request()


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 95, 700])
@pytest.mark.parametrize("max_in_flight", [1, 8, 600])
def test_every_row_once_in_order(tmp_path: Path, rows: int, max_in_flight: int) -> None:
    """Every row is asked at most once and has one response, in the order of the input."""
    run = Run(tmp_path, rows, Recorder(max_in_flight=max_in_flight))
    assert asyncio.run(run.go())
    assert [row.row for row in run.rows()] == list(range(rows))
    assert sorted(run.engine.asked) == requests(rows)
    assert run.engine.most <= max_in_flight


def test_outcomes_out_of_order(tmp_path: Path) -> None:
    """Outcomes may come in any order; responses stand in the order of the input."""

    class Uneven(Recorder):
        async def generate(self, request: Request) -> Outcome:
            await asyncio.sleep((request.index * 7 % 5) / 500)
            return await super().generate(request)

    run = Run(tmp_path, 50, Uneven(max_in_flight=20))
    assert asyncio.run(run.go())
    assert run.engine.answered != sorted(run.engine.answered)
    assert [row.row for row in run.rows()] == list(range(50))


def test_mixed_failures(tmp_path: Path) -> None:
    """Rows that fail, in whatever way, are counted as failed, cost nothing and stop no other."""

    def answer(request: Request) -> str | Failure:
        if request.index % 10 == 1:
            return Failure("x", "refused", status_code=400, body=b'{"error":{}}')
        return "ok ok"

    run = Run(tmp_path, 40, Recorder(answer=answer, fail_on=frozenset({2, 5})))
    assert asyncio.run(run.go())
    bad = {i for i in range(40) if i % 7 == 3 or i % 10 == 1} | {2, 5}
    rows = run.rows()
    assert [row.row for row in rows] == list(range(40))
    assert {row.row for row in rows if row.kind is not Kind.COMPLETED} == bad
    assert {row.row for row in rows if row.kind is Kind.RETRYABLE} == {2, 5}
    counts = run.journal.counts
    assert (counts.completed, counts.failed, counts.retryable) == (40 - len(bad), len(bad), 2)
    assert counts.completion_tokens == 2 * (40 - len(bad))


def test_reads_only_as_far_as_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input is read no further than the look-ahead allows, rounded up to a batch."""
    monkeypatch.setattr(intake, "BATCH_ROWS", 10)
    engine = Recorder(max_in_flight=4, delay_s=0.001)
    run = Run(tmp_path, 200, engine)
    run.plan = {"look_ahead": 20 * (WAITING_BYTES + 100)}
    ahead: list[int] = []
    run.engine._answer = lambda _: ahead.append(len(requests(run.read)) - len(engine.asked)) or "a"  # type: ignore[func-returns-value]
    assert asyncio.run(run.go())
    assert 20 <= max(ahead) <= 20 + 10 + 4


def test_journal_trouble_ends_the_run(tmp_path: Path) -> None:
    """If outcomes can't be kept, the run ends with that instead of going on."""
    run = Run(tmp_path, 50, Recorder())
    (tmp_path / "wal").write_bytes(b"a file in the way")
    with pytest.raises(StorageError):
        asyncio.run(run.go())


def test_usage_is_counted_over_runs(tmp_path: Path) -> None:
    """Rows that an earlier run settled count, and are not asked again."""
    journal = open_journal(tmp_path)
    journal.append(shards(10)[0], Record(0, Kind.COMPLETED, Usage(3, 4), b'{"custom_id":"row-0"}'))
    journal.close()
    run = Run(tmp_path, 10, Recorder(answer=lambda _: "a b"))
    assert asyncio.run(run.go())
    assert 0 not in run.engine.asked
    assert run.journal.counts.completion_tokens == 4 + 2 * len(run.engine.asked)


# The engine dies.


@pytest.mark.parametrize("crash_on", [1, 2, 30, 81])
@pytest.mark.parametrize("max_in_flight", [1, 8])
def test_engine_dies_once(tmp_path: Path, crash_on: int, max_in_flight: int) -> None:
    """A dead engine is made ready again; only rows that were in flight are asked again, and every row is answered."""
    engine = Recorder(max_in_flight=max_in_flight, crash_on=crash_on, delay_s=0.001)
    run = Run(tmp_path, 100, engine)
    assert asyncio.run(run.go())
    assert [row.row for row in run.rows()] == list(range(100))
    assert not run.errors()
    [known] = run.revived
    asked = Counter(engine.asked)
    again = {index for index, times in asked.items() if times > 1}
    assert max(asked.values()) <= 2
    assert 1 <= len(again) <= max_in_flight
    assert not again & known
    assert {*asked} == {*requests(100)}


@pytest.mark.parametrize("crash_on", [1, 2, 30, 81])
def test_engine_lost(tmp_path: Path, crash_on: int) -> None:
    """An engine that may not be started again ends the run; what is settled stays, the next run asks for the rest."""
    first = Run(tmp_path, 100, Recorder(max_in_flight=8, crash_on=crash_on, delay_s=0.001), max_engine_restarts=0)
    with pytest.raises(EngineError):
        asyncio.run(first.go())
    assert not first.revived
    before = first.settled()
    second = Run(tmp_path, 100, Recorder(max_in_flight=8))
    assert asyncio.run(second.go())
    assert [row.row for row in second.rows()] == list(range(100))
    assert sorted(second.engine.asked) == [i for i in requests(100) if i not in before]


@pytest.mark.parametrize("poison", [{0}, {99}, {40, 41}, {1, 50, 51, 98}], ids=str)
@pytest.mark.parametrize("max_in_flight", [1, 4, 64])
def test_poison_rows(tmp_path: Path, poison: set[int], max_in_flight: int) -> None:
    """A row that kills the engine whenever it runs gets a failure not worth a retry; all others are answered."""
    engine = Recorder(max_in_flight=max_in_flight, poison=frozenset(poison), delay_s=0.0005)
    run = Run(tmp_path, 100, engine)
    assert asyncio.run(run.go())
    rows = run.rows()
    assert [row.row for row in rows] == list(range(100))
    assert run.errors() == dict.fromkeys(poison, "engine_crashed")
    assert {row.row for row in rows if row.kind is Kind.RETRYABLE} == set()
    assert {*engine.answered} == {*requests(100)} - poison


class Broken(Recorder):
    """An engine that starts and dies as soon as it is asked."""

    async def generate(self, request: Request) -> Outcome:
        self.asked.append(request.index)
        await asyncio.sleep(0)
        raise EngineError("out of order")


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_engine_that_dies_time_and_again(tmp_path: Path, allowed: int) -> None:
    """After so many restarts without a row settled in between it is the engine's fault: the job ends, no row fails."""
    run = Run(tmp_path, 700, Broken(max_in_flight=8), max_engine_restarts=allowed)
    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(run.go())
    assert len(run.revived) == allowed
    assert {*run.settled()} <= {*range(700)} - {*requests(700)}


def test_rejected_rows_are_no_progress(tmp_path: Path) -> None:
    """Rows that never reach the engine say nothing for it: one that only dies is given up all the same."""
    run = Run(tmp_path, 700, Broken(max_in_flight=1), max_engine_restarts=5)
    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(run.go())
    assert len(run.revived) == 5


def test_engine_that_has_never_answered(tmp_path: Path) -> None:
    """An engine that only dies is given up before all the rows of a small job are blamed, one after the other."""
    run = Run(tmp_path, 40, Broken(max_in_flight=8))
    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(run.go())


def test_restarts_with_progress_are_not_limited(tmp_path: Path) -> None:
    """An engine that dies now and then and settles rows in between is started again as often as it takes."""

    class Frail(Recorder):
        async def generate(self, request: Request) -> Outcome:
            if len(self.asked) % 10 == 9:
                self._dead = True
            return await super().generate(request)

    run = Run(tmp_path, 100, Frail(max_in_flight=1), max_engine_restarts=1)
    assert asyncio.run(run.go())
    assert len(run.revived) > 5
    assert [row.row for row in run.rows()] == list(range(100))
    assert not run.errors()


def test_engine_that_does_not_come_back(tmp_path: Path) -> None:
    """If the engine can't be started again the run ends with that, and what is settled stays."""
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, crash_on=30, delay_s=0.001))

    async def revive(_: EngineError) -> None:
        raise EngineError("no memory left")

    run.revive = revive  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="no memory left"):
        asyncio.run(run.go())
    assert {*run.engine.answered} <= {*run.settled()}


@pytest.mark.parametrize("ticks", range(8))
@pytest.mark.parametrize("dies", [False, True], ids=["answered", "dead"])
def test_outcomes_beside_a_death(tmp_path: Path, ticks: int, dies: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes of other rows about the time of a death, it is used or looked at, and never shown as a mistake."""

    class Timed(Recorder):
        async def generate(self, request: Request) -> Outcome:
            if self.starts == 0 and request.index == 0:
                for _ in range(3):
                    await asyncio.sleep(0)
                raise EngineError("dead")
            if self.starts == 0:
                for _ in range(ticks):
                    await asyncio.sleep(0)
                if dies:
                    raise EngineError("dead, too")
            return await super().generate(request)

    caplog.set_level(logging.ERROR, "asyncio")
    run = Run(tmp_path, 3, Timed(max_in_flight=8))
    assert asyncio.run(run.go())
    gc.collect()
    assert [row.row for row in run.rows()] == [0, 1, 2]
    assert not caplog.records
    assert len(run.engine.answered) == len({*run.engine.answered}), "an answer was thrown away"


def killed(folder: Path, *submissions: Submission) -> None:
    """What a process leaves that is killed with these rows of the first shard in flight."""
    log = ShardLog(Layer(LocalStore(str(folder)), folder, "", "job", next(EPOCHS)), shards(10)[0], SHARD_ROWS)
    log.submit([*submissions])
    log.close()


def test_strikes_of_former_processes(tmp_path: Path) -> None:
    """Rows that were in flight when two earlier processes died run after all others, and a few at a time."""
    for _ in range(2):
        killed(tmp_path, *(Submission(i, alone=False) for i in (0, 1, 2, 4)))
    engine = Recorder(max_in_flight=8, poison=frozenset({1}))
    run = Run(tmp_path, 40, engine)
    assert asyncio.run(run.go())
    others = [i for i in requests(40) if i not in (0, 1, 2, 4)]
    assert sorted(engine.asked[: len(others)]) == others
    assert engine.asked[len(others) :][:2] == [0, 1]
    assert run.errors() == {1: "engine_crashed"}
    assert len(run.revived) == 3, "one with a neighbour, two alone"


def test_guilt_of_former_processes(tmp_path: Path) -> None:
    """A row that was alone in flight when two earlier processes died is not run again."""
    for _ in range(2):
        killed(tmp_path, Submission(5, alone=True))
    run = Run(tmp_path, 10, Recorder())
    assert asyncio.run(run.go())
    assert 5 not in run.engine.asked
    assert run.errors() == {5: "engine_crashed"}


def test_strikes_are_kept_for_the_next_process(tmp_path: Path) -> None:
    """A run that ends with its engine's death leaves word of who was in flight then."""
    for _ in range(2):
        run = Run(tmp_path, 20, Recorder(max_in_flight=4, poison=frozenset({2})), max_engine_restarts=0)
        with pytest.raises(EngineError):
            asyncio.run(run.go())
    journal = open_journal(tmp_path)
    journal.resume(shards(20))
    assert journal.strikes(shards(20)[0], 2).times == 2
    journal.close()


# Time limits.


def test_request_timeout(tmp_path: Path) -> None:
    """A row that takes longer than it may fails as worth a retry, and its place in the engine is free again."""
    engine = Recorder(max_in_flight=2)
    cancelled: list[int] = []

    class Slow(Recorder):
        async def generate(self, request: Request) -> Outcome:
            if request.index not in (2, 8):
                return await super().generate(request)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(request.index)
                raise
            raise AssertionError

    engine = Slow(max_in_flight=2)
    run = Run(tmp_path, 20, engine, request_timeout_s=0.05)
    assert asyncio.run(run.go())
    assert [row.row for row in run.rows()] == list(range(20))
    assert run.errors() == {2: "request_timeout", 8: "request_timeout"}
    assert {row.row for row in run.rows() if row.kind is Kind.RETRYABLE} == {2, 8}
    assert cancelled == [2, 8]
    assert sorted(engine.answered) == [i for i in requests(20) if i not in (2, 8)]


def test_a_timeout_of_the_engine_is_no_request_timeout(tmp_path: Path) -> None:
    """A TimeoutError out of the engine is not taken for the row's time being up."""

    class Odd(Recorder):
        async def generate(self, request: Request) -> Outcome:
            raise TimeoutError("of something inside")

    run = Run(tmp_path, 5, Odd(), request_timeout_s=3600.0)
    with pytest.raises(TimeoutError, match="of something inside"):
        asyncio.run(run.go())


# It is asked to stop.


def test_stop_drains(tmp_path: Path) -> None:
    """Asked to stop, the loop admits nothing more and keeps the outcome of everything in flight."""
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, delay_s=0.005))

    async def go() -> bool:
        complete, _ = await asyncio.gather(run.go(), soon(run, 20))
        return complete

    assert not asyncio.run(go())
    settled = run.settled()
    assert {*run.engine.asked} == {*run.engine.answered} <= {*settled}
    assert len(settled) < 60
    second = Run(tmp_path, 100, Recorder())
    assert asyncio.run(second.go())
    assert not {*second.engine.asked} & {*run.engine.asked}
    assert [row.row for row in second.rows()] == list(range(100))


@pytest.mark.parametrize("rows", [1, 5, 40, 63, 64, 65, 300])
@pytest.mark.parametrize("max_in_flight", [1, 64, 512])
def test_stop_before_the_first_row(tmp_path: Path, rows: int, max_in_flight: int) -> None:
    """A job that was stopped is never taken for complete while a row has no response."""
    run = Run(tmp_path, rows, Recorder(max_in_flight=max_in_flight))
    run.stop.request()
    complete = asyncio.run(run.go())
    assert complete == (run.settled() == list(range(rows)))


@pytest.mark.parametrize("max_in_flight", [16, 300])
@pytest.mark.parametrize("moment", range(12))
def test_stop_at_any_moment(tmp_path: Path, moment: int, max_in_flight: int) -> None:
    """At whatever turn of the loop the stop comes, complete means that every row has its response."""
    run = Run(tmp_path, 320, Recorder(max_in_flight=max_in_flight, delay_s=0.002))

    async def go() -> bool:
        async def later() -> None:
            for _ in range(moment):
                await asyncio.sleep(0)
            run.stop.request()

        complete, _ = await asyncio.gather(run.go(), later())
        return complete

    complete = asyncio.run(go())
    assert complete == (run.settled() == list(range(320)))


def test_stop_after_the_last_row_is_complete(tmp_path: Path) -> None:
    """A job that is stopped while its last rows are in flight, and drains them, is complete."""
    run = Run(tmp_path, 3, Recorder(delay_s=0.05))

    async def go() -> bool:
        async def later() -> None:
            while len(run.engine.asked) < 3:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            run.stop.request()

        complete, _ = await asyncio.gather(run.go(), later())
        return complete

    assert asyncio.run(go())
    assert run.settled() == [0, 1, 2]


@pytest.mark.parametrize(("drain_s", "times"), [(3600.0, 2), (0.0, 1), (0.05, 1)])
def test_leave_at_once(tmp_path: Path, drain_s: float, times: int) -> None:
    """Asked twice, or when the time to drain is up, the loop leaves what is in flight; it can be asked again."""
    engine = Recorder(max_in_flight=8)
    run = Run(tmp_path, 100, engine, drain_s)

    async def go() -> bool:
        async def later() -> None:
            await soon(run, 20)
            engine._delay_s = 3600.0
            for _ in range(times - 1):
                await asyncio.sleep(0.01)
                run.stop.request()

        engine._answer = lambda r: setattr(engine, "_delay_s", 3600.0 if r.index > 30 else 0.0) or "a"
        complete, _ = await asyncio.gather(run.go(), later())
        return complete

    assert not asyncio.run(go())
    assert len(run.settled()) < 100
    second = Run(tmp_path, 100, Recorder())
    assert asyncio.run(second.go())
    assert [row.row for row in second.rows()] == list(range(100))


def test_rows_left_in_flight_are_no_suspects(tmp_path: Path) -> None:
    """However often a run is stopped while a slow row is in flight, that row is not taken for a killer."""

    class Slow(Recorder):
        async def generate(self, request: Request) -> Outcome:
            self._delay_s = 3600.0 if request.index == 2 else 0.0
            return await super().generate(request)

    async def go(run: Run) -> bool:
        running = asyncio.create_task(run.go())
        while not running.done() and not (run.engine.flying == {2} and len(run.known()) == 19):
            await asyncio.sleep(0.001)
        run.stop.request()
        return await running

    for _ in range(5):
        run = Run(tmp_path, 20, Slow(max_in_flight=4), drain_s=0.0)
        assert not asyncio.run(go(run)), "the row was given up"
        assert not list((tmp_path / "wal").iterdir()), "a log was left"
        assert run.settled() == [i for i in range(20) if i != 2]
    last = Run(tmp_path, 20, Recorder())
    assert asyncio.run(last.go())
    assert last.engine.asked == [2]


def test_fail(tmp_path: Path) -> None:
    """What another part of the program has found out ends the run at once, with just that; what is settled stays."""
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, delay_s=0.005), drain_s=3600.0)
    error = Interrupted("taken over")

    async def go() -> None:
        async def later() -> None:
            await soon(run, 20, times=0)
            run.engine._delay_s = 3600.0
            await asyncio.sleep(0.02)
            run.stop.fail(error)

        await asyncio.gather(run.go(), later())

    with pytest.raises(Interrupted) as caught:
        asyncio.run(asyncio.wait_for(go(), 10))
    assert caught.value is error
    assert {*run.engine.answered} <= {*run.settled()}


def test_fail_before_the_first_row(tmp_path: Path) -> None:
    """A run that is lost before it begins asks for nothing."""
    run = Run(tmp_path, 10, Recorder())
    run.stop.fail(StorageError("the disk is gone"))
    with pytest.raises(StorageError, match="the disk is gone"):
        asyncio.run(run.go())
    assert not run.engine.asked


@pytest.mark.parametrize("drain_s", [0.0, 20.0])
def test_stop_while_the_engine_dies(tmp_path: Path, drain_s: float) -> None:
    """An engine that dies while the run drains is not started again; its rows are asked by the next run."""
    engine = Recorder(max_in_flight=8, delay_s=0.02)
    run = Run(tmp_path, 100, engine, drain_s)

    async def go() -> bool:
        async def later() -> None:
            await soon(run, 8)
            engine._dead = True

        complete, _ = await asyncio.gather(run.go(), later())
        return complete

    assert not asyncio.run(asyncio.wait_for(go(), 10))
    assert not run.revived
    second = Run(tmp_path, 100, Recorder())
    assert asyncio.run(second.go())
    assert [row.row for row in second.rows()] == list(range(100))
    assert not second.errors()


def test_stop_while_the_engine_is_started_again(tmp_path: Path) -> None:
    """Asked to stop while the engine comes back, the loop asks it nothing more."""
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, crash_on=20, delay_s=0.001, start_s=0.03))

    async def go() -> bool:
        async def later() -> None:
            while not run.revived:
                await asyncio.sleep(0)
            asked = len(run.engine.asked)
            run.stop.request()
            while not run.engine.starts:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert len(run.engine.asked) == asked

        complete, _ = await asyncio.gather(run.go(), later())
        return complete

    assert not asyncio.run(go())
    second = Run(tmp_path, 100, Recorder())
    assert asyncio.run(second.go())
    assert [row.row for row in second.rows()] == list(range(100))


def test_fail_while_the_engine_is_started_again(tmp_path: Path) -> None:
    """A run that is lost while the engine comes back asks it nothing more."""
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, crash_on=20, delay_s=0.001, start_s=0.03))

    async def go() -> None:
        async def later() -> None:
            while not run.revived:
                await asyncio.sleep(0)
            run.stop.fail(Interrupted("taken over"))

        await asyncio.gather(run.go(), later())

    with pytest.raises(Interrupted, match="taken over"):
        asyncio.run(go())
    assert len(run.engine.asked) <= 20 + 8


# Rows are prepared ahead, ordered, and asked once.


def asking(**body: object) -> Callable[[int], ParsedRow]:
    """Rows of which every fourth asks for the same."""
    return lambda i: Request(i, f"row-{i}", CHAT, {"messages": [{"content": f"text {i % 4}"}], **body}, 50)


def deduping() -> Dedupe:
    return Dedupe(lambda index, outcome: repeated("job", index, outcome))


@pytest.mark.parametrize("order", ["auto", "input", "prefix"])
def test_the_output_keeps_its_order(tmp_path: Path, order: str) -> None:
    """In whatever order rows run, responses stand in the order of the input; with `input` they also run in it."""
    run = Run(tmp_path, 300, Recorder(max_in_flight=4, cache_tokens=64))
    run.parsed = lambda i: Request(i, f"row-{i}", CHAT, {"messages": [{"content": f"{i % 9}" * 200 + f"{i}"}]}, 50)
    run.plan = {"order": order}
    assert asyncio.run(run.go())
    assert [row.row for row in run.rows()] == list(range(300))
    assert sorted(run.engine.asked) == list(range(300))
    assert (run.engine.asked == list(range(300))) == (order == "input")


def test_prompts_are_handed_over(tmp_path: Path) -> None:
    """The engine gets its own prompts back with the requests."""
    given: list[Prompt | None] = []

    class Looking(Recorder):
        async def generate(self, request: Request) -> Outcome:
            given.append(request.prompt)
            return await super().generate(request)

    run = Run(tmp_path, 20, Looking())
    assert asyncio.run(run.go())
    assert [p.tokens.decode("utf-32-be") for p in given if p] == [f"text {i}" for i in requests(20)]


@pytest.mark.parametrize("body", [{"temperature": 0}, {"seed": 5}, {"temperature": 0.5}])
def test_the_same_is_asked_once(tmp_path: Path, body: dict[str, object]) -> None:
    """Rows that are sure to get the same answer are asked once; each response has an id of its own."""
    dedupe = deduping()
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, delay_s=0.001), dedupe=dedupe)
    run.parsed = asking(**body)
    assert asyncio.run(run.go())
    once = body != {"temperature": 0.5}
    assert sorted(run.engine.asked) == list(range(4 if once else 100))
    assert dedupe.repeated == (96 if once else 0)
    bodies = [json.loads(row.line)["response"]["body"] for row in run.rows()]
    assert [b["choices"][0]["message"]["content"] for b in bodies] == [f"text {i % 4}" for i in range(100)]
    assert len({b["id"] for b in bodies}) == 100
    assert {b["id"].partition("-")[0] for b in bodies} == {"chatcmpl"}
    assert len({tuple(b) for b in bodies}) == 1, "keys have changed places"


def test_another_leads_where_one_fails(tmp_path: Path) -> None:
    """A failure that trying again could mend is the row's own; others ask again. Other failures are everybody's."""

    def answer(request: Request) -> str | Failure:
        if request.index % 4 == 1:
            return Failure("api_error", "no", status_code=400, body=b'{"error":{}}')
        return "fine"

    run = Run(tmp_path, 40, Recorder(answer=answer, fail_on=frozenset({0, 4})), dedupe=deduping())
    run.parsed = asking(seed=1)
    assert asyncio.run(run.go())
    assert sorted(run.engine.asked) == [0, 1, 2, 3, 4, 8]
    kinds = {row.row: row.kind for row in run.rows()}
    assert [i for i, kind in kinds.items() if kind is Kind.RETRYABLE] == [0, 4]
    assert [i for i, kind in kinds.items() if kind is Kind.FAILED] == list(range(1, 40, 4))


def test_repeats_of_a_row_that_kills(tmp_path: Path) -> None:
    """What kills the engine is asked no more often for being repeated, and all its repeats fail."""
    dedupe = deduping()
    run = Run(tmp_path, 40, Recorder(max_in_flight=8, poison=frozenset(range(2, 40, 4))), dedupe=dedupe)
    run.parsed = asking(temperature=0)
    assert asyncio.run(run.go())
    assert {row.row for row in run.rows() if row.kind is Kind.FAILED} == set(range(2, 40, 4))
    assert {i for i in run.engine.asked if i % 4 == 2} == {2}


@pytest.mark.parametrize("at", [5, 30, 60])
def test_repeats_over_deaths_and_stops(tmp_path: Path, at: int) -> None:
    """Stopped or dead at any time, each row has one response in the end."""
    body = {"temperature": 0}
    first = Run(tmp_path, 100, Recorder(max_in_flight=8, delay_s=0.001, crash_on=at // 5), dedupe=deduping())
    first.parsed = lambda i: Request(i, f"row-{i}", CHAT, {"messages": [{"content": f"{i % 40}"}], **body}, 50)

    async def go() -> bool:
        complete, _ = await asyncio.gather(first.go(), soon(first, at // 4))
        return complete

    asyncio.run(go())
    second = Run(tmp_path, 100, Recorder(), dedupe=deduping())
    second.parsed = first.parsed
    assert asyncio.run(second.go())
    assert [row.row for row in second.rows()] == list(range(100))
    assert not second.errors()


# The engine is still loading.


def test_rows_are_read_while_the_engine_loads(tmp_path: Path) -> None:
    """Until the engine is ready rows are read and planned, and none is asked."""
    engine = Recorder(max_in_flight=8, start_s=0.3)
    read: list[int] = []

    async def ready() -> None:
        await engine.start()
        read.append(run.read)
        assert not engine.asked

    run = Run(tmp_path, 300, engine, ready=ready())
    assert asyncio.run(run.go())
    assert read == [300]
    assert [row.row for row in run.rows()] == list(range(300))


@pytest.mark.parametrize("rows", [0, 20])
def test_an_engine_that_does_not_load(tmp_path: Path, rows: int) -> None:
    """What keeps the engine from being ready ends the run, with nothing asked."""

    async def ready() -> None:
        await asyncio.sleep(0.01)
        raise EngineError("no memory")

    run = Run(tmp_path, rows, Recorder(), ready=ready())
    with pytest.raises(EngineError, match="no memory"):
        asyncio.run(run.go())
    assert not run.engine.asked


def test_stop_while_the_engine_loads(tmp_path: Path) -> None:
    """A run that is stopped while the engine loads waits for it no longer."""

    async def go() -> bool:
        async def later() -> None:
            await asyncio.sleep(0.05)
            run.stop.request()

        complete, _ = await asyncio.gather(run.go(), later())
        return complete

    run = Run(tmp_path, 20, Recorder(), ready=asyncio.sleep(3600))
    assert not asyncio.run(asyncio.wait_for(go(), 10))
    assert not run.engine.asked
