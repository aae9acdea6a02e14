"""The closing table, and where a job stands."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from xbatch.display import counted, shown
from xbatch.report.progress import duration, rate
from xbatch.report.totals import failure_lines


def show_closing(console: Console, report: dict[str, Any]) -> None:
    """Print a job's totals, why rows failed, its speed, and where things lie; no line is folded."""
    show_table(console, list(_rows(report)))


def show_standing(console: Console, standing: dict[str, Any]) -> None:
    """Print where a job stands."""
    show_table(console, list(_standing(standing)))


def show_table(console: Console, rows: list[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    rows = [(shown(name), shown(value)) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text.assemble((f"{name:{width}}  ", "bold"), value), soft_wrap=True)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    counts, usage, repeated = report["request_counts"], report["usage"], report["this_run"].get("repeated", 0)
    twins = f"; {repeated:,} of them answered by another row's answer" if repeated else ""
    yield "rows", f"{counts['total']:,} ({counts['completed']:,} completed, {failures(counts)}{twins})"
    yield from (("failed", line) for line in failure_lines(report))
    if thoughts := report.get("all_reasoning"):
        yield "no text", f"{counted(thoughts, 'answer')} of reasoning only: a larger max_tokens lets them end"
    yield "tokens", f"{usage['prompt_tokens']:,} in, {usage['completion_tokens']:,} out"
    yield "time", f"{duration(report['elapsed_s'])}, {duration(report['running_s'])} of it answering"
    if (speed := _speed(report)) is not None:
        yield "speed", speed
    for output in report["outputs"]:
        yield "output", f"{output['uri']} ({counted(output['rows'], 'row')})"
    for name, field in (("state", "state"), ("vLLM's log", "engine_log")):
        if report[field]:
            yield name, report[field]


def _speed(report: dict[str, Any]) -> str | None:
    """Tell this run's speed; None if nothing was measured."""
    run, seconds = report["this_run"], report["running_s"]
    if not run["rows"]:
        if not report["request_counts"]["total"]:
            return None
        return "nothing was run: the output was rebuilt from what was answered before" if report["outputs"] else None
    rows, tokens_in, tokens_out = (rate(run[name], seconds) for name in ("rows", "prompt_tokens", "completion_tokens"))
    if rows is None or tokens_in is None or tokens_out is None:
        return None
    return f"{rows:,.1f} rows/s, {tokens_in:,.0f} tokens/s in, {tokens_out:,.0f} out"


def failures(counts: dict[str, int]) -> str:
    """Tell how many rows failed, and how many of them could be tried again."""
    retryable = f", {counts['retryable']:,} of them retryable" if counts["retryable"] else ""
    return f"{counts['failed']:,} failed{retryable}"


def _standing(standing: dict[str, Any]) -> Iterator[tuple[str, str]]:
    counts, shards = standing["request_counts"], standing["shards"]
    yield "job", f"{standing['job']}, begun {standing['created']}, model {standing['model']}"
    ways_on = {"interrupted": ": run the same command again to finish"}
    yield "status", standing["status"] + ways_on.get(standing["status"], "")
    settled = counts["completed"] + counts["failed"]
    total = "?" if counts["total"] is None else f"{counts['total']:,}"
    yield "rows", f"{settled:,} of {total} ({counts['completed']:,} completed, {failures(counts)})"
    yield from (("failed", line) for line in failure_lines(standing))
    yield (
        "shards",
        f"{shards['done']:,} of {shards['total']:,} done, {counted(standing['open_rows'], 'row')} in open ones",
    )
    if standing["rows_per_s"] is not None:
        eta = "?" if standing["eta_s"] is None else duration(standing["eta_s"])
        yield "speed", f"{standing['rows_per_s']:,.1f} rows/s, {eta} to go"
    for worker in standing["workers"]:
        state = worker["state"] if worker["alive"] or worker["state"] == "gone" else "dead"
        beat = f"last heartbeat {duration(worker['heartbeat_age_s'])} ago"
        yield "worker", f"{worker['host']}, process {worker['pid']}: {state}, {beat}"
    for output in standing["outputs"]:
        yield "output", f"{output['uri']} ({counted(output['rows'], 'row')})"
    yield "state", standing["state"]
