"""One batch, from the look at its input to its end.

Everything that is decided is kept in the store before anything follows from it, and every step may be done again: a
batch whose server was killed is pursued from where it stands.
"""

import asyncio
import shutil
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from xbatch.assemble.job import Job
from xbatch.errors import Interrupted, UsageError
from xbatch.report.progress import Snapshot
from xbatch.run import Stop
from xbatch.serve.batch_job import Serving, conclude, has_input, note_finalizing, settled, spec_of, starter_of
from xbatch.serve.batches import Begun, Ended, Event, Happened, Mistake, Standing
from xbatch.serve.checking import InputRules, check_input
from xbatch.serve.starters import PatientStarter
from xbatch.state.records import Counts

CANCEL_DRAIN_S = 600.0
"""Rows in flight may take so long to finish once a batch is cancelled."""
_LOOK_S = 0.1
_TURN_LOOK_S = 1.0
"""Many may wait for their turn."""


class Pursuit:
    """Brings one batch to its end."""

    def __init__(self, batch: str, serving: Serving) -> None:
        self.batch = batch
        self.cancelled = False
        """Somebody has asked for it; that is in the store."""
        self.stopping = False
        """The server ends; the batch goes on with the next one."""
        self.trouble = ""
        """What has kept it from going on."""
        self._job: Job | None = None
        self._serving = serving
        self._counts = Counts()
        self._answered = Counts()
        self._total = 0
        self._expires_at = float("inf")

    @property
    def running(self) -> bool:
        """Rows are being answered."""
        return self._job is not None

    @property
    def counts(self) -> Counts:
        """Rows that are settled."""
        seen = self._snapshot()
        return self._counts if seen is None else seen.counts

    @property
    def answered(self) -> Counts:
        """Rows that this process has settled."""
        answered, seen = replace(self._answered), self._snapshot()
        if seen is not None:
            answered.add(seen.counts.since(seen.earlier))
        return answered

    @property
    def in_flight(self) -> int:
        """Rows that the engine has and has not answered."""
        seen = self._snapshot()
        return 0 if seen is None else seen.in_flight

    @property
    def waiting(self) -> int:
        """Rows that the engine does not have yet; none while the input is still looked at."""
        return max(self._total - self.counts.total - self.in_flight, 0)

    def _snapshot(self) -> Snapshot | None:
        return None if self._job is None or self._job.course.passes is None else self._job.course.snapshot()

    async def pause(self, seconds: float) -> None:
        """Let some time pass, unless something happens."""
        until, cancelled = time.monotonic() + seconds, self.cancelled
        while time.monotonic() < until and not self.stopping and self.cancelled == cancelled:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    async def pursue(self) -> None:
        """Bring the batch to its end, and clear up after it.

        Raises Interrupted if the server stops or another process has the batch, and whatever keeps it from going on.
        """
        batches = self._serving.batches
        while (standing := await to_thread(batches.read, self.batch)) is not None:
            if self.stopping:
                raise Interrupted(f"{self.batch} goes on when the server is started again")
            self.cancelled |= standing.cancelling is not None
            self._expires_at = standing.asked.expires_at
            if standing.ended is not None:
                await to_thread(batches.clear_up, self.batch)
                return
            await (self._begin(standing) if standing.begun is None else self._answer(standing, standing.begun))
        await to_thread(batches.forget_stray, self.batch)

    def _interrupted(self) -> bool:
        return self.stopping or self.cancelled

    def _overdue(self) -> bool:
        return time.time() >= self._expires_at

    async def _begin(self, standing: Standing) -> None:
        """Look at the input; then the batch is in progress, or has failed."""
        if standing.cancelling is not None:
            await self._end(Ended(_now(), "cancelled"))
            return
        asked, serving = standing.asked, self._serving
        rules = InputRules(asked.endpoint, serving.models(), serving.max_rows, serving.spec.max_line_bytes)
        uri = serving.files.uri_of(asked.input_content)
        async with serving.checks:
            checked = await to_thread(check_input, uri, asked.input_file_id, rules, self._interrupted)
        if checked is None:
            return
        if checked.mistakes:
            await self._end(Ended(_now(), "failed", checked.mistakes))
        else:
            await self._note("begun", Begun(_now(), checked.total, list(checked.models)))

    async def _answer(self, standing: Standing, begun: Begun) -> None:
        """Have every row settled, or find out that the batch ends early."""
        self._counts = await to_thread(settled, self._serving.batches.state_of(self.batch))
        self._total = begun.total
        unanswered = self._counts.total < begun.total
        if self._overdue() and standing.early is None and unanswered:
            await self._note("expiring", Happened(_now()))
            return
        try:
            async with self._place(standing, unanswered=unanswered) as has_place:
                report = await self._run(standing, begun) if has_place else None
        except UsageError as e:
            if standing.early is None and await to_thread(has_input, self._serving, standing):
                raise
            await self._end(Ended(_now(), "failed", [Mistake("batch_failed", str(e))], begun.total))
            return
        if report is not None:
            await to_thread(conclude, self._serving, self.batch, report)

    @asynccontextmanager
    async def _place(self, standing: Standing, *, unanswered: bool) -> AsyncIterator[bool]:
        """Wait for the batch's turn; False if it is over before that comes."""
        early = standing.early is not None

        def over() -> bool:
            return self.stopping or (not early and (self.cancelled or self._overdue()))

        places = self._serving.places if unanswered and not early else self._serving.checks
        waiting = asyncio.ensure_future(places.acquire())
        try:
            while not (await asyncio.wait({waiting}, timeout=_TURN_LOOK_S))[0]:
                if over():
                    break
            yield waiting.done() and not over()
        finally:
            if waiting.done() and not waiting.cancelled():
                places.release()
            waiting.cancel()

    async def _run(self, standing: Standing, begun: Begun) -> dict[str, Any] | None:
        """Run the batch's job; its report, or None if the batch has come to another end meanwhile."""
        serving = self._serving
        stop, scratch = Stop(serving.spec.drain_s), serving.scratch / self.batch
        await to_thread(scratch.mkdir, exist_ok=True)
        try:
            starter = PatientStarter(starter_of(serving, standing, begun), stop, self._check_open)
            spec = spec_of(serving, standing, begun)
            finalize = partial(note_finalizing, serving, self.batch)
            wishes: dict[str, Any] = {"before_output": finalize, "copies": True, "refuses": False}
            make = partial(Job, spec, scratch, stop, self._tell, starter=starter, **wishes)
            self._job = await to_thread(make)
            running = asyncio.create_task(self._job.run())
            await self._watch(running, stop, early=standing.early is not None)
            return await running
        except Interrupted:
            if not self.stopping and stop.requests and stop.error is None:
                return None
            raise
        finally:
            if (job := self._job) is not None:
                self._counts, self._answered, self._job = self.counts, self.answered, None
                await to_thread(job.close)
            await to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _watch(self, running: "asyncio.Task[dict[str, Any]]", stop: Stop, *, early: bool) -> None:
        """Wait for the end of a job, which is stopped when the batch ends early or the server ends."""
        try:
            while not (await asyncio.wait({running}, timeout=_LOOK_S))[0]:
                over = not early and (self.cancelled or self._overdue())
                if not stop.requests and (self.stopping or over):
                    stop.drain_s = stop.drain_s if self.stopping or not self.cancelled else CANCEL_DRAIN_S
                    stop.request()
                elif self.stopping and stop.drain_s == CANCEL_DRAIN_S and stop.requests == 1:
                    stop.request()  # there is no time for this drain any more
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            raise

    def _check_open(self) -> None:
        """Raise Interrupted if another process has brought the batch to its end."""
        if self._serving.batches.has(self.batch, "ended"):
            raise Interrupted(f"{self.batch} has ended")

    async def _end(self, ended: Ended) -> None:
        await self._note("ended", ended)

    async def _note(self, name: str, event: Event) -> None:
        await to_thread(self._serving.batches.note, self.batch, name, event)

    def _tell(self, text: str) -> None:
        self._serving.tell(f"{self.batch}: {text}")


def _now() -> int:
    return int(time.time())
