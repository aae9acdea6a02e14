"""How far a job has come, for those who look on from other threads."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xbatch.engines import Load
from xbatch.planning.scheduler import Scheduler
from xbatch.report.progress import Snapshot, measure
from xbatch.state.records import Counts

if TYPE_CHECKING:
    from xbatch.state.passes import Passes


class Course:
    """The phases of a job, and its counts.

    `rows` tells the rows that are known so far.
    """

    def __init__(self, rows: Callable[[], int]) -> None:
        self.phase = "indexing"
        self.passes: Passes | None = None
        self.scheduler: Scheduler | None = None
        self.earlier = Counts()
        """What the current pass had settled when this run came to it."""
        self.answered = Counts()
        """What this run has settled, in passes that it has ended."""
        self.repeated = 0
        """Rows of this run that were answered by another row's answer."""
        self.began_s = time.monotonic()
        self._rows = rows
        self._answering_since_s: float | None = None
        self._load: Callable[[], Load] = Load
        self._load_before = Load()

    @property
    def running_s(self) -> float:
        """Time since this run began to answer."""
        return 0.0 if self._answering_since_s is None else time.monotonic() - self._answering_since_s

    @property
    def draining_helps(self) -> bool:
        """Rows are in flight, so stopping means to drain."""
        return self.phase in ("running", "draining")

    def run(self, scheduler: Scheduler, load: Callable[[], Load]) -> None:
        """Rows are being answered from here on by an engine of this load."""
        self.phase, self.scheduler, self._load, self._load_before = "running", scheduler, load, load()
        self._answering_since_s = self._answering_since_s or time.monotonic()

    def drain(self) -> None:
        """Rows in flight are all that is still answered."""
        self.phase = "draining"

    def seal(self, counts: Counts, repeated: int) -> None:
        """A pass was run to its end, or stopped; `counts` are all of it, `repeated` those of this run."""
        self.phase = "sealing"
        self.answered.add(counts.since(self.earlier))
        self.repeated += repeated

    def snapshot(self) -> Snapshot:
        """The job at this moment."""
        in_flight = self.scheduler.in_flight if self.scheduler else 0
        if self.passes is None:
            return Snapshot(self.phase, self._rows(), Counts(), self.earlier, 0.0, 0)
        current, cached = self.passes.current.counts, self._cached_share()
        return Snapshot(self.phase, self.passes.total, current, self.earlier, self.running_s, in_flight, cached)

    def _cached_share(self) -> float | None:
        now, before = self._load(), self._load_before
        prompts = now.prompt_tokens - before.prompt_tokens
        return (now.cached_tokens - before.cached_tokens) / prompts if prompts > 0 else None

    def heartbeat(self) -> tuple[str, dict[str, Any]]:
        """What heartbeats tell: the phase, and figures."""
        seen = self.snapshot()
        figures = {"rows": seen.total, "completed": seen.counts.completed, "failed": seen.counts.failed}
        return seen.phase, {**figures, "in_flight": seen.in_flight, **measure(seen)}
