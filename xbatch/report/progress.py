"""Progress: a live bar on a terminal, lines of JSON elsewhere."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from xbatch.state.records import Counts
from xbatch.threads import Thread

JSON_EVERY_S = 10.0
BAR_EVERY_S = 0.25


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


def measure(seen: Snapshot) -> dict[str, float | None]:
    """Rows and tokens a second of this run, and seconds to go (None while unknown)."""
    counts, earlier, seconds = seen.counts, seen.earlier, max(seen.running_s, 1e-9)
    rows = (counts.total - earlier.total) / seconds
    return {
        "rows_per_s": round(rows, 1),
        "prompt_tokens_per_s": round((counts.prompt_tokens - earlier.prompt_tokens) / seconds, 1),
        "completion_tokens_per_s": round((counts.completion_tokens - earlier.completion_tokens) / seconds, 1),
        "eta_s": round((seen.total - counts.total) / rows, 1) if rows > 0 else None,
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
        self._bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
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
        return f"{seen.total:,} rows found"
    eta = speed["eta_s"]
    parts = [
        f"{counts.total:,}/{seen.total:,} rows",
        f"{counts.failed:,} failed",
        f"{speed['prompt_tokens_per_s']:,.0f} tok/s in",
        f"{speed['completion_tokens_per_s']:,.0f} out",
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
