"""One run of one job, from its specification to its report."""

import asyncio
import secrets
import shutil
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbatch import crash, storage
from xbatch.assemble.beginning import Beginning
from xbatch.assemble.continuing import Continuing, has_answers, in_job_order
from xbatch.assemble.course import Course
from xbatch.assemble.indexing import Indexing
from xbatch.assemble.input import input_files, open_inputs
from xbatch.assemble.output import open_output, output_settings
from xbatch.assemble.ownership import Ownership
from xbatch.assemble.planner import make_dedupe, make_respond, make_scheduler
from xbatch.assemble.starting import EngineStarter, Starter
from xbatch.display import counted
from xbatch.engines.absent import NoEngine
from xbatch.errors import EngineError, Interrupted, UsageError, XbatchError
from xbatch.finish import finish_job
from xbatch.job.places import Places, find_places, storage_of
from xbatch.job.spec import JobSpec
from xbatch.run import Stop, end, run_job
from xbatch.state.folder import JobFile, StateFolder
from xbatch.state.lease import Lease
from xbatch.state.passes import next_round

if TYPE_CHECKING:
    from xbatch.engines import Engine

LEAVE_S = 3.0
"""Time to seal what a job that is stopped has settled: it is all in the log, so a store that hangs holds nobody up."""


class Job:
    """One run of one job, from its specification to its report.

    `tell` is called with every sentence that the user should see; `before_engine` with the path of the engine's log,
    before anything that writes to it is imported. `starter` has an engine that outlives the job. `before_output` is
    called in a thread when every row has its outcome and nothing is written yet. With `copies`, inputs that lie in a
    store are read from copies in `scratch`. Without `refuses`, rows that the engine is sure to refuse are left to it.
    The event loop is held up by nothing that waits for a disk or a store.
    """

    @storage.own_context
    def __init__(
        self,
        spec: JobSpec,
        scratch: Path,
        stop: Stop,
        tell: Callable[[str], None],
        before_engine: Callable[[Path], None] = lambda _: None,
        starter: Starter | None = None,
        before_output: Callable[[], None] = lambda: None,
        *,
        copies: bool = False,
        refuses: bool = True,
    ) -> None:
        self._storage = storage_of(spec, tell)
        storage.use_settings(self._storage)
        self._spec = spec
        self._stop = stop
        self._tell = tell
        self._before_output = before_output
        self._loop: asyncio.AbstractEventLoop | None = None
        self.places: Places = find_places(spec, scratch)
        self.state = StateFolder(self.places.state)
        # A job without an answer is one that may begin anew, with other rows and in the order of this run.
        begun = not spec.restart and self.state.exists and has_answers(self.state)
        if begun:
            self.places = in_job_order(self.state, self.places)
        files = input_files(self.places.inputs, scratch, copies=copies)
        sources = open_inputs(spec, files, begun=begun)
        self._sources = list(sources.values())
        self._indexing = Indexing(spec, sources, tell, refuses=refuses)
        self.course = Course(lambda: self._indexing.index.rows)
        self._continuing = Continuing(spec, self.state, files, tell)
        own = EngineStarter(spec, self.state.path, self.state.engine_log, before_engine, tell, self._indexing.expect)
        self._starter: Starter = starter or own
        self._engine: Engine | None = None
        """The engine that was started for the rows of the last pass, None if none of them could be sent."""
        self._keeps_engine = starter is not None
        self._spool = self.state.spool / secrets.token_hex(4)
        self._sink = open_output(spec, self.places, self._sources, self._spool)
        self._ownership = Ownership(spec, self.places, self.state, self._sink.occupied)
        look, term_s = self.course.heartbeat, spec.lease_s
        self._lease = Lease(self.state.store, self.state.path, term_s=term_s, look=look, lost=self._fail, tell=tell)
        self._beginning = Beginning(
            spec, self.state, self._continuing, self._indexing, self._lease, self.course, tell, self._fail
        )

    async def run(self) -> dict[str, Any]:
        """Do what is left of the job and return its report.

        Raises UsageError, EngineError, StorageError, Interrupted.
        """
        with storage.using(self._storage):
            return await self._run()

    async def _run(self) -> dict[str, Any]:
        self._loop = asyncio.get_running_loop()
        await to_thread(self._check)
        if self._spec.extend and self._spec.output is None and not self.state.exists:
            raise UsageError(f"no job has begun at {self.state.uri}: say by -o which output is to be extended")
        if (report := await to_thread(self._finished_before)) is not None:
            return report
        await to_thread(self._ownership.check)
        made = not await to_thread(self.state.path.exists)
        try:
            await to_thread(self._lease.claim)
            # Only who holds the job can tell that nobody else has begun it.
            made = made and await to_thread(lambda: self.state.untouched)
            return await to_thread(self._finished_before) or await self._run_leased()
        except UsageError:
            if made and self.course.running_s == 0.0:
                await to_thread(self.state.forget)
                await to_thread(self._lease.release, forget=True)
                shutil.rmtree(self.state.path, ignore_errors=True)
            raise
        except EngineError as e:
            raise EngineError(f"{e} (the engine's log is {self.state.engine_log})") from e
        finally:
            await to_thread(shutil.rmtree, self._spool, ignore_errors=True)
            with suppress(OSError):
                self.state.spool.rmdir()

    @storage.own_context
    def close(self) -> None:
        """End the engine's processes, if there are any, close the inputs, and let others have the job."""
        storage.use_settings(self._storage)
        if not self._keeps_engine:
            self._starter.close()
        for source in self._sources:
            source.close()
        self._lease.release()

    @property
    def draining_helps(self) -> bool:
        """Rows are in flight, so stopping means to drain."""
        return self.course.draining_helps

    @storage.own_context
    def leave(self) -> None:
        """Do as `close` does, at once and from any thread, keeping what is settled; the process must end after it."""
        storage.use_settings(self._storage)
        self._starter.kill()
        if self.course.passes is not None:
            self.course.passes.current.close(LEAVE_S)
        self._lease.release()

    def _check(self) -> None:
        for source in self._sources:
            source.check()
        about_inputs = dict.fromkeys(note for source in self._sources for note in source.notes)
        for note in (*self.places.notes, *about_inputs, *self._sink.check()):
            self._tell(note)
        self.state.check()

    def _finished_before(self) -> dict[str, Any] | None:
        """Return the report, if the job is complete and its output is there. Raises UsageError if it is another job."""
        report = self._continuing.finished(output_settings(self._spec))
        if report is None or not self._sink.published(report["outputs"]):
            return None
        self._tell("already complete: nothing was run, nothing rewritten")
        return report

    async def _run_leased(self) -> dict[str, Any]:
        await to_thread(self._sink.clean)
        await to_thread(self._ownership.begin)
        job = await to_thread(self._beginning.resume)
        if job is None or self.course.passes is None or not self.course.passes.complete:
            model = await to_thread(self._choose_model)
            async with self._loading(model) as loading:
                engine = self._starter.engine
                await self._indexing.complete(engine.card.unable if engine else ())
                self._tell_rows()
                job = await to_thread(self._beginning.begin, model)
                await self._answer(job, loading)
        assert self.course.passes is not None
        await to_thread(self.course.passes.current.close)
        retry = self._spec.retry_failed
        while await to_thread(next_round, self.course.passes, self.state, retry):
            retry = None  # one round a run
            model = await to_thread(self._choose_model)
            async with self._loading(model) as loading:
                job = await to_thread(self._continuing.learn_model, job, model)
                await self._answer(job, loading)
            await to_thread(self.course.passes.current.close)
            crash.here("round-done")
        return await to_thread(self._finish, job)

    def _choose_model(self) -> str | None:
        return self._indexing.choose_model(self.course.passes.current if self.course.passes is not None else None)

    @asynccontextmanager
    async def _loading(self, model: str | None) -> AsyncIterator["asyncio.Task[None] | None"]:
        """Get the engine ready meanwhile, once it has taken its settings; None if no row needs it."""
        self.course.phase = "loading"
        if model is None or not self._indexing.index.models:
            yield None
            return
        await self._starter.check(model)
        loading = asyncio.create_task(self._starter.start())
        try:
            yield loading
        finally:
            await end(loading)

    def _tell_rows(self) -> None:
        joint = len(set(self.places.targets)) < len(self.places.targets)
        for note in self._indexing.notes(joint=joint, resumed=self.course.earlier.total > 0):
            self._tell(note)

    async def _answer(self, job: JobFile, loading: "asyncio.Task[None] | None") -> None:
        """Settle every row of the current pass; until the engine is loaded, rows are read and planned.

        Raises Interrupted if it was stopped before.
        """
        assert self.course.passes is not None
        journal = self.course.passes.current
        if before := self.course.earlier.total:
            self._tell(f"going on: {before:,} of {counted(self.course.passes.total, 'row')} settled already")
        self._engine = None if loading is None else self._starter.engine
        engine = self._engine or NoEngine()
        scheduler, dedupe = make_scheduler(self._spec, engine), make_dedupe(self._spec, job.job)

        async def ready() -> None:
            if loading is not None:
                await asyncio.shield(loading)
            self.course.run(scheduler, lambda: engine.load)

        self._stop.listen(self.course.drain)
        try:
            complete = await run_job(
                self._indexing.feed(journal),
                scheduler,
                engine,
                journal,
                make_respond(self._spec, job.job),
                self._stop,
                revive=self._revive,
                ready=ready(),
                dedupe=dedupe,
                request_timeout_s=self._spec.request_timeout,
                spool_limit=self._spec.spool_limit,
                max_engine_restarts=self._spec.max_engine_restarts,
            )
        except BaseException:
            with suppress(XbatchError):
                await to_thread(journal.close, LEAVE_S)
            raise
        finally:
            self._stop.forget(self.course.drain)
        self.course.seal(journal.counts, dedupe.repeated if dedupe else 0)
        if not complete:
            await to_thread(journal.close, LEAVE_S)
            left = self.course.passes.total - journal.counts.total
            again = "it again without --restart" if self._spec.restart else "the same command again"
            raise Interrupted(f"stopped with {counted(left, 'row')} to go; run {again} to finish")

    async def _revive(self, death: EngineError) -> None:
        self._tell(f"{death}; starting it again, the rows that were in flight run again")
        self.course.phase = "loading"
        await self._starter.revive()
        self.course.phase = "running"

    def _finish(self, job: JobFile) -> dict[str, Any]:
        assert self.course.passes is not None
        self.course.phase = "writing"
        self._lease.check()
        self._before_output()
        engine, log = self._engine, self.state.engine_log
        return finish_job(
            job,
            self.course.passes,
            self._sink,
            self._ownership.claim,
            self.state,
            self.course.answered,
            repeated=self.course.repeated,
            began_s=self.course.began_s,
            output_settings=output_settings(self._spec),
            blank_lines=self._indexing.blank_lines,
            ignored_fields=self._indexing.index.notes.facts(),
            running_s=self.course.running_s,
            state=self.state.uri,
            engine=engine.description if engine else None,
            engine_log=storage.as_text(str(log)) if log.exists() and log.stat().st_size else None,
        )

    def _fail(self, error: XbatchError) -> None:
        """Stop for what another thread has found out."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.fail, error)
