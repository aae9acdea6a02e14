"""The closing table."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from xbatch.report.progress import duration


def show_closing(console: Console, report: dict[str, Any]) -> None:
    """Print a job's totals, speed, and where things lie; no name is ever folded, so that it can be copied."""
    rows = list(_rows(report))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text.assemble((f"{name:{width}}  ", "bold"), value), soft_wrap=True)


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    counts, usage = report["request_counts"], report["usage"]
    yield "rows", f"{counts['total']:,} ({counts['completed']:,} completed, {counts['failed']:,} failed)"
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
