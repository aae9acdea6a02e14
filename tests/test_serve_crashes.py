"""A server that is killed at any instant, and started again: files and batches go on from what lies in the store."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from offline import CHAT, ENDED, content
from online import Online, fake_online
from servers import Place

LOG = "asked.log"


def upload(server: Online, rows: int) -> str:
    with server.client() as client:
        form: dict[str, Any] = {"files": {"file": ("rows.jsonl", content(range(rows)))}, "data": {"purpose": "batch"}}
        return str(client.post("/v1/files", **form).json()["id"])


def begin(server: Online, file: str, window: str = "24h") -> dict[str, Any]:
    asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": window}
    found: dict[str, Any] = server.post("/v1/batches", asked).json()
    return found


def until(server: Online, batch: str, *statuses: str, completed: int = 0) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        found: dict[str, Any] = server.get(f"/v1/batches/{batch}").json()
        if found["status"] in (statuses or ENDED) and found["request_counts"]["completed"] >= completed:
            return found
        assert time.monotonic() < end, (found, server.said()[-4000:])
        time.sleep(0.02)


def dies(server: Online) -> None:
    """Wait until a server has killed itself."""
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(30)
    assert server.process.returncode == -9, server.said()[-4000:]


def once_each(server: Online, batch: dict[str, Any], rows: int) -> Counter[str]:
    """Every row of a batch has one line; how many there are of each code, or of none."""
    lines: list[dict[str, Any]] = []
    for name in ("output_file_id", "error_file_id"):
        if batch[name] is not None:
            file = server.get(f"/v1/files/{batch[name]}/content")
            lines += [json.loads(line) for line in file.text.splitlines()]
    assert Counter(line["custom_id"] for line in lines) == Counter(f"id-{i}" for i in range(rows))
    return Counter((line["error"] or {"code": ""})["code"] for line in lines)


def only(server: Online) -> dict[str, Any]:
    """The one batch that there is."""
    (found,) = server.get("/v1/batches").json()["data"]
    return dict(found)


def test_killed_in_the_middle_of_a_large_batch(tmp_path: Path) -> None:
    """5,000 rows, killed halfway: the next server finishes them, every row once, and asks for few a second time."""
    with fake_online(tmp_path, delay_s=0.02, max_in_flight=48, log=LOG) as server:
        batch = begin(server, upload(server, 5000))
        until(server, batch["id"], "in_progress", completed=2000)
        server.process.kill()
        server.process.wait()
    with fake_online(tmp_path, max_in_flight=48, log=LOG) as server:
        seen = only(server)
        assert (seen["id"], seen["request_counts"]["total"]) == (batch["id"], 5000)
        done = until(server, batch["id"])
        assert done["status"] == "completed"
        assert done["request_counts"] == {"total": 5000, "completed": 5000, "failed": 0}
        assert once_each(server, done, 5000) == {"": 5000}
    asked = Counter((tmp_path / LOG).read_text().split())
    del asked["start"]
    assert sum(asked.values()) <= 5000 + 64


def chain(folder: Path, batch: str, points: Sequence[str], rows: int, **engine: Any) -> dict[str, Any]:
    """Servers one after another, each killed at a point; the last one ends the batch."""
    for point in points:
        with fake_online(folder, ready=False, XBATCH_CRASH=point, **engine) as server:
            dies(server)
    with fake_online(folder, **engine) as server:
        done = until(server, batch)
        done["codes"] = once_each(server, done, rows)
        listed = {each["id"] for each in server.get("/v1/files").json()["data"]}
    assert listed == {done["input_file_id"], done["output_file_id"], done["error_file_id"]} - {None}
    assert not list((folder / "xbatch-files/batches").glob("*/state"))
    assert not list((folder / "xbatch-files/open").iterdir())
    assert {path.stem for path in (folder / "xbatch-files/files").iterdir()} == listed
    return done


def test_killed_at_every_step(tmp_path: Path) -> None:
    """From the mark of a new batch to what is cleared up after it."""
    with fake_online(tmp_path, XBATCH_CRASH="batch-marked") as server:
        file = upload(server, 40)
        with pytest.raises(httpx.TransportError):
            begin(server, file)
        dies(server)
    with fake_online(tmp_path, XBATCH_CRASH="batch-created") as server:
        assert server.get("/v1/batches").json()["data"] == [], "nobody was told of a batch"
        with pytest.raises(httpx.TransportError):
            begin(server, file)
        dies(server)
    (stray,) = (path.name for path in (tmp_path / "xbatch-files/open").iterdir()
                if not (tmp_path / "xbatch-files/batches" / path.name).exists())  # fmt: skip
    (tmp_path / "xbatch-files/open" / stray).rename(tmp_path / f"xbatch-files/open/batch_{'0' * 14}{stray[-10:]}")
    (batch,) = (path.name for path in (tmp_path / "xbatch-files/batches").iterdir())
    points = ["batch-begun", "row-submitted:20", "all-done", "batch-finalizing", "output-half:9", "output-published"]
    points += ["report-written", "batch-filed", "batch-ended", "batch-cleared"]
    done = chain(tmp_path, batch, points, 40, max_in_flight=4, fail_on="3,7", log=LOG)
    assert done["status"] == "completed"
    assert done["codes"] == {"": 38, "fake_failure": 2}


@pytest.mark.parametrize(("window", "code"), [("24h", "batch_cancelled"), ("2s", "batch_expired")])
def test_killed_while_it_ends_early(tmp_path: Path, window: str, code: str) -> None:
    """A batch that is cancelled, or too late, ends so, whatever is killed on the way."""
    slow = {"delay_s": 0.05, "max_in_flight": 4}
    point = "batch-cancelling" if code == "batch_cancelled" else "batch-expiring"
    with fake_online(tmp_path, XBATCH_CRASH=point, **slow) as server:
        batch = begin(server, upload(server, 400), window)["id"]
        if code == "batch_cancelled":
            until(server, batch, "in_progress", completed=4)
            with pytest.raises(httpx.TransportError):
                server.post(f"/v1/batches/{batch}/cancel", {})
        dies(server)
    points = ["wal-appended:200", "batch-finalizing", "output-built", "batch-filed"]
    done = chain(tmp_path, batch, points, 400, **slow)
    assert done["status"] == code.removeprefix("batch_")
    assert set(done["codes"]) == {"", code}


def test_killed_uploads_and_removals(tmp_path: Path) -> None:
    """A file is there whole or not at all, and a removal that was begun is ended."""
    for point in ("upload-received", "upload-published"):
        with fake_online(tmp_path, XBATCH_CRASH=point) as server:
            with pytest.raises(httpx.TransportError):
                upload(server, 3)
            dies(server)
    with fake_online(tmp_path, XBATCH_CRASH="file-deleting") as server:
        assert server.get("/v1/files").json()["data"] == []
        file = upload(server, 3)
        with pytest.raises(httpx.TransportError), server.client() as client:
            client.delete(f"/v1/files/{file}")
        dies(server)
    with fake_online(tmp_path, XBATCH_CRASH="content-deleted") as server:
        with pytest.raises(httpx.TransportError):
            server.get("/v1/files")
        dies(server)
    with fake_online(tmp_path) as server:
        assert server.get("/v1/files").json()["data"] == []
    assert not (tmp_path / "xbatch-files/contents" / file).exists()
    assert not list((tmp_path / "xbatch-files/files").iterdir())


def test_killed_over_an_object_store(tmp_path: Path, place: Place) -> None:
    """Where the store is far away, what is settled lies on this machine, and nothing is lost either."""
    words, env = ("--files", f"{place.uri}/files"), dict(place.env)
    with fake_online(tmp_path, *words, delay_s=0.02, max_in_flight=16, log=LOG, **env) as server:
        batch = begin(server, upload(server, 1000))
        until(server, batch["id"], "in_progress", completed=300)
        server.process.kill()
        server.process.wait()
    with fake_online(tmp_path, *words, max_in_flight=16, log=LOG, **env) as server:
        done = until(server, batch["id"])
        assert done["status"] == "completed"
        assert once_each(server, done, 1000) == {"": 1000}
    asked = (tmp_path / LOG).read_text().split()
    assert len(asked) <= 1000 + 2 + 64
