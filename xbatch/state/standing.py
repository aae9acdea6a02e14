"""Where a job stands, read from its state alone and changing nothing."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from xbatch.rows.shard import Shard
from xbatch.state.failures import PassState, count_reasons
from xbatch.state.folder import JobFile, RoundFile, StateFolder
from xbatch.state.lease import TERM_S, Heartbeat, newest, read_heartbeat, this_host
from xbatch.state.records import Counts


def look(folder: StateFolder) -> dict[str, Any]:
    """Tell where the job in a folder stands, as JSON.

    Works while the job runs, and after it. Names ending in `_s` are seconds. Raises StorageError.
    """
    # The plan first, for an extension names its inputs in the job before it adds their shards to the plan.
    plan, job, report = folder.plan(), folder.job(), folder.report()
    shards = plan.shards if plan else []
    rounds = folder.rounds()
    passes = [PassState(folder, job.job, shards, number) for number in range(len(rounds) + 1)]
    done, opened = passes[0].done_counts, passes[0].open_counts
    counts = replace(done)
    counts.add(opened)
    for begun, again in zip(rounds, passes[1:], strict=True):
        counts = _tried_again(counts, begun, again.done_counts, again.open_counts)
    workers = list(_workers(folder))
    alive = any(worker["alive"] for worker in workers)
    rates = [worker["progress"].get("rows_per_s") for worker in workers if worker["alive"]]
    measured = [each for each in rates if each is not None]
    rows_per_s = sum(measured)
    total = sum(shard.rows for shard in shards)
    left = 0 if report else total - counts.total
    return {
        "job": job.job,
        "created": job.created,
        "model": job.identity["model"],
        "state": folder.uri,
        "status": "complete" if report else "running" if alive else "interrupted",
        "request_counts": {
            "total": total if plan else None,
            "completed": counts.completed,
            "failed": counts.failed,
            "retryable": counts.retryable,
        },
        **_failures(job, passes, shards, report),
        "usage": {"prompt_tokens": counts.prompt_tokens, "completion_tokens": counts.completion_tokens},
        "shards": {"total": len(shards), "done": len(folder.store.names("done"))},
        "open_rows": opened.total,
        "rounds": len(rounds),
        "rows_per_s": round(rows_per_s, 1) if measured else None,
        "eta_s": round(left / rows_per_s, 1) if plan and rows_per_s else None,
        "outputs": report["outputs"] if report else [],
        "workers": workers,
    }


def any_completed(folder: StateFolder) -> bool:
    """Tell whether any row of the job in a folder has an answer. Raises StorageError."""
    job, plan = folder.job(), folder.plan()
    for number in range(len(folder.rounds()) + 1):
        seen = PassState(folder, job.job, plan.shards if plan else [], number)
        if seen.done_counts.completed or seen.open_counts.completed:
            return True
    # What another machine has answered and not sealed is in its own log; its heartbeat tells of it.
    return any(worker["progress"].get("completed") for worker in _workers(folder))


def _failures(
    job: JobFile, passes: list[PassState], shards: list[Shard], report: dict[str, Any] | None
) -> dict[str, Any]:
    """Tell why rows failed: from the report, if it says so, else from what each pass has settled."""
    if report and "failures" in report:
        return {name: report[name] for name in ("failures", "other_failures")}
    return count_reasons(passes, shards).told(shards, [each["uri"] for each in job.identity["inputs"]])


def _tried_again(counts: Counts, begun: RoundFile, done: Counts, opened: Counts) -> Counts:
    """Counts over all rows after some that had failed were run again."""
    done.add(opened)
    # While not all have run, which of them could be tried again isn't known without reading every response.
    spent = min(done.total, begun.retryable) if done.total < begun.targets else begun.retryable
    return replace(
        counts,
        completed=counts.completed + done.completed,
        failed=counts.failed - done.completed,
        retryable=counts.retryable - spent + done.retryable,
        prompt_tokens=counts.prompt_tokens + done.prompt_tokens,
        completion_tokens=counts.completion_tokens + done.completion_tokens,
    )


def _workers(folder: StateFolder) -> Iterator[dict[str, Any]]:
    _, holder = newest(folder.store)
    term_s = holder.term_s if holder else TERM_S
    for name in folder.store.names("workers"):
        if (beat := read_heartbeat(folder.store, name.removesuffix(".json"))) is not None:
            age_s = round(max(time.time() - beat.at, 0), 1)
            yield {**_shown(beat), "heartbeat_age_s": age_s, "alive": _alive(beat, age_s, term_s)}


def _shown(beat: Heartbeat) -> dict[str, Any]:
    return {"worker": beat.worker, "host": beat.host, "pid": beat.pid, "state": beat.state, "progress": beat.progress}


def _alive(beat: Heartbeat, age_s: float, term_s: float) -> bool:
    if beat.state == "gone" or age_s >= term_s:
        return False
    if beat.host != this_host():
        return True
    try:
        os.kill(beat.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
