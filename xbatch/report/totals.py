"""The report: a job's totals, and what they mean to a scheduler."""

from collections.abc import Iterator
from typing import Any

from xbatch.display import counted
from xbatch.errors import ExitCode
from xbatch.state.records import Counts

SHOWN_REASONS = 10
"""Reasons for failures that are shown; all of them stand in the report."""


def make_report(
    job_id: str, model: str | None, counts: Counts, this_run: Counts, *, repeated: int = 0, **facts: Any
) -> dict[str, Any]:
    """Make the content of `report.json` from all counts of the job and those of this run.

    Of this run's rows, `repeated` were answered from another's answer.

    `request_counts` is OpenAI's, with the failed rows that could be tried again. Names ending in `_s` are seconds.
    """
    return {
        "job": job_id,
        "model": model,
        "request_counts": {
            "total": counts.total,
            "completed": counts.completed,
            "failed": counts.failed,
            "retryable": counts.retryable,
        },
        "usage": {"prompt_tokens": counts.prompt_tokens, "completion_tokens": counts.completion_tokens},
        "this_run": {
            "rows": this_run.total,
            "repeated": repeated,
            "prompt_tokens": this_run.prompt_tokens,
            "completion_tokens": this_run.completion_tokens,
        },
        **{name: round(fact, 3) if isinstance(fact, float) else fact for name, fact in facts.items()},
    }


def failure_lines(told: dict[str, Any]) -> Iterator[str]:
    """Tell why rows failed, a line a reason, from a report or a status.

    There is none for a report of an earlier version, which does not say it.
    """
    reasons, others = told.get("failures", []), told.get("other_failures", 0)
    for each in reasons[:SHOWN_REASONS]:
        first = "first in" if each["rows"] > 1 else "in"
        line = "" if each["line"] is None else f":{each['line']}"
        place = "" if each["file"] is None else f", {first} {each['file']}{line}"
        message = each["message"].rstrip(".")
        yield f"{each['code']} {message}: {counted(each['rows'], 'row')}{place} ({each['advice']})"
    others += sum(each["rows"] for each in reasons[SHOWN_REASONS:])
    if others:
        yield f"for other reasons: {counted(others, 'row')} (the responses tell them)"


def exit_code(report: dict[str, Any], allowed_failures: float) -> ExitCode:
    """What the process should tell its caller about a complete job."""
    failed = report["request_counts"]["failed"]
    return ExitCode.TOO_MANY_FAILURES if failed > allowed_failures else ExitCode.COMPLETE
