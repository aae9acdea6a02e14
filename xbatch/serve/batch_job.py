"""The job of a batch: from what was asked to its specification, and from its report to the batch's end."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xbatch import crash, storage
from xbatch.assemble.starting import Starter
from xbatch.errors import UsageError
from xbatch.job.spec import JobSpec
from xbatch.serve.batches import Asked, Batches, Begun, End, Ended, Finalizing, Standing
from xbatch.serve.files import FileRecord, Files, made_at, new_id
from xbatch.serve.starters import CANCELLED, EXPIRED, ClosingStarter
from xbatch.state.folder import StateFolder
from xbatch.state.records import Counts
from xbatch.state.standing import look

_MAY_CHANGE = ["engine", "engine_args", "lora_modules", "max_line_bytes", "model", "model_version", "served_model_name"]
"""A batch goes on with whatever is served under the names that its rows ask for."""
_FAILURES = {"cancelled": CANCELLED, "expired": EXPIRED}


@dataclass(frozen=True)
class Serving:
    """What all batches share."""

    batches: Batches
    files: Files
    spec: JobSpec
    """The model and the settings of every batch's job."""
    starter: Callable[[], Starter]
    """Gives the starter of each job, whose engine outlives it."""
    models: Callable[[], Collection[str]]
    """Names under which the model is served."""
    scratch: Path
    tell: Callable[[str], None]
    max_rows: int
    places: asyncio.Semaphore
    """Batches whose rows are being answered at a time."""
    checks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Inputs that are looked at, and batches that are closed early, at a time."""


LOOK_AHEAD = 8 << 20
"""Bytes of a batch's rows that are planned at a time: thinking a large plan over would keep online requests waiting."""


def spec_of(serving: Serving, standing: Standing, begun: Begun) -> JobSpec:
    """What the job of a batch is to do."""
    asked, uri_of = standing.asked, serving.files.uri_of
    own: dict[str, Any] = {
        "inputs": [uri_of(asked.input_content)],
        "output": uri_of(_output(asked.id)),
        "errors": uri_of(_errors(asked.id)),
        "state": serving.batches.state_of(asked.id),
        "accept_change": _MAY_CHANGE,
        "format": "batch",
        "look_ahead": min(serving.spec.look_ahead, LOOK_AHEAD),
    }
    unset = ["output_format", "request", "parse", "columns", "max_output_file", "deadline", "retry_failed"]
    off = ["restart", "extend", "with_input"]
    if standing.early is not None:
        own["served_model_name"] = [*serving.spec.served_model_name, *begun.models]
    return serving.spec.model_copy(update={**dict.fromkeys(unset), **dict.fromkeys(off, False), **own})


def starter_of(serving: Serving, standing: Standing, begun: Begun) -> Starter:
    """Who has the engine of a batch's job.

    Raises UsageError if what its rows ask for is not served any more.
    """
    if standing.early is not None:
        return ClosingStarter(_FAILURES[standing.early])
    if unknown := sorted(set(begun.models) - set(serving.models())):
        raise UsageError(f"its rows ask for {', '.join(unknown)}, which is not served any more")
    return serving.starter()


def settled(state: str) -> Counts:
    """What a job has settled by its state, if it has begun. Raises StorageError."""
    folder = StateFolder(state)
    if not folder.begun:
        return Counts()
    seen = look(folder)
    rows, usage = seen["request_counts"], seen["usage"]
    tokens = (usage["prompt_tokens"], usage["completion_tokens"])
    return Counts(rows["completed"], rows["failed"], rows["retryable"], *tokens)


def has_input(serving: Serving, standing: Standing) -> bool:
    """Whether what is to be read is still there. Raises StorageError."""
    return storage.size_of(serving.files.uri_of(standing.asked.input_content)) is not None


def note_finalizing(serving: Serving, batch: str) -> None:
    """Keep how a batch ends, and what its files are called: all its rows have their outcomes."""
    ends: tuple[tuple[str, End], ...] = (("cancelling", "cancelled"), ("expiring", "expired"))
    end: End = next((end for name, end in ends if serving.batches.has(batch, name)), "completed")
    finalizing = Finalizing(int(time.time()), end, new_id("file-"), new_id("file-"))
    serving.batches.note(batch, "finalizing", finalizing)


def conclude(serving: Serving, batch: str, report: dict[str, Any]) -> None:
    """Make files of what a job has written, and end its batch; to do so twice changes nothing."""
    standing = serving.batches.read(batch)
    if standing is None or standing.ended is not None or (final := standing.finalizing) is None:
        return
    outputs = {output["uri"].rpartition("/")[2]: output for output in report["outputs"]}
    output_file = _file(serving.files, standing.asked, final.output_file_id, outputs[_output(batch)])
    error_file = _file(serving.files, standing.asked, final.error_file_id, outputs[_errors(batch)])
    crash.here("batch-filed")
    counts, usage = report["request_counts"], report["usage"]
    rows = (counts["total"], counts["completed"], counts["failed"])
    tokens = (usage["prompt_tokens"], usage["completion_tokens"])
    ended = Ended(int(time.time()), final.end, [], *rows, *tokens, output_file, error_file)
    serving.batches.note(batch, "ended", ended)


def _file(files: Files, asked: Asked, file_id: str, output: dict[str, Any]) -> str | None:
    """Make a file of an output; its id, or None for one without rows, which is removed."""
    name = output["uri"].rpartition("/")[2]
    if not output["rows"]:
        storage.remove(files.uri_of(name))
        return None
    created_at = int(made_at(file_id))
    expires_at = None if asked.output_lifetime_s is None else created_at + asked.output_lifetime_s
    files.put(FileRecord(file_id, output["num_bytes"], created_at, name, "batch_output", name, expires_at))
    return file_id


def _output(batch: str) -> str:
    return f"{batch}-output.jsonl"


def _errors(batch: str) -> str:
    return f"{batch}-errors.jsonl"
