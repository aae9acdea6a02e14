"""What `xbatch validate` shows: each problem, how far it has come, and totals."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO, TextIO

from rich.console import Console

from xbatch.display import counted, shown, shown_json
from xbatch.report.closing import show_table
from xbatch.report.progress import BAR_EVERY_S, JSON_EVERY_S
from xbatch.rows.problem import Problem

_CLEAR = "\r\x1b[2K"
_SHOWN_MODELS = 5


def problem_line(problem: Problem) -> str:
    """Write a problem in one line that can be cut at its colons and shown on any terminal."""
    return shown(f"{problem.place}: {problem.code}: {problem.message}")


def problem_json(problem: Problem) -> str:
    """Write a problem as one JSON object."""
    fields = asdict(problem)
    del fields["place"]
    return shown_json(json.dumps(fields))


class Looking:
    """How far a look at rows has come: one line that is drawn anew on a terminal, elsewhere JSON every 10 s."""

    def __init__(self, stream: TextIO) -> None:
        self.live = stream.isatty()
        self._stream = stream
        self._every_s = BAR_EVERY_S if self.live else JSON_EVERY_S
        self._began_s = self._next_s = time.monotonic()
        self._next_s += self._every_s

    def show(self, rows: int, failed: int) -> None:
        """Tell the figures, if it is time to; cheap otherwise."""
        if (now := time.monotonic()) < self._next_s:
            return
        self._next_s = now + self._every_s
        rows_per_s = rows / (now - self._began_s)
        if self.live:
            text = f"checking · {counted(rows, 'row')} · {failed:,} can't be sent · {rows_per_s:,.0f} rows/s"
            self._stream.write(_CLEAR + text)
        else:
            line = {"event": "progress", "phase": "checking", "rows": rows, "failed": failed}
            self._stream.write(json.dumps(line | {"rows_per_s": round(rows_per_s, 1)}) + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Give the line to something else."""
        if self.live:
            self._stream.write(_CLEAR)
            self._stream.flush()


class Printer:
    """Writes problems, at most `most` of them unless that is 0; goes on counting if nobody reads any more."""

    def __init__(self, out: BinaryIO, looking: Looking, *, as_json: bool, most: int) -> None:
        self.hidden = 0
        """Problems that were not written."""
        self._shown = 0
        self._out = out
        self._looking = looking
        self._as_json = as_json
        self._most = most
        self._shares_screen = out.isatty()

    def show(self, problem: Problem) -> None:
        """Write one, if it is not beyond the limit."""
        if self._most and self._shown >= self._most:
            self.hidden += 1
            return
        self._shown += 1
        self._write(problem_json(problem) if self._as_json else problem_line(problem))

    def end(self, totals: dict[str, Any]) -> None:
        """Write the totals, if what is written is JSON, and let go of everything."""
        if self._as_json:
            self._write(shown_json(json.dumps(totals)))
        with suppress(BrokenPipeError):
            self._out.flush()

    def _write(self, line: str) -> None:
        if self._shares_screen:
            self._looking.clear()
        with suppress(BrokenPipeError):
            self._out.write(line.encode(errors="backslashreplace") + b"\n")
            if self._shares_screen:
                self._out.flush()


def show_totals(console: Console, totals: dict[str, Any], hidden: int) -> None:
    """Print the totals; `hidden` problems were counted and not shown."""
    show_table(console, list(_rows(totals, hidden)))


def _rows(totals: dict[str, Any], hidden: int) -> Iterator[tuple[str, str]]:
    failed = totals["failed"]
    yield "rows", f"{totals['rows']:,} ({totals['rows'] - failed:,} can be sent, {failed:,} can't)"
    for code, times in totals["problems"].items():
        yield f"  {code}", f"{times:,}"
    if hidden:
        yield "not shown", f"{counted(hidden, 'more problem')} (--max-problems)"
    models = [f"{each['name'] or '(none)'} in {counted(each['rows'], 'row')}" for each in totals["models"]]
    if models:
        more = f", and {len(models) - _SHOWN_MODELS:,} more" if len(models) > _SHOWN_MODELS else ""
        yield "models", ", ".join(models[:_SHOWN_MODELS]) + more
    if totals["endpoints"]:
        yield (
            "endpoints",
            ", ".join(f"{name} in {counted(rows, 'row')}" for name, rows in totals["endpoints"].items()),
        )
    if repeated := totals["repeated_requests"]:
        yield "repeated", f"{counted(repeated, 'row asks', 'rows ask')} at temperature 0 what an earlier row asks"
    blank = f", {counted(totals['blank_lines'], 'blank line')}" if totals["blank_lines"] else ""
    yield "size", f"{totals['num_bytes'] / 1e6:,.1f} MB of rows in {counted(totals['files'], 'file')}{blank}"
    if totals["tokens"] is not None:
        yield from _token_rows(totals["tokens"])


def _token_rows(tokens: dict[str, Any]) -> Iterator[tuple[str, str]]:
    total = tokens["prompt_tokens"]
    lengths = [f"{name} {tokens[f'{name}_prompt']:,}" for name in ("shortest", "median", "p95", "longest")]
    yield "tokens in", f"{total:,} ({', '.join(lengths)})"
    if total:
        share = tokens["shared_prefix_tokens"] / total
        yield "  shared", f"{share:.0%} of them begin a prompt as an earlier one begins"
    yield "tokens out", f"{tokens['max_completion_tokens']:,} at most"
