"""All batches that have not ended, each pursued until it has."""

import asyncio
import logging
import random
from asyncio import to_thread
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from xbatch import storage
from xbatch.assemble.starting import Starter
from xbatch.errors import StorageError, XbatchError
from xbatch.job.spec import JobSpec
from xbatch.serve.batch_job import Serving
from xbatch.serve.batches import Batches
from xbatch.serve.files import Files
from xbatch.serve.pursuing import Pursuit
from xbatch.state.records import Counts

_LOG = logging.getLogger("xbatch.serve")
MAX_ROWS = 50_000
MAX_RUNNING = 4
LOOK_S = 15.0
"""Batches that others have made in the same store, and cancellations, are found so soon."""
LONGEST_PAUSE_S = 60.0
_END_S = 10.0
"""After rows in flight, what is settled needs a moment to be kept."""


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """Batches and their rows, for those who watch the server."""

    running: int
    """Batches whose rows are being answered."""
    open: int
    """Batches that have not ended."""
    in_flight: int
    """Rows that the engine has and has not answered."""
    waiting: int
    """Rows of open batches that the engine does not have yet."""
    settled: Counts
    """Rows that this process has settled, and their tokens."""

    @property
    def rows(self) -> dict[str, int]:
        """Rows by their state: those of this moment, and those that this process has settled."""
        return {
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "completed": self.settled.completed,
            "failed": self.settled.failed,
        }


class BatchRunner:
    """Brings every batch in a store to its end, several at a time, in the order in which inputs were found to be right.

    `spec` has the model and the engine's settings of every batch's job; `starter` gives the starter of each job, whose
    engine outlives it; `models` tells the names under which the model is served. Jobs keep what they need on this
    machine in `scratch`. `tell` is called with what operators should know.
    """

    def __init__(
        self,
        batches: Batches,
        files: Files,
        spec: JobSpec,
        starter: Callable[[], Starter],
        models: Callable[[], Collection[str]],
        scratch: Path,
        tell: Callable[[str], None],
        *,
        max_rows: int = MAX_ROWS,
        max_running: int = MAX_RUNNING,
    ) -> None:
        self._batches = batches
        self._files = files
        self._drain_s = spec.drain_s
        self._tell = tell
        places = asyncio.Semaphore(max_running)
        self._serving = Serving(batches, files, spec, starter, models, scratch, tell, max_rows, places)
        self._pursuits: dict[str, Pursuit] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended = Counts()
        """Of jobs that this process has run."""
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop

    async def run(self) -> None:
        """Go on with every batch that has not ended, and with those that come, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._guarded(self._prove)
            swept = asyncio.create_task(self._guarded(self._files.sweep))
            while not self._stopping:
                await self._guarded(self._look)
                await asyncio.sleep(LOOK_S)
            await swept
        finally:
            await self._cancel()

    def begin(self, batch: str) -> None:
        """Take up a batch that is in the store."""
        if batch not in self._tasks and not self._stopping:
            self._pursuits[batch] = Pursuit(batch, self._serving)
            self._tasks[batch] = asyncio.create_task(self._pursue(batch), name=batch)

    def cancel(self, batch: str) -> None:
        """Have a batch end early, of which the store says so."""
        if (pursuit := self._pursuits.get(batch)) is not None:
            pursuit.cancelled = True

    async def stop(self) -> None:
        """Let rows in flight finish and keep what is settled; the batches go on when a server is started again."""
        self._stopping = True
        for pursuit in self._pursuits.values():
            pursuit.stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._drain_s + _END_S)
        await self._cancel()

    def counts(self, batch: str) -> Counts:
        """Rows of a batch that are settled."""
        pursuit = self._pursuits.get(batch)
        return Counts() if pursuit is None else pursuit.counts

    @property
    def figures(self) -> BatchFigures:
        """How things stand."""
        running = [pursuit for pursuit in self._pursuits.values() if pursuit.running]
        done, pursuits = replace(self._ended), self._pursuits.values()
        for pursuit in pursuits:
            done.add(pursuit.answered)
        in_flight = sum(pursuit.in_flight for pursuit in running)
        waiting = sum(pursuit.waiting for pursuit in pursuits)
        return BatchFigures(len(running), len(pursuits), in_flight, waiting, done)

    async def _pursue(self, batch: str) -> None:
        pursuit, tries, told = self._pursuits[batch], 0, ""
        while not await self._advance(pursuit) and not self._stopping:
            if pursuit.trouble != told:
                told = pursuit.trouble
                self._tell(f"{batch}: {told}")
            await pursuit.pause(random.uniform(0.5, 1) * min(LONGEST_PAUSE_S, 2.0**tries))  # noqa: S311 - no secret
            tries += 1
        self._ended.add(pursuit.answered)
        del self._pursuits[batch], self._tasks[batch]

    async def _advance(self, pursuit: Pursuit) -> bool:
        """Pursue a batch; False if it has not come to its end."""
        try:
            await pursuit.pursue()
        except (XbatchError, OSError) as e:
            pursuit.trouble = str(e)
        except Exception as e:  # noqa: BLE001 - one batch's bug is not the others'
            pursuit.trouble = f"this is a bug in xbatch: {e!r}"
            _LOG.exception("a batch can't go on")
        else:
            return True
        return False

    def _prove(self) -> None:
        store = self._batches.store
        if not storage.is_local(store.uri) and not storage.is_exclusive(store):
            self._tell(f"{store.uri} does not keep two writers apart: run one server at a time")

    def _look(self) -> None:
        """In a thread: find batches that are not pursued yet, and those that somebody else has cancelled."""
        for batch in self._batches.unended():
            pursuit = self._pursuits.get(batch)
            if pursuit is None:
                self._loop.call_soon_threadsafe(self.begin, batch)
            elif pursuit.running and self._batches.has(batch, "cancelling"):
                self._loop.call_soon_threadsafe(self.cancel, batch)

    async def _guarded(self, work: Callable[[], None]) -> None:
        try:
            await to_thread(work)
        except StorageError as e:
            self._tell(str(e))

    async def _cancel(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
