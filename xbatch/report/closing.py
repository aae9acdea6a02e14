"""The closing table."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from xbatch.report.progress import duration


def show_closing(console: Console, report: dict[str, Any]) -> None:
    """Print a job's totals, speed, and where things lie; no name is ever folded, so that it can be copied."""
    show_table(console, list(_rows(report)))


def show_standing(console: Console, standing: dict[str, Any]) -> None:
    """Print where a job stands."""
    show_table(console, list(_standing(standing)))


def show_table(console: Console, rows: list[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text.assemble((f"{name:{width}}  ", "bold"), value), soft_wrap=True)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    counts, usage, repeated = report["request_counts"], report["usage"], report["this_run"].get("repeated", 0)
    twins = f"; {repeated:,} of them answered by another row's answer" if repeated else ""
    yield "rows", f"{counts['total']:,} ({counts['completed']:,} completed, {failures(counts)}{twins})"
    yield "tokens", f"{usage['prompt_tokens']:,} in, {usage['completion_tokens']:,} out"
    yield "time", f"{duration(report['elapsed_s'])}, {duration(report['running_s'])} of it answering"
    yield "speed", _speed(report)
    for output in report["outputs"]:
        yield "output", f"{output['uri']} ({output['rows']:,} rows)"
    for name, field in (("state", "state"), ("vLLM's log", "engine_log")):
        if report[field]:
            yield name, report[field]


def _speed(report: dict[str, Any]) -> str:
    run, seconds = report["this_run"], max(report["running_s"], 1e-9)
    return (
        f"{run['rows'] / seconds:,.1f} rows/s, {run['prompt_tokens'] / seconds:,.0f} tokens/s in, "
        f"{run['completion_tokens'] / seconds:,.0f} out"
    )


def failures(counts: dict[str, int]) -> str:
    """How many rows failed, and how many of them could be tried again."""
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
    yield "shards", f"{shards['done']:,} of {shards['total']:,} done, {standing['open_rows']:,} rows in open ones"
    if standing["rows_per_s"] is not None:
        eta = "?" if standing["eta_s"] is None else duration(standing["eta_s"])
        yield "speed", f"{standing['rows_per_s']:,.1f} rows/s, {eta} to go"
    for worker in standing["workers"]:
        state = worker["state"] if worker["alive"] or worker["state"] == "gone" else "dead"
        beat = f"last heartbeat {duration(worker['heartbeat_age_s'])} ago"
        yield "worker", f"{worker['host']}, process {worker['pid']}: {state}, {beat}"
    for output in standing["outputs"]:
        yield "output", f"{output['uri']} ({output['rows']:,} rows)"
    yield "state", standing["state"]
