"""OpenAI's Batches over HTTP."""

import math
import time
from typing import Annotated

from fastapi import APIRouter, Query

from xbatch.job.deadline import seconds
from xbatch.rows.request import ENDPOINTS
from xbatch.serve.batch_object import BatchList, BatchObject, CreateBatch
from xbatch.serve.batches import Asked, Batches, Happened, Standing
from xbatch.serve.errors import ApiProblem
from xbatch.serve.files import FileRecord, Files, new_id
from xbatch.serve.filing import no_file
from xbatch.serve.running import BatchRunner
from xbatch.serve.store_threads import StoreThreads

MAX_LISTED = 100
MAX_WINDOW_S = 366 * 86_400
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
"""Of `metadata`: pairs, characters of a key, characters of a value."""


def batches_router(batches: Batches, files: Files, runner: BatchRunner, threads: StoreThreads) -> APIRouter:
    """The routes of `/v1/batches`."""
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    async def find(batch_id: str) -> Standing:
        if (standing := await threads(batches.read, batch_id)) is None:
            raise ApiProblem(404, f"there is no batch {batch_id!r}", param="batch_id")
        return standing

    def shown(standing: Standing) -> BatchObject:
        return BatchObject.of(standing, runner.counts(standing.asked.id))

    @router.post("")
    async def create_batch(asked: CreateBatch) -> BatchObject:
        """Have the rows of a file answered."""
        window_s = _judged(asked)
        file = _usable(await threads(files.get, asked.input_file_id), asked.input_file_id)
        standing = Standing(_asked(asked, file, window_s))
        await threads(batches.create, standing.asked)
        runner.begin(standing.asked.id)
        return shown(standing)

    @router.get("")
    async def list_batches(
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20, after: str | None = None
    ) -> BatchList:
        """List batches, the newest first."""
        found, more = await threads(batches.page, limit, after)
        data = [shown(standing) for standing in found]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return BatchList(data=data, has_more=more, first_id=first, last_id=last)

    @router.get("/{batch_id}")
    async def retrieve_batch(batch_id: str) -> BatchObject:
        """Tell how a batch stands."""
        return shown(await find(batch_id))

    @router.post("/{batch_id}/cancel")
    async def cancel_batch(batch_id: str) -> BatchObject:
        """End a batch: rows that the engine has are finished, the others are not answered any more."""
        standing = await find(batch_id)
        if _is_to_cancel(standing):
            await threads(batches.note, batch_id, "cancelling", Happened(int(time.time())))
            runner.cancel(batch_id)
            standing = await find(batch_id)
        return shown(standing)

    return router


def _usable(file: FileRecord | None, file_id: str) -> FileRecord:
    if file is None:
        raise no_file(file_id, "input_file_id")
    if file.purpose != "batch":
        raise ApiProblem(400, f"the purpose of {file.id} is not 'batch'", param="input_file_id")
    return file


def _is_to_cancel(standing: Standing) -> bool:
    """False if a batch is cancelled already. Raises ApiProblem if it can't be any more."""
    if standing.status in ("completed", "failed", "expired", "finalizing"):
        text = f"{standing.asked.id} is {standing.status}, so it can't be cancelled"
        raise ApiProblem(409, text, param="batch_id", code="batch_not_cancellable")
    return standing.status in ("validating", "in_progress")


def _asked(asked: CreateBatch, file: FileRecord, window_s: float) -> Asked:
    now, lifetime = int(time.time()), asked.output_expires_after
    return Asked(
        new_id("batch_"),
        now,
        now + math.ceil(window_s),
        asked.endpoint,
        file.id,
        file.content,
        asked.completion_window,
        asked.metadata,
        lifetime.seconds if lifetime else None,
    )


def _judged(asked: CreateBatch) -> float:
    """How many seconds a batch may take. Raises ApiProblem if it is asked for in a wrong way."""
    if asked.endpoint not in ENDPOINTS:
        raise ApiProblem(400, f"the endpoint must be {' or '.join(ENDPOINTS)}", param="endpoint")
    metadata = asked.metadata or {}
    if len(metadata) > MAX_PAIRS:
        raise ApiProblem(400, f"metadata has {len(metadata)} pairs; {MAX_PAIRS} are allowed", param="metadata")
    for key, value in metadata.items():
        if len(key) > MAX_KEY or len(value) > MAX_VALUE:
            text = f"metadata: keys have up to {MAX_KEY} characters, values up to {MAX_VALUE}"
            raise ApiProblem(400, text, param="metadata")
        if not _is_unicode(key + value):
            raise ApiProblem(400, "metadata: half of a surrogate pair is no character", param="metadata")
    try:
        window_s = seconds(asked.completion_window)
    except ValueError as e:
        raise ApiProblem(400, f"completion_window: {e}", param="completion_window") from e
    if window_s > MAX_WINDOW_S:
        raise ApiProblem(400, "completion_window is longer than a year", param="completion_window")
    return window_s


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
