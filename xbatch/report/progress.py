"""Progress: a live bar on a terminal, lines of JSON elsewhere."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from xbatch.display import counted
from xbatch.state.records import Counts
from xbatch.threads import Thread

JSON_EVERY_S = 10.0
BAR_EVERY_S = 0.25
MEASURED_S = 0.1
"""Time of answering from which on a rate says something."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job at one moment."""

    phase: str
    """`indexing`, `loading`, `running`, `draining` or `writing`."""
    total: int
    """Rows of the job, as far as they are known."""
    counts: Counts
    earlier: Counts
    """What earlier runs of the job had settled."""
    running_s: float
    """Time since this run began to answer."""
    in_flight: int
    cached_share: float | None = None
    """Of the prompts' tokens, those that the engine had in its cache; None where it tells of none."""


def rate(number: int, seconds: float) -> float | None:
    """Return so many a second; None while the time is too short to measure a rate."""
    return number / seconds if seconds >= MEASURED_S else None


def measure(seen: Snapshot) -> dict[str, float | None]:
    """Return rows and tokens a second of this run, and seconds to go; None while unknown."""
    run, seconds = seen.counts.since(seen.earlier), seen.running_s
    rates = (rate(number, seconds) for number in (run.total, run.prompt_tokens, run.completion_tokens))
    rows, tokens_in, tokens_out = (None if each is None else round(each, 1) for each in rates)
    return {
        "rows_per_s": rows,
        "prompt_tokens_per_s": tokens_in,
        "completion_tokens_per_s": tokens_out,
        "eta_s": round((seen.total - seen.counts.total) / rows, 1) if rows else None,
    }


class JsonProgress:
    """One line of JSON at every turn, and one at the end."""

    def __init__(self, look: Callable[[], Snapshot], stream: TextIO) -> None:
        self._look = look
        self._stream = stream

    def show(self) -> None:
        """Write the line."""
        seen = self._look()
        line = {
            "event": "progress",
            "phase": seen.phase,
            "rows": seen.total,
            "completed": seen.counts.completed,
            "failed": seen.counts.failed,
            "in_flight": seen.in_flight,
            "prefix_cache_hits": None if seen.cached_share is None else round(seen.cached_share, 3),
            **measure(seen),
        }
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Write the last line, if there has been anything to show."""
        if self._look().counts.total:
            self.show()


class BarProgress:
    """A live bar."""

    def __init__(self, look: Callable[[], Snapshot], console: Console) -> None:
        self._look = look
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Figures(),
        ]
        # What libraries print has its place in the engine's log, not above the bar.
        self._bar = Progress(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("starting", total=None, figures="")
        self._bar.start()

    def show(self) -> None:
        """Draw the bar anew."""
        seen = self._look()
        speed = measure(seen)
        total = seen.total or None
        self._bar.update(
            self._task,
            description=seen.phase,
            total=total,
            completed=seen.counts.total,
            figures=_figures(seen, speed),
        )
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class Ticker:
    """Shows progress from a thread of its own, also while the engine loads."""

    def __init__(self, progress: "JsonProgress | BarProgress", every_s: float) -> None:
        self._progress = progress
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = Thread(target=self._tick, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop showing."""
        self._ended.set()
        self._thread.join()
        self._progress.close()

    def _tick(self) -> None:
        while not self._ended.wait(self._every_s):
            self._progress.show()


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"])


def _figures(seen: Snapshot, speed: dict[str, float | None]) -> str:
    counts = seen.counts
    if seen.phase in ("indexing", "loading"):
        return f"{counted(seen.total, 'row')} found"
    eta, tokens_in, tokens_out = (speed[name] for name in ("eta_s", "prompt_tokens_per_s", "completion_tokens_per_s"))
    parts = [
        f"{counts.total:,}/{counted(seen.total, 'row')}",
        f"{counts.failed:,} failed",
        *([] if tokens_in is None or tokens_out is None else [f"{tokens_in:,.0f} tok/s in", f"{tokens_out:,.0f} out"]),
        *([] if seen.cached_share is None else [f"{seen.cached_share:.0%} from cache"]),
        f"{seen.in_flight:,} in flight",
        "ETA " + ("?" if eta is None else duration(eta)),
    ]
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Write a time span as people do: 4 s, 3:20, 2:03:20."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
