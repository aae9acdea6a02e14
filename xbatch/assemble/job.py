"""One run of one job, from its specification to its report."""

import asyncio
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from xbatch import crash, storage
from xbatch.assemble.continuing import Continuing
from xbatch.assemble.indexing import Indexing
from xbatch.assemble.starting import EngineStarter
from xbatch.engines.build import build_fake
from xbatch.errors import EngineError, Interrupted, StorageError, UsageError, XbatchError
from xbatch.finish import finish_job
from xbatch.job.places import STDIN, Places, find_places
from xbatch.job.spec import JobSpec
from xbatch.planning.scheduler import Scheduler
from xbatch.report.progress import Snapshot, measure
from xbatch.rows.request import ParsedRow, parse
from xbatch.rows.response import response_line
from xbatch.rows.shard import Shard
from xbatch.run import Stop, run_job
from xbatch.sinks.jsonl import JsonlSink
from xbatch.sources.jsonl import JsonlSource
from xbatch.state.folder import JobFile, StateFolder, round_prefix
from xbatch.state.journal import Journal
from xbatch.state.lease import Lease
from xbatch.state.passes import Passes, Targets, next_round
from xbatch.state.records import Counts
from xbatch.state.shard_log import Layer

LEAVE_S = 3.0
"""Time to seal what a job that is stopped has settled: it is all in the log, so a store that hangs holds nobody up."""


class Job:
    """One run of one job, from its specification to its report.

    `tell` is called with every sentence that the user should see; `before_engine` with the path of the engine's log,
    before anything that writes to it is imported.
    """

    def __init__(
        self,
        spec: JobSpec,
        scratch: Path,
        stop: Stop,
        tell: Callable[[str], None],
        before_engine: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._spec = spec
        self._stop = stop
        self._tell = tell
        self._phase = "indexing"
        self._passes: Passes | None = None
        self._scheduler: Scheduler | None = None
        self._began_s = time.monotonic()
        self._running_began_s: float | None = None
        self._earlier = Counts()
        self._answered = Counts()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.places: Places = find_places(spec, scratch)
        self.state = StateFolder(self.places.state)
        if self.state.exists and not spec.restart:
            self.places = self.places.in_order([each["uri"] for each in self.state.job().identity["inputs"]])
        stdin = self.places.inputs == [STDIN]
        spooled = storage.spool(sys.stdin.buffer, scratch / "stdin.jsonl") if stdin else ""
        files = {uri: spooled or uri for uri in self.places.inputs}
        self._sources = [JsonlSource(f, spec.max_line_bytes, "stdin" if stdin else f) for f in files.values()]
        self._indexing = Indexing(spec, dict(zip(files, self._sources, strict=True)))
        self._continuing = Continuing(spec, self.state, files)
        self._starter = EngineStarter(spec, self.state.path, self.state.engine_log, before_engine, tell)
        self._spool = self.state.spool / secrets.token_hex(4)
        self._sink = JsonlSink(self.places.targets, self.places.errors, self._spool)
        self._lease = Lease(
            self.state.store, self.state.path, term_s=spec.lease_s, look=self._look, lost=self._fail, tell=tell
        )

    def snapshot(self) -> Snapshot:
        """The job at this moment."""
        in_flight = self._scheduler.in_flight if self._scheduler else 0
        if (passes := self._passes) is None:
            return Snapshot(self._phase, self._indexing.index.rows, Counts(), self._earlier, 0.0, 0)
        return Snapshot(self._phase, passes.total, passes.current.counts, self._earlier, self._running_s, in_flight)

    @property
    def answering(self) -> bool:
        """Rows are in flight, so stopping means to drain."""
        return self._phase in ("running", "draining")

    async def run(self) -> dict[str, Any]:
        """Do what is left of the job and return its report.

        Raises UsageError, EngineError, StorageError, Interrupted.
        """
        self._loop = asyncio.get_running_loop()
        self._check()
        if (report := self._finished_before()) is not None:
            return report
        made = not self.state.path.exists()
        try:
            self._lease.claim()
            return self._finished_before() or await self._run_leased()
        except UsageError:
            self._lease.release()
            if made:
                shutil.rmtree(self.state.path, ignore_errors=True)
            raise
        except EngineError as e:
            raise EngineError(f"{e} (the engine's log is {self.state.engine_log})") from e
        finally:
            shutil.rmtree(self._spool, ignore_errors=True)
            with suppress(OSError):
                self.state.spool.rmdir()

    def close(self) -> None:
        """End the engine's processes, if there are any, and let others have the job."""
        self._starter.close()
        self._lease.release()

    def _check(self) -> None:
        for source in self._sources:
            source.check()
        self._sink.check()
        self.state.check()

    def _finished_before(self) -> dict[str, Any] | None:
        """The report, if the job is complete and its output is there.

        Raises UsageError if the job that has begun here is another one.
        """
        job = self._continuing.begun()
        if job is None or self._continuing.agree(job):
            return None
        report = self.state.report() if self._sink.published else None
        if report is None or self._retry_wanted(report["request_counts"]):
            return None
        self._tell("already complete: nothing was run, nothing rewritten")
        return report

    def _retry_wanted(self, counts: dict[str, int]) -> bool:
        retry = self._spec.retry_failed
        return retry is not None and counts["failed" if retry == "all" else "retryable"] > 0

    async def _run_leased(self) -> dict[str, Any]:
        self.state.clean()
        self._sink.clean()
        if not storage.is_local(self.state.uri) and not storage.is_exclusive(self.state.store):
            self._tell(f"{self.state.uri} does not keep two writers apart: run one process at a time")
        job = self._continuing.begun()
        if job is not None:
            job = self._continuing.accept(job, self._tell)
            if (plan := self.state.plan()) is not None and self._indexing.use(plan):
                self._open_passes(job)
        if job is None or self._passes is None or not self._passes.complete:
            model = self._indexing.choose_model()
            await self._load(model)
            job = self._begin(model)
            await self._answer(job)
        assert self._passes is not None
        self._passes.current.close()
        retry = self._spec.retry_failed
        while next_round(self._passes, self.state, retry):
            retry = None  # one round a run
            if self._starter.engine is None:
                await self._load(job.identity["model"])
            await self._answer(job)
            self._passes.current.close()
            crash.here("round-done")
        return self._finish(job)

    def _open_passes(self, job: JobFile) -> None:
        def open_journal(number: int, targets: Targets | None) -> Journal:
            prefix = round_prefix(number)
            layer = Layer(self.state.store, self.state.path / prefix, prefix, job.job, self._lease.epoch)
            commit_s, fence = self._spec.commit_interval_s, self._lease.check
            journal = Journal(layer, targets=targets, commit_s=commit_s, fence=fence, alarm=self._fail)
            journal.resume(self._indexing.index.shards)
            self._earlier = replace(journal.counts)
            return journal

        self._passes = Passes(self._indexing.index.shards, open_journal)

    async def _load(self, model: str | None) -> None:
        """Get the engine ready while the rest of the rows is looked at."""
        self._phase, index = "loading", self._indexing.index
        if model is not None and index.models:
            await self._starter.start(model)
        await self._indexing.complete()
        if not index.rows:
            self._tell("the input holds no rows")
        if index.first_rejected is not None and not self._earlier.total:
            self._tell(f"{index.rejected:,} rows can't be sent; the first: {index.first_rejected}")

    def _begin(self, model: str | None) -> JobFile:
        """Make the state of a new job, or complete that of one which was interrupted early."""
        if self._spec.restart:
            self.state.clear()
        job = self.state.create(self._continuing.identity(model))
        self._continuing.agree(job)
        if self._passes is None:
            before, plan = self.state.plan(), self._indexing.plan()
            if before is not None and plan.shards[: len(before.shards)] != before.shards:
                raise StorageError("inputs that the job has read before have changed")
            self.state.write_plan(plan)
            if before is not None:
                crash.here("extend-planned")
            self._open_passes(job)
        return job

    async def _answer(self, job: JobFile) -> None:
        """Settle every row of the current pass.

        Raises Interrupted if it was stopped before.
        """
        assert self._passes is not None
        journal, form = self._passes.current, self._spec.format
        if before := self._earlier.total:
            self._tell(f"going on: {before:,} of {self._passes.total:,} rows are settled already")
        engine = self._starter.engine or build_fake({})
        self._scheduler = Scheduler(engine.max_in_flight)
        self._phase, self._running_began_s = "running", self._running_began_s or time.monotonic()
        self._stop.listen(lambda: setattr(self, "_phase", "draining"))
        try:
            complete = await run_job(
                self._feed(journal),
                self._scheduler,
                engine,
                journal,
                lambda index, custom_id, outcome: response_line(job.job, index, custom_id, outcome, form),
                self._stop,
                revive=self._revive,
                request_timeout_s=self._spec.request_timeout,
                max_engine_restarts=self._spec.max_engine_restarts,
            )
        except BaseException:
            with suppress(XbatchError):
                journal.close(LEAVE_S)
            raise
        self._answered.add(journal.counts.since(self._earlier))
        if not complete:
            journal.close(LEAVE_S)
            left = self._passes.total - journal.counts.total
            raise Interrupted(f"stopped with {left:,} rows to go; run the same command again to finish")

    def _feed(self, journal: Journal) -> Iterator[tuple[Shard, ParsedRow]]:
        for shard in self._indexing.index.shards:
            if (settled := journal.settled(shard)) is None:
                continue
            for row in self._sources[shard.file].read(shard):
                if row.index not in settled:
                    yield shard, parse(row)

    async def _revive(self, death: EngineError) -> None:
        self._tell(f"{death}; starting it again, the rows that were in flight run again")
        self._phase = "loading"
        await self._starter.revive()
        self._phase = "running"

    def _finish(self, job: JobFile) -> dict[str, Any]:
        assert self._passes is not None
        self._phase = "writing"
        self._lease.check()
        engine, log, plan = self._starter.engine, self.state.engine_log, self.state.plan()
        return finish_job(
            job,
            self._passes,
            self._sink,
            self.state,
            self._answered,
            began_s=self._began_s,
            blank_lines=plan.facts["blank_lines"] if plan else 0,
            running_s=self._running_s,
            state=self.state.uri,
            engine=engine.description if engine else None,
            engine_log=str(log) if log.exists() else None,
        )

    @property
    def _running_s(self) -> float:
        return time.monotonic() - self._running_began_s if self._running_began_s is not None else 0.0

    def _look(self) -> tuple[str, dict[str, Any]]:
        """What heartbeats tell."""
        seen = self.snapshot()
        progress = {"rows": seen.total, "completed": seen.counts.completed, "failed": seen.counts.failed}
        return seen.phase, {**progress, "in_flight": seen.in_flight, **measure(seen)}

    def _fail(self, error: XbatchError) -> None:
        """Stop for what another thread has found out."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.fail, error)
