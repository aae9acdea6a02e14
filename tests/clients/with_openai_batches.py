"""OpenAI's client against xbatch: files and batches."""

import json
import time
from typing import Any

import openai
from checking import ANSWER, MESSAGES, MODEL, OTHER_ANSWER, OTHER_QUESTION, QUESTION, URL, check, raises, same

CHAT = "/v1/chat/completions"
OVER = {"completed", "failed", "expired", "cancelled"}
PATIENCE_S = 60

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")


def line(custom_id: str, url: str = CHAT, **body: Any) -> str:
    whole = {"model": MODEL, "temperature": 0, "max_tokens": 32, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": whole}) + "\n"


def upload(text: str, name: str = "rows.jsonl") -> Any:
    return client.files.create(file=(name, text.encode()), purpose="batch")


def start(text: str, endpoint: str = CHAT, **fields: Any) -> Any:
    given = upload(text).id
    return client.batches.create(input_file_id=given, endpoint=endpoint, completion_window="24h", **fields)


def wait(batch: Any) -> Any:
    """The batch when it is over."""
    until = time.monotonic() + PATIENCE_S
    while batch.status not in OVER:
        assert time.monotonic() < until, f"still {batch.status}: {batch.request_counts}"
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def rows(file_id: str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in client.files.content(file_id).text.splitlines()]


def counts(batch: Any) -> tuple[int, int, int]:
    return batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed


@check
def keeps_files() -> None:
    text = line("a", messages=MESSAGES)
    made = upload(text, "mine.jsonl")
    same((made.object, made.purpose, made.filename, made.bytes), ("file", "batch", "mine.jsonl", len(text)))
    assert made.status in {"uploaded", "processed"}
    assert abs(made.created_at - time.time()) < 60
    same(client.files.retrieve(made.id).id, made.id)
    same(client.files.content(made.id).text, text)
    gone = client.files.delete(made.id)
    same((gone.id, gone.object, gone.deleted), (made.id, "file", True))
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with raises(openai.NotFoundError, made.id):
            ask(made.id)


@check
def lists_files_page_by_page() -> None:
    made = [upload(line(str(i), messages=MESSAGES)).id for i in range(3)]
    all_ids = [each.id for each in client.files.list(limit=2, order="asc")]
    same([each for each in all_ids if each in made], made)
    page = client.files.list(limit=2, purpose="batch")
    same((len(page.data), page.has_more), (2, True))
    newest = [each.id for each in client.files.list(limit=2, order="desc")]
    same([each for each in newest if each in made], made[::-1])


@check
def refuses_files_it_cannot_use() -> None:
    with raises(openai.BadRequestError):
        client.files.create(file=("a.jsonl", b"{}\n"), purpose="no-such-purpose")


@check
def runs_a_batch_of_chats() -> None:
    text = line("first", messages=MESSAGES) + line("second", messages=[{"role": "user", "content": OTHER_QUESTION}])
    batch = start(text, metadata={"team": "whales"})
    same((batch.object, batch.endpoint, batch.completion_window), ("batch", CHAT, "24h"))
    assert batch.status in {"validating", "in_progress", "finalizing", "completed"}
    done = wait(batch)
    same((done.status, counts(done), done.metadata), ("completed", (2, 2, 0), {"team": "whales"}))
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    found = {each["custom_id"]: each["response"]["body"] for each in rows(done.output_file_id)}
    said = {name: body["choices"][0]["message"]["content"] for name, body in found.items()}
    same(said, {"first": ANSWER, "second": OTHER_ANSWER})
    same(client.files.retrieve(done.output_file_id).purpose, "batch_output")
    same(done.error_file_id, None)


@check
def runs_a_batch_of_completions() -> None:
    done = wait(start(line("a", "/v1/completions", prompt=QUESTION), "/v1/completions"))
    same((done.status, counts(done)), ("completed", (1, 1, 0)))
    (row,) = rows(done.output_file_id)
    same((row["response"]["status_code"], row["response"]["body"]["choices"][0]["text"]), (200, ANSWER))


@check
def puts_failed_rows_into_a_file_of_their_own() -> None:
    text = line("good", messages=MESSAGES) + line("bad", messages=MESSAGES, temperature=-1)
    done = wait(start(text))
    same((done.status, counts(done)), ("completed", (2, 1, 1)))
    same([each["custom_id"] for each in rows(done.output_file_id)], ["good"])
    same([each["custom_id"] for each in rows(done.error_file_id)], ["bad"])


@check
def tells_the_lines_that_are_wrong() -> None:
    done = wait(start(line("a", messages=MESSAGES) + "this is not JSON\n"))
    same(done.status, "failed")
    same([each.line for each in done.errors.data], [2])
    assert done.errors.data[0].code
    assert done.errors.data[0].message


@check
def lists_batches_newest_first() -> None:
    made = [start(line("a", messages=MESSAGES)).id for _ in range(3)]
    # Others make batches at the same time.
    same([each.id for each in client.batches.list(limit=2) if each.id in made], made[::-1])
    page = client.batches.list(limit=1, after=made[-1])
    same((len(page.data), page.has_more), (1, True))
    assert page.data[0].created_at <= client.batches.retrieve(made[-1]).created_at
    same({wait(client.batches.retrieve(each)).status for each in made}, {"completed"})


@check
def cancels_a_batch() -> None:
    """Rows in flight are answered, the others are told to have been cancelled."""
    num_rows = 3000
    # No two rows are alike, else the first answer would be that of all.
    bodies = [{"messages": MESSAGES, "ignore_eos": True, "user": f"u-{i}"} for i in range(num_rows)]
    batch = start("".join(line(str(i), **body) for i, body in enumerate(bodies)))
    while batch.status == "validating":
        batch = client.batches.retrieve(batch.id)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status in {"cancelling", "cancelled"}
    done = wait(cancelled)
    same(done.status, "cancelled")
    assert done.cancelling_at <= done.cancelled_at
    answered = rows(done.output_file_id) if done.output_file_id else []
    assert len(answered) < num_rows
    told = rows(done.error_file_id) if done.error_file_id else []
    same({each["error"]["code"] for each in told} - {"batch_cancelled"}, set())
    same(len(answered) + len(told), num_rows)


@check
def refuses_batches_that_cannot_be() -> None:
    given = upload(line("a", messages=MESSAGES)).id
    with raises(openai.BadRequestError):
        client.batches.create(input_file_id=given, endpoint="/v1/no/such", completion_window="24h")
    with raises(openai.APIStatusError, "file-none"):
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    for ask in (client.batches.retrieve, client.batches.cancel):
        with raises(openai.NotFoundError, "batch_none"):
            ask("batch_none")
