"""OpenAI's Files: uploads, lists, contents, removal, and what is refused."""

import asyncio
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from offline import Desk, content, desk
from online import Online, fake_online
from test_serve_batches import at_desk

from xbatch.errors import StorageError
from xbatch.serve import files
from xbatch.serve.files import Files

MIB = 1 << 20
BOUNDARY = "frontier"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, data: str = "", *, filename: str | None = None) -> str:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n{data}\r\n'


FILE = part("file", "{}\n", filename="a.jsonl")
PURPOSE = part("purpose", "batch")
SOON = part("expires_after[anchor]", "created_at") + part("expires_after[seconds]", "9")
END = f"--{BOUNDARY}--\r\n"


def test_files_come_and_go(tmp_path: Path) -> None:
    """A file is what was uploaded, to the byte, under any name; once removed it is nowhere."""
    data = bytes(range(256)) * 5000

    async def visit(at: Desk) -> None:
        name = 'Über "alles"\r\n/ 字.jsonl'
        file = await at.client.files.create(file=(name, io.BytesIO(data)), purpose="batch")
        assert (file.object, file.bytes, file.purpose, file.status) == ("file", len(data), "batch", "processed")
        assert file.filename.endswith("字.jsonl")
        assert (file.expires_at, file.status_details) == (None, None)
        assert await at.client.files.retrieve(file.id) == file
        answer = await at.http.get(f"/v1/files/{file.id}/content")
        assert answer.content == data
        assert int(answer.headers["content-length"]) == len(data)
        gone = await at.client.files.delete(file.id)
        assert gone.to_dict() == {"id": file.id, "object": "file", "deleted": True}
        for ask in (at.client.files.retrieve, at.client.files.content, at.client.files.delete):
            with pytest.raises(openai.NotFoundError) as told:
                await ask(file.id)  # type: ignore[operator]
            assert isinstance(told.value.body, dict)
            assert told.value.body["param"] == "file_id"
        assert (await at.client.files.list()).data == []

    at_desk(tmp_path, visit)
    assert not list((tmp_path / "files/contents").iterdir())
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("file", ["file-", "file-" + "0" * 24, "..%2Fbatches%2Fx", "file-" + "g" * 24, "%00", "%FF"])
def test_ids_that_are_none(tmp_path: Path, file: str) -> None:
    async def visit(at: Desk) -> None:
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert (await at.http.request(method, f"/v1/files/{file}{path}")).status_code == 404

    at_desk(tmp_path, visit)


def test_lists(tmp_path: Path) -> None:
    """In the order of time, either way, of one purpose; pages follow each other."""

    async def visit(at: Desk) -> None:
        made = [(await at.upload([i])).id for i in range(5)]
        done = await at.until((await at.begin([9])).id)
        made += [done.input_file_id, str(done.output_file_id)]
        assert [each.id async for each in at.client.files.list()] == made[::-1]
        assert [each.id async for each in at.client.files.list(order="asc", limit=2)] == made
        assert [each.id async for each in at.client.files.list(purpose="batch", limit=1)] == made[-2::-1]
        page = (await at.http.get("/v1/files", params={"limit": 2, "after": made[5]})).json()
        assert {name: page[name] for name in page if name != "data"} == {
            "object": "list",
            "has_more": True,
            "first_id": made[4],
            "last_id": made[3],
        }
        for wrong in ({"limit": 0}, {"limit": "x"}, {"limit": 10_001}, {"order": "up"}):
            assert (await at.http.get("/v1/files", params=wrong)).status_code == 400

    at_desk(tmp_path, visit)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "application/json"}, "{}", 400),
        ({"content-type": "multipart/form-data"}, FILE + PURPOSE + END, 400),
        (FORM, "", 400),
        (FORM, "what is this", 400),
        (FORM, END, 400),
        (FORM, FILE + END, 400),
        (FORM, PURPOSE + END, 400),
        (FORM, FILE + part("purpose", "fine-tune") + END, 400),
        (FORM, FILE + FILE + PURPOSE + END, 400),
        (FORM, FILE + PURPOSE, 400),
        (FORM, PURPOSE + FILE[:-5], 400),
        (FORM, "".join(part(f"p{i}") for i in range(40)) + END, 400),
        (FORM, FILE + PURPOSE + part("more", "x" * (70 << 10)) + END, 413),
        (FORM, PURPOSE + part("file", "x" * (MIB + 1), filename="a") + END, 413),
        (FORM, FILE + PURPOSE + part("expires_after[seconds]", "7200") + END, 400),
        (FORM, FILE + PURPOSE + SOON + END, 400),
        (FORM, PURPOSE + part("file", "{}\n", filename="") + END, 200),
    ],
)
def test_forms(tmp_path: Path, headers: dict[str, str], body: str, status: int) -> None:
    """A form that is no upload is refused in both dialects, and leaves nothing behind."""

    async def visit(at: Desk) -> None:
        answer = await at.http.post("/v1/files", content=body.encode(), headers=headers)
        assert answer.status_code == status, answer.text
        if status != 200:
            assert answer.json()["detail"] == answer.json()["error"]["message"]
            assert (await at.client.files.list()).data == []

    at_desk(tmp_path, visit, settings={"max_file": MIB})
    assert not list((tmp_path / "scratch").iterdir())


def test_files_that_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is gone after the time that was asked for; what a batch still reads keeps its content."""

    async def visit(at: Desk) -> None:
        life: Any = {"anchor": "created_at", "seconds": 3600}
        made = [
            await at.client.files.create(file=io.BytesIO(content(range(40))), purpose="batch", expires_after=life)
            for _ in range(2)
        ]
        assert made[0].expires_at == made[0].created_at + 3600
        window: Any = "24h"
        batch = await at.client.batches.create(
            input_file_id=made[0].id, endpoint="/v1/chat/completions", completion_window=window
        )
        with monkeypatch.context() as later:
            later.setattr(files.time, "time", lambda: made[1].created_at + 3600.0)
            assert (await at.client.files.list(purpose="batch")).data == []
        assert len(list((tmp_path / "files/contents").glob("file-*"))) == 1
        assert (await at.until(batch.id)).status == "completed"

    at_desk(tmp_path, visit, delay_s=0.02, max_in_flight=4)


def test_store_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is down makes a request come again later, and leaves no half of a file."""

    def down(*_: Any) -> None:
        raise StorageError("secret place: no answer")

    async def visit(at: Desk) -> None:
        with monkeypatch.context() as trouble:
            trouble.setattr(Files, "put", down)
            with pytest.raises(openai.InternalServerError) as told:
                await at.upload([0])
            assert told.value.status_code == 503
            assert told.value.response.headers["retry-after"]
            assert "secret" not in str(told.value)
        assert "secret place: no answer" in at.told
        assert (await at.client.files.list()).data == []

    at_desk(tmp_path, visit)


def test_leftovers_are_swept(tmp_path: Path) -> None:
    """What an upload has left that was killed long ago goes away; younger ones and files stay."""

    async def go() -> None:
        async with desk(tmp_path) as at:
            file = await at.upload([0])
            old, young = "file-" + "0" * 24, files.new_id("file-")
            for name in (old, young):
                (tmp_path / "files/contents" / name).write_bytes(b"{}")
        async with desk(tmp_path):
            async with asyncio.timeout(10):
                while (tmp_path / "files/contents" / old).exists():
                    await asyncio.sleep(0.02)
        assert {path.name for path in (tmp_path / "files/contents").iterdir()} == {file.id, young}

    asyncio.run(go())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    with fake_online(tmp_path_factory.mktemp("uploads"), "--max-file", "80MiB") as found:
        yield found


def streamed(size: int) -> Iterator[bytes]:
    yield (PURPOSE + part("file", filename="large.jsonl")[:-2]).encode()
    for _ in range(size // MIB):
        yield b"x" * MIB
    yield f"\r\n{END}".encode()


def test_large_files_take_no_memory(server: Online) -> None:
    """A file goes in and comes out a piece at a time, whatever its size."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    with server.client() as client:
        file = client.post("/v1/files", content=streamed(72 * MIB), headers=FORM).json()
        assert file["bytes"] == 72 * MIB
        peak = process.memory_info().rss
        with client.stream("GET", f"/v1/files/{file['id']}/content") as answer:
            received = 0
            for data in answer.iter_bytes(MIB):
                assert data.count(b"x") == len(data)
                received += len(data)
                peak = max(peak, process.memory_info().rss)
        client.delete(f"/v1/files/{file['id']}")
    assert received == 72 * MIB
    assert peak - before < 40 * MIB


def test_files_over_the_limit(server: Online) -> None:
    """Whether or not it says beforehand how large it is, a file over the limit is refused."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as said:
        said.sendall(f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n".encode())
        said.sendall(f"Content-Length: {100 * MIB}\r\n\r\n".encode())
        assert b" 413 " in said.recv(MIB).splitlines()[0]
    with server.client() as client:
        try:
            status = client.post("/v1/files", content=streamed(82 * MIB), headers=FORM).status_code
        except httpx.TransportError:
            status = 413  # it was answered, and hung up, while there was more to send
    assert status == 413
    assert server.get("/v1/files").json()["data"] == []


def test_uploads_that_break_off(server: Online) -> None:
    """A client that goes away in the middle of an upload leaves nothing."""

    def broken() -> Iterator[bytes]:
        yield from (data for data, _ in zip(streamed(72 * MIB), range(5), strict=False))
        raise ConnectionError

    with server.client() as client, pytest.raises(ConnectionError):
        client.post("/v1/files", content=broken(), headers=FORM)
    assert server.get("/v1/files").json()["data"] == []
