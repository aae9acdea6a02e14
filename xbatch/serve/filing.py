"""OpenAI's Files over HTTP."""

from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse

from xbatch import storage
from xbatch.serve.errors import ApiProblem
from xbatch.serve.files import FileRecord, Files
from xbatch.serve.store_threads import StoreThreads
from xbatch.serve.uploads import FILE, Upload, receive

MAX_FILE_BYTES = 200 << 20
MAX_LISTED = 10_000
TAKE_IN_S = 600.0
"""A large file takes its time on its way to a store."""
LIFETIME_S = (3600, 2_592_000)
"""Shortest and longest time after which a file can be told to expire."""
_BINARY = "application/octet-stream"
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": ["batch"]},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": LIFETIME_S[0], "maximum": LIFETIME_S[1]},
    },
}


class FileObject(BaseModel):
    """OpenAI's file object."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    expires_at: int | None = None
    status_details: str | None = None

    @classmethod
    def of(cls, record: FileRecord) -> "FileObject":
        """The object of a file."""
        return cls(
            id=record.id,
            bytes=record.num_bytes,
            created_at=record.created_at,
            filename=record.filename,
            purpose=record.purpose,
            expires_at=record.expires_at,
        )


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def files_router(files: Files, threads: StoreThreads, scratch: Path, max_file_bytes: int = MAX_FILE_BYTES) -> APIRouter:
    """The routes of `/v1/files`; uploads are spooled in `scratch`."""
    router = APIRouter(prefix="/v1/files", tags=["files"])
    body = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}

    async def find(file_id: str) -> FileRecord:
        if (record := await threads(files.get, file_id)) is None:
            raise no_file(file_id)
        return record

    @router.post("", openapi_extra={"requestBody": body})
    async def create_file(request: HttpRequest) -> FileObject:
        """Upload the input of a batch."""
        upload = await receive(request, scratch, max_file_bytes)
        try:
            lifetime_s = _judged(upload)
            take_in = partial(files.take_in, upload.path, upload.num_bytes, upload.filename, lifetime_s)
            return FileObject.of(await threads.within(TAKE_IN_S, take_in))
        finally:
            upload.path.unlink(missing_ok=True)

    @router.get("")
    async def list_files(
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> FileList:
        """List files in the order in which they were made."""
        found, more = await threads(files.page, purpose, limit, after, newest_first=order == "desc")
        data = [FileObject.of(record) for record in found]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return FileList(data=data, has_more=more, first_id=first, last_id=last)

    @router.get("/{file_id}")
    async def retrieve_file(file_id: str) -> FileObject:
        """Tell what a file is."""
        return FileObject.of(await find(file_id))

    @router.get("/{file_id}/content", response_class=StreamingResponse, responses={200: {"content": {_BINARY: {}}}})
    async def file_content(file_id: str) -> StreamingResponse:
        """Load what a file holds."""
        record = await find(file_id)
        return await _content(record, files.uri_of(record.content), threads)

    @router.delete("/{file_id}")
    async def delete_file(file_id: str) -> FileDeleted:
        """Remove a file, unless it is the input of a batch that has not ended."""
        record = await find(file_id)
        if file_id in await threads(files.in_use):
            text = f"{file_id} is the input of a batch that has not ended: cancel the batch, or wait for its end"
            raise ApiProblem(409, text, param="file_id", code="file_in_use")
        await threads(files.delete, record)
        return FileDeleted(id=file_id)

    return router


def no_file(file_id: str, param: str = "file_id") -> ApiProblem:
    """The answer where a file is not there."""
    return ApiProblem(404, f"there is no file {file_id!r}", param=param)


def _judged(upload: Upload) -> int | None:
    """After how many seconds a file that was uploaded is to expire, if it is. Raises ApiProblem."""
    fields = upload.fields
    if not upload.filename:
        raise ApiProblem(400, "the form has no file", param=FILE)
    if fields.get("purpose") != "batch":
        raise ApiProblem(400, "the purpose must be 'batch'", param="purpose")
    if (given := fields.get("expires_after[seconds]")) is None:
        return None
    if fields.get("expires_after[anchor]") != "created_at":
        raise ApiProblem(400, "expires_after.anchor must be 'created_at'", param="expires_after")
    if not (given.isdecimal() and LIFETIME_S[0] <= int(given[:12]) <= LIFETIME_S[1]):
        text = f"expires_after.seconds must be from {LIFETIME_S[0]} to {LIFETIME_S[1]}"
        raise ApiProblem(400, text, param="expires_after")
    return int(given)


async def _content(record: FileRecord, uri: str, threads: StoreThreads) -> StreamingResponse:
    if (file := await threads(_open, uri)) is None:
        raise no_file(record.id)

    async def streamed() -> AsyncGenerator[bytes, None]:
        try:
            while data := await threads(file.read, storage.READ_BUFFER_BYTES):
                yield data
        finally:
            threads.later(file.close)

    name = f"attachment; filename*=UTF-8''{quote(record.filename)}"
    headers = {"Content-Length": str(record.num_bytes), "Content-Disposition": name}
    return StreamingResponse(streamed(), media_type=_BINARY, headers=headers)


def _open(uri: str) -> BinaryIO | None:
    try:
        return storage.open_read(uri)
    except FileNotFoundError:
        return None
