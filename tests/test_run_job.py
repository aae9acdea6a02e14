"""The run loop: every row gets one response, whatever the engine does and whenever it is stopped."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from xbatch.engines.fake import FakeEngine
from xbatch.errors import EngineError, StorageError
from xbatch.planning.scheduler import Scheduler
from xbatch.rows.outcome import Failure, Outcome, Usage
from xbatch.rows.request import CHAT, ParsedRow, Rejected, Request
from xbatch.rows.response import response_line
from xbatch.rows.shard import Shard
from xbatch.run import Stop, run_job
from xbatch.state.journal import Journal
from xbatch.state.records import Record

SHARD_ROWS = 10


class Recorder(FakeEngine):
    """The fake engine, which also remembers what it was asked and how many were in flight at most."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.most = 0
        self.now = 0

    async def generate(self, request: Request) -> Outcome:
        self.asked.append(request.index)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            outcome = await super().generate(request)
            self.answered.append(request.index)
            return outcome
        finally:
            self.now -= 1


def shards(rows: int) -> list[Shard]:
    starts = range(0, rows, SHARD_ROWS)
    return [Shard(i, 0, 0, 1, first, min(SHARD_ROWS, rows - first), 1) for i, first in enumerate(starts)]


def parsed(index: int) -> ParsedRow:
    if index % 7 == 3:
        return Rejected(index, f"row-{index}", Failure("invalid_url", "no"))
    return Request(index, f"row-{index}", CHAT, {"messages": [{"content": f"text {index}"}]}, 50)


class Run:
    """One run of a job of some rows over a state folder."""

    def __init__(self, folder: Path, rows: int, engine: Recorder, drain_s: float = 20.0) -> None:
        self.engine = engine
        self.stop = Stop(drain_s)
        self.shards = shards(rows)
        self.journal = Journal(folder, "job")
        self.journal.resume(self.shards)
        self.read = 0

    def feed(self) -> Iterator[tuple[Shard, ParsedRow]]:
        for shard in self.shards:
            if (settled := self.journal.settled(shard)) is None:
                continue
            for index in range(shard.first_row, shard.first_row + shard.rows):
                if index not in settled:
                    self.read += 1
                    yield shard, parsed(index)

    async def go(self) -> bool:
        def respond(index: int, custom_id: str, outcome: Outcome) -> bytes:
            return response_line("job", index, custom_id, outcome, "batch")

        scheduler = Scheduler(self.engine.max_in_flight)
        try:
            return await run_job(self.feed(), scheduler, self.engine, self.journal, respond, self.stop)
        finally:
            self.journal.close()

    def settled(self) -> list[int]:
        folders = [s for s in self.shards if (self.journal._folder / "seg" / s.name).exists()]
        rows = [row for shard in folders for row in self.journal.rows(shard)]
        ids = [json.loads(line)["custom_id"] for _, _, line in rows]
        assert ids == [f"row-{row[0]}" for row in rows]
        return [row[0] for row in rows]


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 95, 700])
@pytest.mark.parametrize("max_in_flight", [1, 8, 600])
def test_every_row_once_in_order(tmp_path: Path, rows: int, max_in_flight: int) -> None:
    """Every row is asked at most once and has one response, in the order of the input."""
    run = Run(tmp_path, rows, Recorder(max_in_flight=max_in_flight))
    assert asyncio.run(run.go())
    assert run.settled() == list(range(rows))
    assert sorted(run.engine.asked) == [i for i in range(rows) if isinstance(parsed(i), Request)]
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
    assert run.settled() == list(range(50))


def test_mixed_failures(tmp_path: Path) -> None:
    """Rows that fail, in whatever way, are counted as failed, cost nothing and stop no other."""

    def answer(request: Request) -> str | Failure:
        if request.index % 10 == 1:
            return Failure("x", "refused", status_code=400, body=b'{"error":{}}')
        return "ok ok"

    run = Run(tmp_path, 40, Recorder(answer=answer, fail_on=frozenset({2, 5})))
    assert asyncio.run(run.go())
    assert run.settled() == list(range(40))
    bad = {i for i in range(40) if i % 7 == 3 or i % 10 == 1} | {2, 5}
    shard_rows = [row for shard in run.shards for row in run.journal.rows(shard)]
    assert {row[0] for row in shard_rows if not row[1]} == bad
    assert (run.journal.counts.completed, run.journal.counts.failed) == (40 - len(bad), len(bad))
    assert run.journal.counts.completion_tokens == 2 * (40 - len(bad))


def test_reads_only_as_far_as_needed(tmp_path: Path) -> None:
    """The input is read only a little ahead of the engine."""
    engine = Recorder(max_in_flight=4, delay_s=0.001)
    run = Run(tmp_path, 200, engine)
    ahead: list[int] = []
    run.engine._answer = lambda _: ahead.append(run.read - len(engine.asked)) or "a"  # type: ignore[func-returns-value]
    assert asyncio.run(run.go())
    assert max(ahead) <= 40


@pytest.mark.parametrize("crash_on", [1, 2, 30, 81])
def test_engine_lost(tmp_path: Path, crash_on: int) -> None:
    """A dead engine ends the run; what is settled stays, and the next run asks for the rest only."""
    first = Run(tmp_path, 100, Recorder(max_in_flight=8, crash_on=crash_on, delay_s=0.001))
    with pytest.raises(EngineError):
        asyncio.run(first.go())
    before = first.settled()
    second = Run(tmp_path, 100, Recorder(max_in_flight=8))
    assert asyncio.run(second.go())
    assert second.settled() == list(range(100))
    assert sorted(second.engine.asked) == [i for i in range(100) if i % 7 != 3 and i not in before]


async def _stop_when(run: Run, answered: int, times: int = 1) -> None:
    while len(run.engine.answered) < answered:
        await asyncio.sleep(0)
    for _ in range(times):
        run.stop.request()


def test_stop_drains(tmp_path: Path) -> None:
    """Asked to stop, the loop admits nothing more and keeps the outcome of everything in flight."""
    run = Run(tmp_path, 100, Recorder(max_in_flight=8, delay_s=0.005))

    async def go() -> bool:
        complete, _ = await asyncio.gather(run.go(), _stop_when(run, 20))
        return complete

    assert not asyncio.run(go())
    assert {*run.engine.asked} == {*run.engine.answered} <= {*run.settled()}
    assert len(run.settled()) < 60
    second = Run(tmp_path, 100, Recorder())
    assert asyncio.run(second.go())
    assert not {*second.engine.asked} & {*run.engine.asked}
    assert second.settled() == list(range(100))


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
            await _stop_when(run, 20)
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
    assert second.settled() == list(range(100))


def test_journal_trouble_ends_the_run(tmp_path: Path) -> None:
    """If outcomes can't be kept, the run ends with that instead of going on."""
    run = Run(tmp_path, 50, Recorder())
    (tmp_path / "wal").rmdir()
    with pytest.raises(StorageError):
        asyncio.run(run.go())


def test_usage_is_counted_over_runs(tmp_path: Path) -> None:
    """Rows that an earlier run settled count, and are not asked again."""
    journal = Journal(tmp_path, "job")
    journal.append(shards(10)[0], Record(0, True, Usage(3, 4), b'{"custom_id":"row-0"}'))
    journal.close()
    run = Run(tmp_path, 10, Recorder(answer=lambda _: "a b"))
    assert asyncio.run(run.go())
    assert 0 not in run.engine.asked
    assert run.journal.counts.completion_tokens == 4 + 2 * len(run.engine.asked)
