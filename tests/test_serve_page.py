"""The page at `/` and the API's description at `/docs`, in a real browser."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import httpx
import pytest
from chromium import Browser, Page
from online import Online, fake_online
from page_stub import Answers, serving
from servers import MissingServer

from xbatch.serve.front import OPEN_PATHS
from xbatch.serve.page import PAGE_PATHS

MARKUP = "<img src=x onerror=alert(1)><b>bold</b> & 'so on'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = chromium.running(tmp_path_factory.mktemp("chromium"))
    try:
        running = started.__enter__()
    except MissingServer as e:
        pytest.skip(str(e))
    yield running
    started.__exit__(None, None, None)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab in which no script fails, and that asks nobody but the server."""
    with browser.page() as tab:
        yield tab
        assert tab.complaints == []
        hosts = {tuple(httpx.URL(url).netloc.decode().split(":")) for url in tab.requested if url.startswith("http")}
        assert len(hosts) <= 1, "only one server was asked"
        assert {url.partition(":")[0] for url in tab.requested} <= {"http", "data", "blob"}


@pytest.fixture(scope="module")
def stub() -> Iterator[tuple[Answers, str]]:
    said = Answers()
    with serving(said) as found:
        yield said, found


@pytest.fixture
def answers(stub: tuple[Answers, str]) -> Answers:
    """What the server says, for a test to change."""
    stub[0].start_over()
    return stub[0]


@pytest.fixture
def address(stub: tuple[Answers, str]) -> str:
    return stub[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    """`xbatch serve` itself, with an engine that says again what it was told."""
    with fake_online(tmp_path_factory.mktemp("serve"), delay_s=0.02) as found:
        yield found


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def word(text: str, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, **fields}])


DONE = b"data: [DONE]\n\n"


def batch(name: str, status: str, counts: tuple[int, int, int], **fields: Any) -> dict[str, Any]:
    total, completed, failed = counts
    made = {"id": name, "object": "batch", "status": status, "endpoint": "/v1/chat/completions"}
    made |= {"created_at": int(time.time()) - 125, "output_file_id": None, "error_file_id": None}
    return {**made, "request_counts": {"total": total, "completed": completed, "failed": failed}, **fields}


def downloaded(page: Page, path: Path) -> bytes:
    """What the browser has put there, once it has."""
    deadline = time.monotonic() + chromium.WAIT_S
    while not (path.exists() and path.read_bytes()):
        assert time.monotonic() < deadline, list(path.parent.iterdir())
        page.run("1")
    return path.read_bytes()


# With the server itself.


def test_a_server_is_shown_and_talked_to(page: Page, server: Online) -> None:
    """The page of a real server has its model and figures that move, and streams a chat in which markup is text."""
    page.open(f"{server.address}/")
    page.wait_for("#state", "ready")
    assert (page.text("#model"), page.text("#abilities").split()) == ("demo", ["generate", "chat"])
    assert "2,048 tokens" in page.text("#facts")
    completed = server.status()["requests"]["completed"]
    page.type("#text", f"one {MARKUP} two\n")
    page.wait_for(".turn:nth-child(3) .said", "one")
    page.wait_for(".note", "First token after")
    assert page.text(".turn:nth-child(3) .said") == f"one {MARKUP} two"
    assert page.run("document.querySelectorAll('#talk img, #talk b').length") == 0
    server.wait_for("it is counted", lambda status: status["requests"]["completed"] > completed)
    page.run("polls[0]()")
    page.wait(f"Number(document.querySelector('#completed').innerText) > {completed}")
    assert page.refused == []


def test_stopping_ends_the_request(page: Page, server: Online) -> None:
    """What is stopped on the page stops in the engine."""
    page.open(f"{server.address}/")
    page.wait_for("#state", "ready")
    page.type("#text", "word " * 500 + "\n")
    page.wait_for(".turn:nth-child(3) .said", "word")
    page.run("polls[0]()")
    page.wait_for("#running", "1")
    page.click("#stop")
    page.wait_for(".note", "Stopped.")
    server.wait_for("it runs no more", lambda status: status["requests"]["running"] == 0)


def test_a_batch_is_watched_and_its_output_taken(page: Page, server: Online, tmp_path: Path) -> None:
    """A batch shows up, moves and ends before the eyes of the user, and its output is a click away."""
    page.download_to(tmp_path)
    page.open(f"{server.address}/")
    page.wait_for("#batches-note", "None yet")
    body = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    rows = [{"custom_id": f"id-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(20)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    with server.client() as client:
        sent = client.post("/v1/files", files={"file": ("in.jsonl", lines)}, data={"purpose": "batch"}).json()
        asked = {"input_file_id": sent["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made = client.post("/v1/batches", json=asked).json()
    page.run("polls[1]()")
    page.wait_for("#batches", made["id"])
    page.wait("polls[1]() && document.querySelector('#batches').innerText.includes('completed')")
    assert "20 of 20 requests" in page.text("#batches")
    page.click("#batches a")
    output = downloaded(page, tmp_path / f"{made['id']}-output.jsonl")
    assert [json.loads(line)["custom_id"] for line in output.splitlines()] == [row["custom_id"] for row in rows]
    assert page.refused == []


def test_a_server_with_a_key_that_loads(page: Page, tmp_path: Path) -> None:
    """A page that is opened early asks for the key, shows that the model loads, and says when to try again."""
    with fake_online(tmp_path, "--api-key", "secret", ready=False, start_s=2) as server:
        page.open(f"{server.address}/")
        page.wait_for("#key-form", "This server wants an API key.")
        page.type("#key", "secret\n")
        page.wait_for("#state", "loading")
        page.type("#text", "hello\n")
        page.wait_for(".note", "Try again in")
        page.wait_for("#state", "ready")
        page.press("Enter", "\r")
        page.wait_for(".turn:nth-child(5) .said", "hello")
        assert page.text("#abilities").split() == ["generate", "chat"]


# What is served.


def test_what_is_served(page: Page, address: str, answers: Answers) -> None:
    """The page names the model, its abilities and context, the engine's state and the figures, and keeps them fresh."""
    answers.status["requests"] = {"running": 3, "waiting": 1, "completed": 1234, "failed": 2}
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    assert page.run("document.title") == "demo · xbatch"
    assert page.text("#model") == "demo"
    assert page.text("#abilities").split() == ["generate", "chat"]
    assert "2,048 tokens" in page.text("#facts")
    assert "2 million parameters" in page.text("#facts")
    assert "vLLM 0.32.0 on CPU" in page.text("#engine")
    assert [page.text(f"#{name}") for name in ("running", "waiting", "completed", "failed")] == ["3", "1", "1,234", "2"]
    answers.status |= {"uptime_s": 16.0, "tokens": {"prompt": 100, "completion": 1000}}
    rows = {"in_flight": 8, "waiting": 4000, "completed": 56789, "failed": 0}
    answers.status["batches"] |= {"running": 1, "rows": rows, "tokens": {"prompt": 30, "completion": 2000}}
    page.run("polls[0]()")
    page.wait_for("#rate", "750")
    assert page.text("#tokens") == (
        "Online: 100 tokens read, 1,000 written. Batches: 30 tokens read, 2,000 written. Up for 16 seconds."
    )
    assert [page.text(f"#rows-{name}") for name in rows] == ["8", "4,000", "56,789", "0"]
    assert "Rows of batches" in page.text(".figures")
    assert page.refused == []


def test_states_of_the_engine(page: Page, address: str, answers: Answers) -> None:
    """Loading, restarting and failed are told apart in words and colours."""
    engine = answers.status["engine"]
    colours = set()
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    for state, restarts in (("loading", 0), ("ready", 0), ("restarting", 1), ("failed", 2)):
        engine |= {"state": state, "restarts": restarts}
        page.run("polls[0]()")
        page.wait_for("#state", state)
        colours.add(page.run("getComputedStyle(document.querySelector('#state')).color"))
    assert len(colours) == 3
    assert "Restarted 2 times." in page.text("#engine")
    page.wait_for("#notice", "The engine has failed")


def test_a_server_that_goes_and_comes_back(page: Page, answers: Answers) -> None:
    """Where nobody answers, the page says so and keeps asking."""
    with serving(answers) as address:
        page.open(f"{address}/")
        page.wait_for("#state", "ready")
        port = int(address.rpartition(":")[2])
    page.run("polls[0]()")
    page.wait_for("#notice", "The server does not answer. This page asks again every 2 seconds.")
    assert page.text("#state") == "no answer"
    with serving(answers, port):
        page.wait_for("#state", "ready")
        assert page.text("#notice") == ""


def test_nobody_asks_while_nobody_looks(page: Page, address: str, answers: Answers) -> None:
    """A hidden tab leaves the server alone, and is up to date as soon as it is seen again."""
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.run(
        "Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true}), window.away = true"
    )
    page.run("polls[0]()")
    polls = answers.polls
    answers.status["engine"]["state"] = "restarting"
    page.run("document.dispatchEvent(new Event('visibilitychange')), polls[0]()")
    assert answers.polls == polls
    page.run("window.away = false, document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for("#state", "restarting")


# Batches.


def test_batches(page: Page, address: str, answers: Answers) -> None:
    """Each batch shows how far it is, what went wrong with it, and its files."""
    answers.batches = [
        batch("batch_b", "in_progress", (5000, 1200, 50)),
        batch("batch_a", "completed", (10, 9, 1), output_file_id="file-1", error_file_id="file-2"),
        batch("batch_0", "failed", (0, 0, 0), errors={"data": [{"line": 7, "message": MARKUP}]}),
        batch("batch_1", "failed", (0, 0, 0), errors={"data": [{"line": None, "message": "file-a holds no request"}]}),
    ]
    answers.status["batches"]["running"] = 1
    page.open(f"{address}/")
    page.wait_for("#batches", "batch_0")
    going, done, failed = (page.text(f"#batches li:nth-child({i})") for i in (1, 2, 3))
    assert "in progress" in going
    assert "1,250 of 5,000 requests, 50 failed" in going
    assert "2 minutes ago" in going
    assert page.run("document.querySelector('#batches progress').position") == 0.25
    assert "10 of 10 requests, 1 failed" in done
    assert f"Line 7: {MARKUP}" in failed
    assert "more" not in failed
    assert page.text("#batches li:nth-child(4) .errors") == "file-a holds no request"
    assert page.text("#batches-running") == "1 running"
    answers.batches[0] = batch("batch_b", "in_progress", (5000, 4000, 50))
    answers.batches.insert(0, batch("batch_c", "validating", (0, 0, 0)))
    page.run("polls[1]()")
    page.wait_for("#batches li:nth-child(1)", "validating")
    page.wait_for("#batches li:nth-child(2)", "4,050 of 5,000")


@pytest.mark.parametrize(
    ("found", "more"), [(3, ""), (4, "And 1 more"), (18, "And 15 more"), (100, "And at least 97 more")]
)
def test_errors_of_a_batch(page: Page, address: str, answers: Answers, found: int, more: str) -> None:
    """The first three errors of a batch are shown, each line once, and how many more there are is said."""
    errors = [{"line": n, "message": "url is '/v1/nowhere'"} for n in range(1, found + 1)]
    answers.batches = [batch("batch_0", "failed", (0, 0, 0), errors={"data": errors})]
    page.open(f"{address}/")
    page.wait_for("#batches", "Line 3")
    lines = page.text("#batches .errors").splitlines()
    assert lines[:3] == [f"Line {n}: url is '/v1/nowhere'" for n in (1, 2, 3)]
    assert lines[3:] == ([f"{more}: see /v1/batches/batch_0."] if more else [])


def test_a_real_batch_that_fails(page: Page, server: Online) -> None:
    """The errors of a batch that a real server refuses name each line once, with no file before it."""
    good = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "demo", "messages": []},
    }
    bad = json.dumps(good | {"custom_id": "b", "url": "/v1/embeddings"})
    with server.client() as client:
        files = {"file": ("rows.jsonl", f"{json.dumps(good)}\n" + f"{bad}\n" * 18)}
        file = client.post("/v1/files", data={"purpose": "batch"}, files=files).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made = client.post("/v1/batches", json=asked).json()["id"]
    page.open(f"{server.address}/")
    page.wait_for("#batches", made)
    page.wait("polls[1]() && document.querySelector('#batches').innerText.includes('more')")
    lines = page.text("#batches li:nth-child(1) .errors").splitlines()
    assert lines[0].startswith("Line 2: url is '/v1/embeddings'")
    assert lines[3] == f"And 15 more: see /v1/batches/{made}."


@pytest.mark.parametrize("key", ["", "secret"])
def test_files_of_batches(page: Page, address: str, answers: Answers, tmp_path: Path, key: str) -> None:
    """The files of a batch are downloaded by a click, with the key where there is one."""
    answers.batches = [batch("batch_a", "completed", (1, 1, 0), output_file_id="file-1")]
    answers.files["file-1"] = b'{"custom_id": "a"}\n'
    answers.key = key
    page.download_to(tmp_path)
    page.open(f"{address}/")
    if key:
        page.wait_for("#key-form", "key")
        page.type("#key", f"{key}\n")
    page.wait_for("#batches", "Output")
    page.click("#batches a")
    assert downloaded(page, tmp_path / "batch_a-output.jsonl") == answers.files["file-1"]


# The conversation.


def test_a_conversation(page: Page, address: str, answers: Answers) -> None:
    """Answers come word by word, what was said before goes along, and markup is text, whoever it is from."""
    usage = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
    answers.stream = [event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])]
    answers.stream += [word(MARKUP), word(" 中文 🙂"), word("", finish_reason="stop")]
    answers.stream += [event(choices=[], usage=usage), DONE]
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.run("document.querySelector('.chat details').open = true")
    page.type("#system", "Be brief.")
    page.type("#temperature", "0.5")
    page.type("#max-tokens", "99")
    page.type("#text", "<i>first</i>")
    page.press("Enter", "\r", shift=True)
    page.type("#text", "line\n")
    page.wait_for(".turn:nth-child(3) .note", "12 tokens read, 34 written in")
    assert "First token after" in page.text(".note")
    assert page.text(".turn.you .said") == "<i>first</i>\nline"
    assert page.text(".turn:nth-child(3) .said") == f"{MARKUP} 中文 🙂"
    assert page.run("document.querySelectorAll('#talk img, #talk b, #talk i').length") == 0
    page.type("#text", "second\n")
    page.wait_for(".turn:nth-child(5) .note", "34 written")
    assert [path for path, _ in answers.asked] == ["/v1/chat/completions"] * 2
    body = answers.asked[1][1]
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.5, 99, True)
    assert [(each["role"], each["content"]) for each in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "<i>first</i>\nline"),
        ("assistant", f"{MARKUP} 中文 🙂"),
        ("user", "second"),
    ]
    page.click("#clear")
    assert page.run("document.querySelectorAll('.turn').length") == 0
    page.type("#text", "anew\n")
    page.wait_for(".turn:nth-child(3) .note", "34 written")
    assert [each["content"] for each in answers.asked[2][1]["messages"]] == ["Be brief.", "anew"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_streams_cut_anywhere(page: Page, address: str, answers: Answers, newline: str) -> None:
    """A stream is understood wherever it is cut, amid a character or a line's end too, and whatever ends its lines."""
    said = f": a comment\n\nid: 1\n{word('née 🙂 ').decode()}{word('中文').decode()}data:[DONE]\n\n"
    whole = said.replace("\\u00e9", "é").replace("\\ud83d\\ude42", "🙂").replace("\\u4e2d\\u6587", "中文")
    assert "🙂" in whole
    data = whole.replace("\n", newline).encode()
    answers.stream = [data[i : i + 1] for i in range(len(data))]
    answers.pause_s = 0
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.type("#text", "hello\n")
    page.wait_for(".note", "First token")
    assert page.text(".turn:nth-child(3) .said") == "née 🙂 中文"


def test_thoughts_stand_apart(page: Page, address: str, answers: Answers) -> None:
    """What a model thinks is shown, and is no part of what it has said."""
    thought = event(choices=[{"index": 0, "delta": {"content": "", "reasoning_content": "Hm."}}])
    answers.stream = [thought, word("Yes.", finish_reason="length"), DONE]
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.type("#text", "hello\n")
    page.wait_for(".note", "Cut off at the most tokens allowed.")
    assert (page.text(".thought"), page.text(".turn:nth-child(3) .said")) == ("Hm.", "Yes.")


def test_stop(page: Page, address: str, answers: Answers) -> None:
    """Stop ends the request itself; what had come by then stays, and the conversation goes on from there."""
    answers.stream = [word("Half an"), b""]
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.type("#text", "hello\n")
    page.wait_for(".turn:nth-child(3) .said", "Half an")
    assert page.run("document.querySelector('#talk').ariaBusy") == "true"
    page.click("#stop")
    page.wait_for(".note", "Stopped.")
    deadline = time.monotonic() + chromium.WAIT_S
    while not answers.left:
        assert time.monotonic() < deadline
        page.run("1")
    answers.stream = [word("Whole."), DONE]
    page.type("#text", "again\n")
    page.wait_for(".turn:nth-child(5) .said", "Whole.")
    assert [each["content"] for each in answers.asked[1][1]["messages"]] == ["hello", "Half an", "again"]


def test_prompts_for_a_model_without_chat(page: Page, address: str, answers: Answers) -> None:
    """A model that only generates gets a prompt as it is."""
    answers.status["abilities"] = ["generate"]
    answers.stream = [event(choices=[{"index": 0, "text": " there was"}]), DONE]
    page.open(f"{address}/")
    page.wait_for("#chat-title", "Completion")
    assert page.text("#system-label") == ""
    page.type("#text", "Once\n")
    page.wait_for(".turn:nth-child(3) .said", "there was")
    path, body = answers.asked[0]
    assert (path, body["prompt"], "messages" in body) == ("/v1/completions", "Once", False)


# Trouble.


@pytest.mark.parametrize(
    ("status", "after", "words"),
    [
        (400, None, "It is too long."),
        (429, "1", "It is too long. Try again in 1 second."),
        (503, "150", "It is too long. Try again in 3 minutes."),
    ],
)
def test_refusals(page: Page, address: str, answers: Answers, status: int, after: str | None, words: str) -> None:
    """A refusal is shown in the server's words and with its time, and what was written is there to be sent again."""
    headers = {} if after is None else {"Retry-After": after}
    answers.refusal = (status, {"error": {"message": "It is too long."}, "detail": "It is too long."}, headers)
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.type("#text", "hello\n")
    page.wait_for(".note", words)
    assert page.text(".note") == words
    assert page.run("document.querySelector('#text').value") == "hello"
    answers.refusal, answers.stream = None, [word("Hi."), DONE]
    page.press("Enter", "\r")
    page.wait_for(".turn:nth-child(5) .said", "Hi.")
    assert len(answers.asked[1][1]["messages"]) == 1


@pytest.mark.parametrize(
    ("ending", "words"),
    [(event(error={"message": "The engine has died."}), "The engine has died."), (None, "The answer broke off.")],
    ids=["error", "cut"],
)
def test_answers_that_break_off(page: Page, address: str, answers: Answers, ending: bytes | None, words: str) -> None:
    """An error amid an answer, or an end that is none, is said beside what had come."""
    answers.stream = [word("Half an")] + ([] if ending is None else [ending])
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    page.type("#text", "hello\n")
    page.wait_for(".note", words)
    assert page.text(".turn:nth-child(3) .said") == "Half an"


def test_the_key(page: Page, address: str, answers: Answers) -> None:
    """A server with keys is asked nothing until there is one; it is kept for the tab, sent, and can be forgotten."""
    answers.key = "secret"
    answers.stream = [word("Hi."), DONE]
    page.open(f"{address}/")
    page.wait_for("#key-form", "This server wants an API key.")
    assert page.text("#state") == "locked"
    page.type("#key", "wrong\n")
    page.wait_for("#key-form", "The server refused this API key.")
    page.type("#key", "wr öng\n")
    page.wait_for("#key-form", "no spaces")
    polls = answers.polls
    page.run("polls[0]()")
    assert answers.polls == polls
    page.type("#key", " secret \n")
    page.wait_for("#state", "ready")
    page.open(f"{address}/?again")
    page.wait_for("#state", "ready")
    assert page.text("#key-form") == ""
    page.type("#text", "hello\n")
    page.wait_for(".turn:nth-child(3) .said", "Hi.")
    page.click("#forget")
    page.wait_for("#key-form", "This server wants an API key.")
    assert page.run("sessionStorage.length") == 0


# How it looks, and how it is sent.


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_windows(page: Page, address: str, answers: Answers, scheme: str, path: str) -> None:
    """At 360 pixels nothing is cut off or scrolls sideways, the settings included, by day and by night."""
    answers.status["model"] = "organisation/" + "a-very-long-name-of-a-model-" * 4
    answers.batches = [batch("batch_" + "0123456789" * 6, "in_progress", (10**6, 10**5, 10**3))]
    answers.status["batches"]["rows"] = dict.fromkeys(("in_flight", "waiting", "completed", "failed"), 10**9)
    page.look(width=360, scheme=scheme)
    page.open(f"{address}{path}")
    page.wait_for("#version", "0.1.0")
    if path == "/":
        page.wait_for("#batches", "batch_")
        page.run("document.querySelector('.chat details').open = true")
        for field in ("#system", "#temperature", "#max-tokens"):
            card, right = (
                page.run(f"document.querySelector('{each}').getBoundingClientRect().right") for each in (".chat", field)
            )
            assert right < card, f"{field} is wider than its card"
    assert page.run("document.documentElement.scrollWidth") == 360
    ground, text = (page.run(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert (_light(ground) > _light(text)) == (scheme == "light")


def _light(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.usefixtures("answers")
def test_everything_has_a_name(page: Page, address: str) -> None:
    """Every field and button has a name for those who can't see it."""
    page.open(f"{address}/")
    page.wait_for("#state", "ready")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "spinbutton", "combobox", "link", "progressbar", "image", "log"}
    found = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in roles]
    assert len(found) >= 6
    assert not [each for each in found if not each[1]]


def test_the_api_described(page: Page, server: Online) -> None:
    """/docs shows every route of the server's OpenAPI document, each with a command that can be copied."""
    paths = server.get("/openapi.json").json()["paths"]
    wanted = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    page.open(f"{server.address}/docs")
    page.wait("document.querySelectorAll('.route').length")
    shown = page.run(
        "[...document.querySelectorAll('.route > summary')].map(s => [...s.children].map(c => c.innerText))"
    )
    assert {f"{method} {path}" for method, path, _ in shown} == wanted
    assert len(shown) == len(wanted)
    assert "POST /v1/chat/completions" in wanted
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.wait_for("main", f"curl '{server.address}/v1/chat/completions'")
    page.wait_for("main", f"curl '{server.address}/v1/models/MODEL'")


def test_what_is_sent() -> None:
    """The page's files may run and load nothing else, are asked for anew, and are not sent twice to who has them."""
    assert set(OPEN_PATHS) >= PAGE_PATHS, "no key is asked for them"
    with serving(Answers()) as address, httpx.Client(base_url=address, trust_env=False) as client:
        for path in PAGE_PATHS:
            answer = client.get(path)
            assert answer.status_code == 200
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-cache"
            assert "://" not in answer.text.replace("http://www.w3.org/", ""), "no other host is named"
            again = client.get(path, headers={"If-None-Match": f"W/{answer.headers['etag']}"})
            assert (again.status_code, again.content) == (304, b"")
            assert client.head(path).status_code == 200
