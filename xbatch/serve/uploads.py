"""What a client sends as a form (RFC 7578), its file spooled on this machine."""

import secrets
from asyncio import to_thread
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from xbatch import storage
from xbatch.display import counted
from xbatch.serve.errors import ApiProblem

FILE = "file"
MAX_PARTS = 32
MAX_TEXT_BYTES = 64 << 10
"""All that is not the file: names, headers, values of fields."""
_FORM = "multipart/form-data"
_MAX_NAME = 255


@dataclass(slots=True)
class Upload:
    """A form that has come in."""

    path: Path
    """The spooled file; synced."""
    filename: str = ""
    num_bytes: int = 0
    fields: dict[str, str] = field(default_factory=dict)


class _Form:
    """Takes a form apart as it comes in, and keeps no more of its file than the last piece."""

    def __init__(self, boundary: bytes, upload: Upload, max_file_bytes: int) -> None:
        self.pending = bytearray()
        """Of the file, to be written."""
        self.ended = False
        self._upload = upload
        self._max_file_bytes = max_file_bytes
        self._parts = self._text_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name, self._text = "", bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._take(self._header, data[start:end]),
                "on_header_value": lambda data, start, end: self._take(self._value, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_data,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Take in the next bytes of the body. Raises ApiProblem."""
        try:
            self._parser.write(data)
        except FormParserError as e:
            raise ApiProblem(400, f"the body is no form: {e}") from e

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ApiProblem(400, f"the form has more than {MAX_PARTS} parts")
        self._disposition, self._text = b"", bytearray()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == FILE:
            if self._upload.filename:
                raise ApiProblem(400, "the form has more than one file", param=FILE)
            given = options.get(b"filename", b"").decode("utf-8", "replace")
            self._upload.filename = given.rpartition("/")[2][:_MAX_NAME] or "upload.jsonl"

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._name != FILE:
            self._take(self._text, data[start:end])
            return
        self._upload.num_bytes += end - start
        if self._upload.num_bytes > self._max_file_bytes:
            raise too_large(self._max_file_bytes)
        self.pending += data[start:end]

    def _end_part(self) -> None:
        if self._name != FILE:
            self._upload.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True

    def _take(self, buffer: bytearray, data: bytes) -> None:
        self._text_bytes += len(data)
        if self._text_bytes > MAX_TEXT_BYTES:
            raise ApiProblem(413, f"the form has more than {MAX_TEXT_BYTES:,} bytes beside its file")
        buffer += data


async def receive(request: HttpRequest, folder: Path, max_file_bytes: int) -> Upload:
    """Take in a form, its file into a spooled one in `folder`; who calls removes that.

    Raises ApiProblem, and OSError if the disk is in trouble.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != _FORM.encode() or not options.get(b"boundary"):
        raise ApiProblem(400, f"the body must be a form ({_FORM} with a boundary)")
    if int(request.headers.get("content-length") or 0) > max_file_bytes + 2 * MAX_TEXT_BYTES:
        raise too_large(max_file_bytes)
    upload = Upload(folder / f"upload-{secrets.token_hex(8)}")
    form = _Form(options[b"boundary"], upload, max_file_bytes)
    try:
        with open(upload.path, "xb") as spooled:  # noqa: ASYNC230 - on a disk of this machine, and empty
            await _spool(request, form, spooled)
    except BaseException as e:
        upload.path.unlink(missing_ok=True)
        if isinstance(e, ClientDisconnect):
            raise ApiProblem(400, "the body ended too early") from e
        raise
    return upload


async def _spool(request: HttpRequest, form: _Form, spooled: BinaryIO) -> None:
    async for data in request.stream():
        form.write(data)
        if len(form.pending) >= storage.READ_BUFFER_BYTES:
            written, form.pending = form.pending, bytearray()
            await to_thread(spooled.write, written)
    if not form.ended:
        raise ApiProblem(400, "the form has no end")
    spooled.write(form.pending)
    await to_thread(storage.sync_file, spooled)


def too_large(max_file_bytes: int) -> ApiProblem:
    """Return the answer to a file that is over the limit."""
    return ApiProblem(413, f"the file is larger than {counted(max_file_bytes, 'byte')} (--max-file)", param=FILE)
