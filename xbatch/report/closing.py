"""The closing table."""

from typing import Any

from rich.console import Console
from rich.table import Table

from xbatch.report.progress import duration


def show_closing(console: Console, report: dict[str, Any]) -> None:
    """Print a job's totals, speed, and where things lie."""
    counts, usage, took_s = report["request_counts"], report["usage"], report["elapsed_s"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("rows", f"{counts['total']:,} ({counts['completed']:,} completed, {counts['failed']:,} failed)")
    table.add_row("tokens", f"{usage['prompt_tokens']:,} in, {usage['completion_tokens']:,} out")
    table.add_row("time", f"{duration(took_s)}, {duration(report['running_s'])} of it answering")
    table.add_row("speed", _speed(report))
    for output in report["outputs"]:
        table.add_row("output", f"{output['uri']} ({output['rows']:,} rows)")
    for name, field in (("state", "state"), ("vLLM's log", "engine_log")):
        if report[field]:
            table.add_row(name, report[field])
    console.print(table)


def _speed(report: dict[str, Any]) -> str:
    run, seconds = report["this_run"], max(report["running_s"], 1e-9)
    return (
        f"{run['rows'] / seconds:,.1f} rows/s, {run['prompt_tokens'] / seconds:,.0f} tokens/s in, "
        f"{run['completion_tokens'] / seconds:,.0f} out"
    )
