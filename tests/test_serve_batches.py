"""OpenAI's Batches as its client sees them, with the fake engine."""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
from offline import CHAT, Desk, content, desk, line, once_each
from servers import Place

from xbatch.errors import StorageError
from xbatch.rows.outcome import Failure
from xbatch.serve import checking, files
from xbatch.serve.batches import Batches
from xbatch.state.folder import StateFolder
from xbatch.state.lease import Lease

SLOW = {"delay_s": 0.02, "max_in_flight": 4}


def at_desk(folder: Path, visit: Callable[[Desk], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Visit a desk."""

    async def go() -> None:
        async with desk(folder, **settings) as found:
            await visit(found)

    asyncio.run(go())


def test_a_batch_from_file_to_answers(tmp_path: Path) -> None:
    """Answers come in input order, failures in a file of their own; counts, times and tokens add up."""

    async def visit(at: Desk) -> None:
        batch = await at.begin(range(20), metadata={"run": "1"})
        assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", CHAT, "24h")
        assert batch.expires_at == batch.created_at + 86_400
        done = await at.until(batch.id)
        output, errors = await at.answers(done)
        once_each(20, output, errors)
        assert [each["custom_id"] for each in errors] == ["id-3", "id-7"]
        assert {each["error"]["code"] for each in errors} == {"fake_failure"}
        assert all(each["error"] is None and each["response"]["status_code"] == 200 for each in output)
        assert output[0]["response"]["body"]["choices"][0]["message"]["content"] == "text 0"
        assert done.status == "completed"
        assert done.request_counts is not None
        assert done.usage is not None
        assert done.request_counts.to_dict() == {"total": 20, "completed": 18, "failed": 2}
        assert done.usage.output_tokens == 36
        assert done.usage.total_tokens == done.usage.input_tokens + 36
        assert done.usage.input_tokens_details.cached_tokens == done.usage.output_tokens_details.reasoning_tokens == 0
        assert (done.metadata, done.model, done.errors) == ({"run": "1"}, "demo", None)
        times = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
        assert None not in times
        assert times == sorted(times)
        assert (done.failed_at, done.expired_at, done.cancelling_at, done.cancelled_at) == (None,) * 4
        made = await at.client.files.retrieve(str(done.output_file_id))
        assert (made.purpose, made.filename) == ("batch_output", f"{batch.id}-output.jsonl")
        assert made.bytes == len((await at.client.files.content(made.id)).content)

    at_desk(tmp_path, visit, fail_on="3,7")
    assert [path.name for path in (tmp_path / "files/open").iterdir()] == []
    assert not list((tmp_path / "files/batches").glob("*/state")), "the job's state is needed no more"
    assert not list((tmp_path / "scratch").iterdir())


def test_files_without_rows_are_not_made(tmp_path: Path) -> None:
    """Where nothing failed there is no error file, where all did no output file."""

    async def visit(at: Desk) -> None:
        good = await at.until((await at.begin([0, 1])).id)
        at.engine._answer = lambda _: Failure("nothing", "to say")
        bad = await at.until((await at.begin([0, 1])).id)
        assert good.error_file_id is None
        assert bad.output_file_id is None
        assert len(await at.lines(good.output_file_id)) == len(await at.lines(bad.error_file_id)) == 2
        assert [file.purpose async for file in at.client.files.list(purpose="batch_output")] == ["batch_output"] * 2

    at_desk(tmp_path, visit)
    assert len(list((tmp_path / "files/contents").iterdir())) == 4


@pytest.mark.parametrize(
    ("row", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        (line(9).replace('"demo"', "NaN"), "invalid_json_line", None),
        ("[1]", "body_not_object", "body"),
        (line(9, custom_id=None), "missing_required_parameter", "custom_id"),
        (line(9, method=None), "missing_required_parameter", "method"),
        (line(9, url=None), "missing_required_parameter", "url"),
        (line(9, body=None), "missing_required_parameter", "body"),
        (json.dumps({"messages": []}), "missing_required_parameter", "custom_id"),
        (line(9, custom_id=5), "invalid_custom_id", "custom_id"),
        (line(9, custom_id=""), "invalid_custom_id", "custom_id"),
        (line(1), "duplicate_custom_id", "custom_id"),
        (line(9, method="GET"), "invalid_method", "method"),
        (line(9, url="/v1/embeddings"), "invalid_url", "url"),
        (line(9, url="/v1/completions", body={"model": "demo", "prompt": "a"}), "url_mismatch", "url"),
        (line(9, body=[]), "body_not_object", "body"),
        (line(9, body={"model": "other", "messages": []}), "model_not_found", "body.model"),
    ],
)
def test_mistakes_in_the_input(tmp_path: Path, row: str, code: str, param: str | None) -> None:
    """One line that can't be sent fails the batch before anything is answered, and is named; blank lines count."""

    async def visit(at: Desk) -> None:
        failed = await at.until((await at.begin([line(0), "", line(1), row])).id)
        assert failed.status == "failed"
        assert failed.failed_at is not None
        assert failed.errors is not None
        assert failed.errors.data is not None
        (mistake,) = failed.errors.data
        assert (mistake.code, mistake.line, mistake.param) == (code, 4, param)
        assert mistake.message
        assert "line 4" not in mistake.message, "the line is a field of its own"
        assert ":4" not in mistake.message
        assert (await at.client.batches.retrieve(failed.id)).input_file_id not in mistake.message
        assert failed.request_counts is not None
        assert failed.request_counts.total == 0
        assert next(at.engine._numbers) == 1, "the engine was asked"

    at_desk(tmp_path, visit)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (content(range(6)), "too_many_tasks"),
        (b"PK\x03\x04 and so on", "invalid_file"),
        (gzip.compress(content([0]))[:-9], "invalid_file"),
    ],
    ids=["empty", "blank", "many", "zip", "damaged"],
)
def test_files_that_are_no_input(tmp_path: Path, data: bytes, code: str) -> None:
    async def visit(at: Desk) -> None:
        failed = await at.until((await at.begin(data)).id)
        assert failed.errors is not None
        assert failed.errors.data is not None
        assert [each.code for each in failed.errors.data] == [code]

    at_desk(tmp_path, visit, settings={"max_batch_rows": 5})


def test_at_most_a_hundred_mistakes(tmp_path: Path) -> None:
    """They are the first ones, in order, repeats among them."""

    async def visit(at: Desk) -> None:
        failed = await at.until((await at.begin([line(0), line(0), *["{"] * 300, line(1), line(1)])).id)
        assert failed.errors is not None
        assert failed.errors.data is not None
        assert [each.line for each in failed.errors.data] == list(range(2, 102))

    at_desk(tmp_path, visit)


def test_inputs_that_are_right(tmp_path: Path) -> None:
    """Compressed lines, other names of the model, rows that name none, streams that are asked for: all are answered."""
    messages = [{"role": "user", "content": "a"}]
    rows = [line(0, body={"model": "style", "messages": messages}), "", line(1, body={"messages": messages})]
    rows.append(line(2, body={"model": "demo", "messages": messages, "stream": True}))

    async def visit(at: Desk) -> None:
        done = await at.until((await at.begin(gzip.compress(content(rows)))).id)
        assert done.status == "completed"
        once_each(3, (await at.answers(done))[0])

    at_desk(tmp_path, visit, names=("demo", "style"))


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"input_file_id": "../batches"}, 404, "input_file_id"),
        ({"input_file_id": "file-" + "0" * 24}, 404, "input_file_id"),
        ({"input_file_id": 5}, 400, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"completion_window": "0s"}, 400, "completion_window"),
        ({"completion_window": "400d"}, 400, "completion_window"),
        ({"completion_window": None}, 400, "completion_window"),
        ({"metadata": {f"k{i}": "" for i in range(17)}}, 400, "metadata"),
        ({"metadata": {"k" * 65: ""}}, 400, "metadata"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata"),
        ({"metadata": {"k": 5}}, 400, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, 400, "output_expires_after.seconds"),
    ],
)
def test_batches_that_are_refused(tmp_path: Path, change: dict[str, Any], status: int, param: str) -> None:
    """What is wrong with the request itself is told at once, in both dialects."""

    async def visit(at: Desk) -> None:
        file = await at.upload([0])
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "1h"} | change
        answer = await at.http.post("/v1/batches", json=asked)
        body = answer.json()
        assert (answer.status_code, body["error"]["param"]) == (status, param)
        assert body["detail"] == body["error"]["message"]
        assert (await at.client.batches.list()).data == []

    at_desk(tmp_path, visit)


def test_texts_that_are_no_unicode(tmp_path: Path) -> None:
    """Half a surrogate pair is refused, and never gets into the store."""

    async def visit(at: Desk) -> None:
        file = await at.upload([0])
        asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "1h", "metadata": {"a": "\ud800"}}
        answer = await at.http.post(
            "/v1/batches", content=json.dumps(asked), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400

    at_desk(tmp_path, visit)


def test_cancelled_halfway(tmp_path: Path) -> None:
    """Rows in flight are finished, the others told to be cancelled, each once; cancelling twice is harmless."""

    async def visit(at: Desk) -> None:
        batch = await at.begin(range(100))
        await at.until(batch.id, completed=10)
        cancelling = await at.client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        await at.client.batches.cancel(batch.id)
        done = await at.until(batch.id)
        assert done.status == "cancelled"
        assert done.cancelling_at is not None
        assert done.cancelled_at is not None
        output, errors = await at.answers(done)
        once_each(100, output, errors)
        assert 10 <= len(output) < 100
        assert {each["response"] for each in errors} == {None}
        assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
        assert next(at.engine._numbers) == len(output) + 1, "a row in flight was not finished"
        assert (await at.client.batches.cancel(batch.id)).status == "cancelled"

    at_desk(tmp_path, visit, **SLOW)


def test_expired(tmp_path: Path) -> None:
    """Once its time is over, a batch keeps what is finished and tells of the other rows that they have expired."""

    async def visit(at: Desk) -> None:
        running = await at.begin(range(2000), "3s")
        await at.until(running.id, completed=1)
        waiting = await at.begin(range(5), "1s")
        done = await at.until(running.id)
        assert done.status == "expired"
        assert done.expired_at is not None
        assert done.expires_at is not None
        assert done.expired_at >= done.expires_at
        output, errors = await at.answers(done)
        once_each(2000, output, errors)
        assert output
        assert {each["error"]["code"] for each in errors} == {"batch_expired"}
        never = await at.until(waiting.id)
        assert (never.status, never.output_file_id) == ("expired", None)
        once_each(5, await at.lines(never.error_file_id))
        with pytest.raises(openai.ConflictError):
            await at.client.batches.cancel(running.id)

    at_desk(tmp_path, visit, settings={"max_running_batches": 1}, **SLOW)


def test_cancelled_while_validating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose input is still being looked at ends at once, without files."""
    look_on = threading.Event()
    parse = checking.parse
    monkeypatch.setattr(checking, "parse", lambda row: look_on.wait(20) and parse(row))

    async def visit(at: Desk) -> None:
        batch = await at.begin(range(5))
        assert batch.status == "validating"
        await asyncio.sleep(0.2)
        assert (await at.client.batches.cancel(batch.id)).status == "cancelling"
        look_on.set()
        done = await at.until(batch.id)
        assert (done.status, done.output_file_id, done.error_file_id) == ("cancelled", None, None)

    at_desk(tmp_path, visit)


def test_batches_wait_for_their_turn(tmp_path: Path) -> None:
    """So many run at a time; one that waits is in progress without a row, and can be cancelled at once."""

    async def visit(at: Desk) -> None:
        first = await at.begin(range(4000))
        await at.until(first.id, completed=1)
        second, third = await at.begin(range(60)), await at.begin(range(60))
        await at.until(second.id, "in_progress")
        await at.client.batches.cancel(second.id)
        cancelled = await at.until(second.id)
        assert (await at.client.batches.retrieve(first.id)).status == "in_progress"
        assert cancelled.request_counts is not None
        assert cancelled.request_counts.to_dict() == {"total": 60, "completed": 0, "failed": 60}
        figures = at.offline.runner.figures
        assert figures.running == 1
        assert 0 < figures.in_flight <= 4
        assert figures.waiting == 60 + 4000 - figures.in_flight - at.offline.runner.counts(first.id).total
        await at.client.batches.cancel(first.id)
        assert [(await at.until(each.id)).status for each in (first, third)] == ["cancelled", "completed"]
        rows = at.offline.runner.figures.rows
        assert (rows["in_flight"], rows["waiting"], rows["completed"] + rows["failed"]) == (0, 0, 4120)

    at_desk(tmp_path, visit, settings={"max_running_batches": 1}, **SLOW)


def test_pages_of_batches(tmp_path: Path) -> None:
    """The newest comes first, and the client's own way to turn pages finds every batch once."""

    async def visit(at: Desk) -> None:
        file = await at.upload([0])
        window: Any = "1h"
        ids = [
            (await at.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window)).id
            for _ in range(5)
        ]
        assert [each.id async for each in at.client.batches.list(limit=2)] == ids[::-1]
        page = (await at.http.get("/v1/batches", params={"limit": 3})).json()
        assert (page["object"], page["has_more"]) == ("list", True)
        assert (page["first_id"], page["last_id"]) == (ids[4], ids[2])
        for limit in (0, 101):
            assert (await at.http.get("/v1/batches", params={"limit": limit})).status_code == 400
        for each in ids:
            await at.until(each)

    at_desk(tmp_path, visit)


def test_files_of_batches(tmp_path: Path) -> None:
    """An input can't be removed before its batch has ended; then everything can, and the batch stays."""

    async def visit(at: Desk) -> None:
        batch = await at.begin(range(60))
        with pytest.raises(openai.ConflictError, match="has not ended"):
            await at.client.files.delete(batch.input_file_id)
        done = await at.until(batch.id)
        for file in (done.input_file_id, str(done.output_file_id)):
            assert (await at.client.files.delete(file)).deleted
            with pytest.raises(openai.NotFoundError):
                await at.client.files.content(file)
        assert (await at.client.batches.retrieve(batch.id)).output_file_id == done.output_file_id

    at_desk(tmp_path, visit, **SLOW)
    assert not list((tmp_path / "files/contents").iterdir())


def test_outputs_that_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a batch are gone after the time that was asked for, and so is what they hold."""

    async def visit(at: Desk) -> None:
        batch = await at.begin([0], output_expires_after={"anchor": "created_at", "seconds": 3600})
        done = await at.until(batch.id)
        file = await at.client.files.retrieve(str(done.output_file_id))
        assert file.expires_at == file.created_at + 3600
        with monkeypatch.context() as later:
            later.setattr(files.time, "time", lambda: file.created_at + 3600)
            with pytest.raises(openai.NotFoundError):
                await at.client.files.retrieve(file.id)
        assert [each.id async for each in at.client.files.list()] == [done.input_file_id]

    at_desk(tmp_path, visit)
    assert len(list((tmp_path / "files/contents").iterdir())) == 1


def test_stopped_and_started_again(tmp_path: Path) -> None:
    """A server that is stopped lets rows in flight finish; another goes on, and asks for no row a second time."""
    found: list[str] = []

    async def begin(at: Desk) -> None:
        batch = await at.begin(range(60))
        await at.until(batch.id, completed=5)
        found.append(batch.id)

    async def go_on(at: Desk) -> None:
        done = await at.until(found[0])
        assert done.status == "completed"
        once_each(60, (await at.answers(done))[0])

    log = tmp_path / "asked"
    at_desk(tmp_path, begin, log=str(log), **SLOW)
    assert 5 <= len(log.read_text().splitlines()) < 60
    at_desk(tmp_path, go_on, log=str(log))
    asked = [row for row in log.read_text().splitlines() if row != "start"]
    assert sorted(map(int, asked)) == list(range(60))


def test_names_that_are_served_no_more(tmp_path: Path) -> None:
    """A batch waits while its rows' model is not served, shows what is settled, and goes on when it is again."""
    found: list[str] = []

    async def begin(at: Desk) -> None:
        batch = await at.begin([line(i, body={"model": "style", "messages": [{"content": "a"}]}) for i in range(60)])
        await at.until(batch.id, completed=5)
        found.append(batch.id)

    async def wait(at: Desk) -> None:
        waiting = await at.until(found[0], "in_progress", completed=5)
        assert waiting.request_counts is not None
        assert waiting.request_counts.total == 60
        await at.hears("style", "not served")

    async def go_on(at: Desk) -> None:
        assert (await at.until(found[0])).status == "completed"

    async def cancel(at: Desk) -> None:
        found[:] = [(await at.begin([line(0, body={"model": "style", "messages": [{"content": "a"}]})])).id]
        await at.until(found[0], "in_progress")

    async def end(at: Desk) -> None:
        await at.client.batches.cancel(found[0])
        assert (await at.until(found[0])).status == "cancelled"

    at_desk(tmp_path, begin, names=("demo", "style"), **SLOW)
    at_desk(tmp_path, wait)
    at_desk(tmp_path, go_on, names=("demo", "style"))
    at_desk(tmp_path, cancel, names=("demo", "style"), delay_s=9, spec={"drain_s": 0})
    at_desk(tmp_path, end)


def test_dying_engine(tmp_path: Path) -> None:
    """A batch outlives the death of the engine."""

    async def visit(at: Desk) -> None:
        done = await at.until((await at.begin(range(40))).id)
        once_each(40, (await at.answers(done))[0])
        assert at.engine.starts == 2

    at_desk(tmp_path, visit, crash_on=10)


def test_store_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is tried again for as long as the store is in trouble; requests are told to come again."""
    note, failures = Batches.note, 2

    def failing(self: Batches, batch: str, name: str, event: Any) -> None:
        nonlocal failures
        if name in ("begun", "finalizing") and failures:
            failures -= 1
            raise StorageError("no room")
        note(self, batch, name, event)

    monkeypatch.setattr(Batches, "note", failing)

    async def visit(at: Desk) -> None:
        done = await at.until((await at.begin(range(5))).id)
        assert done.status == "completed"
        with monkeypatch.context() as trouble:
            trouble.setattr(Batches, "read", note_is_down)
            answer = await at.http.get(f"/v1/batches/{done.id}")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "secret" not in answer.text
        await at.hears("no room")

    def note_is_down(*_: Any) -> None:
        raise StorageError("secret place: no answer")

    at_desk(tmp_path, visit)
    assert failures == 0


def test_job_that_another_process_has(tmp_path: Path) -> None:
    """A batch that another process is at work on is left alone, and taken up once it is free."""

    async def visit(at: Desk) -> None:
        file = await at.upload([0, 1])
        create = Batches.create
        held: list[Lease] = []

        def hold(self: Batches, asked: Any) -> None:
            state = StateFolder(self.state_of(asked.id))
            lease = Lease(state.store, state.path)
            lease.claim()
            held.append(lease)
            create(self, asked)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Batches, "create", hold)
            window: Any = "1h"
            batch = await at.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window)
        await at.hears("is running this job")
        held[0].release()
        assert (await at.until(batch.id)).status == "completed"

    at_desk(tmp_path, visit)


def test_whole_way_in_an_object_store(tmp_path: Path, place: Place) -> None:
    """Files and batches lie in a store alone: another server with nothing on its disk finds them all."""

    async def visit(at: Desk) -> None:
        batch = await at.begin(range(50))
        await at.until(batch.id, completed=5)
        await at.client.batches.cancel(batch.id)
        done = await at.until(batch.id)
        once_each(50, *(await at.answers(done)))
        assert done.status == "cancelled"

    async def look_again(at: Desk) -> None:
        (batch,) = [each async for each in at.client.batches.list()]
        once_each(50, *(await at.answers(batch)))
        for file in [each async for each in at.client.files.list()]:
            await at.client.files.delete(file.id)
        assert [each async for each in at.client.files.list()] == []

    with pytest.MonkeyPatch.context() as patch:
        for name, see in (("one", visit), ("other", look_again)):
            (tmp_path / name).mkdir()
            patch.setenv("XDG_STATE_HOME", str(tmp_path / name / "home"))
            at_desk(tmp_path / name, see, files=f"{place.uri}/files", **SLOW)
    assert not list((tmp_path / "one/home").rglob("*.*"))
