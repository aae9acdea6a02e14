"""`xbatch serve` as a process, with the fake engine: who may ask, how much, and what becomes of those who leave."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from online import CHAT_PATH, COMPLETIONS_PATH, Online, fake_online, online, serve_command
from prometheus_client.parser import text_string_to_metric_families
from serving import environment

HELLO = {"model": "demo", "messages": [{"role": "user", "content": "hello dear world"}]}
JSON_TYPE = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    with fake_online(tmp_path_factory.mktemp("fake"), "--max-body", "64KiB", max_in_flight=4) as found:
        yield found


def both_dialects(answer: httpx.Response) -> str:
    """The message of an error, which must be there for either family of clients."""
    body = answer.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["detail"] == body["error"]["message"]
    assert "\n" not in answer.text
    return str(body["detail"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/some/other%2Fname", 404),
        ("DELETE", "/v1/models/demo", 400),
        ("DELETE", "/v1/models/other", 404),
        ("PUT", CHAT_PATH, 405),
        ("GET", "/v1/files/file-none", 404),
        ("GET", "/v1/batches/batch_none", 404),
    ],
)
def test_errors_carry_both_dialects(server: Online, method: str, path: str, status: int) -> None:
    with server.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert both_dialects(answer)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"5", 400),
        (b"null", 400),
        (b'{"messages": "\xff"}', 400),
        (b'{"a": NaN}', 400),
        (b'{"model": "demo", "messages": []}', 400),
        (b'{"model": "demo", "messages": [], "stream": true}', 400),
        (b'{"model": "other", "messages": [{"role": "user", "content": "a"}], "stream": true}', 404),
        (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}", 400),
        (b'{"a": "' + b"x" * (64 << 10) + b'"}', 413),
    ],
)
def test_bad_bodies_are_refused_before_the_engine(server: Online, body: bytes, status: int) -> None:
    """Neither 422 nor 500, which clients would send again, and never after a stream has begun."""
    with server.client() as client:
        answer = client.post(CHAT_PATH, content=body, headers=JSON_TYPE)
    assert answer.status_code == status
    assert both_dialects(answer)


def test_a_body_without_length_has_the_limit_too(server: Online) -> None:
    with server.client() as client:
        for path in (CHAT_PATH, "/v1/batches"):
            answer = client.post(path, content=iter([b"x" * 40_000] * 2), headers=JSON_TYPE)
            assert answer.status_code == 413, path
            assert "--max-body" in both_dialects(answer)


def test_only_json_is_taken_for_json(server: Online) -> None:
    with server.client() as client:
        answer = client.post(CHAT_PATH, content=json.dumps(HELLO), headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_pages_of_other_sites_may_not_ask(server: Online) -> None:
    """A browser that visits another page can't be made to use the server, and no such page can read answers."""
    cross = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    assert server.post(CHAT_PATH, HELLO, headers=cross).status_code == 403
    same = server.post(CHAT_PATH, HELLO, headers={"sec-fetch-site": "same-origin", "origin": server.address})
    assert same.status_code == 200
    assert "access-control-allow-origin" not in same.headers


def test_cors_is_on_where_it_is_asked_for(tmp_path: Path) -> None:
    page = "https://good.example"
    with fake_online(tmp_path, "--cors-origin", page) as server, server.client() as client:
        asked = {"origin": page, "access-control-request-method": "POST"}
        preflight = client.options(CHAT_PATH, headers=asked)
        assert preflight.headers["access-control-allow-origin"] == page
        answer = client.post(CHAT_PATH, json=HELLO, headers={"sec-fetch-site": "cross-site", "origin": page})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == page


def test_names_and_figures(server: Online) -> None:
    """What is served can be found by either family of clients, and what goes on by Prometheus."""
    card = server.get("/v1/models/demo").json()
    assert card == server.get("/v1/models").json()["data"][0]
    assert card["model_ability"] == ["generate", "chat"]
    assert (card["object"], card["model_type"], card["context_length"]) == ("model", "LLM", 2048)
    assert server.post("/v1/models", {"model_name": "demo", "n_ctx": None}).json() == {"model_uid": "demo"}
    assert "can't launch" in both_dialects(server.post("/v1/models", {"model_name": "llama", "model_uid": None}))
    before = server.status()["requests"]["completed"]
    assert server.post(COMPLETIONS_PATH, {"prompt": "a b"}).json()["choices"][0]["text"] == "a b"
    assert server.status()["requests"]["completed"] == before + 1
    families = {f.name: f for f in text_string_to_metric_families(server.get("/metrics").text)}
    states = {sample.labels["state"]: sample.value for sample in families["xbatch_engine_state"].samples}
    assert states == {"loading": 0, "ready": 1, "restarting": 0, "failed": 0}
    asked = [s for s in families["xbatch_requests"].samples if s.labels == {"route": COMPLETIONS_PATH, "status": "200"}]
    assert asked[0].value >= 1
    lines = [json.loads(line) for line in server.said().splitlines() if line.startswith("{")]
    assert {"time", "client", "method", "path", "status", "duration_s"} <= set(lines[-1])


def test_rows_of_batches_are_counted(server: Online) -> None:
    """What batches have done is told apart from what was asked online, for the page and for Prometheus."""
    before = server.status()
    rows = [{"custom_id": f"id-{n}", "method": "POST", "url": CHAT_PATH, "body": HELLO} for n in range(20)]
    with server.client() as client:
        files = {"file": ("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))}
        file = client.post("/v1/files", data={"purpose": "batch"}, files=files).json()["id"]
        asked = {"input_file_id": file, "endpoint": CHAT_PATH, "completion_window": "24h"}
        assert client.post("/v1/batches", json=asked).status_code == 200
    server.wait_for("every row is settled", lambda status: status["batches"]["rows"]["completed"] == 20)
    server.wait_for("the batch has ended", lambda status: status["batches"]["open"] == 0)
    status = server.status()
    assert status["requests"] == before["requests"], "rows of batches are none of these"
    assert status["tokens"] == before["tokens"]
    assert status["batches"]["rows"] == {"in_flight": 0, "waiting": 0, "completed": 20, "failed": 0}
    tokens = status["batches"]["tokens"]
    assert tokens["completion"] == 60
    assert tokens["prompt"] > 0
    families = {f.name: f for f in text_string_to_metric_families(server.get("/metrics").text)}
    values = {
        name: {next(iter(each.labels.values())): each.value for each in families[name].samples}
        for name in ("xbatch_batches", "xbatch_batch_rows", "xbatch_batch_rows_settled", "xbatch_batch_tokens")
    }
    assert values == {
        "xbatch_batches": {"running": 0, "waiting": 0},
        "xbatch_batch_rows": {"in_flight": 0, "waiting": 0, "completed": 20, "failed": 0},
        "xbatch_batch_rows_settled": {"completed": 20, "failed": 0},
        "xbatch_batch_tokens": tokens,
    }
    assert families["xbatch_batch_rows_settled"].type == families["xbatch_batch_tokens"].type == "counter"


def test_a_stream_has_the_form_that_clients_read(server: Online) -> None:
    answer = server.post(CHAT_PATH, HELLO | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "hello dear world"


def test_keys(tmp_path: Path) -> None:
    """Several keys open the server, nothing else does, and what has to be open is."""
    file = tmp_path / "keys"
    file.write_text("from-file\n")
    with fake_online(tmp_path, "--api-key-file", str(file), XBATCH_API_KEY="one two") as server:
        for headers in (
            {},
            {"authorization": "Bearer no"},
            {"authorization": "Basic one"},
            {"authorization": "Bearer"},
        ):
            answer = server.post(CHAT_PATH, HELLO, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert both_dialects(answer)
        for key in ("one", "two", "from-file"):
            assert server.post(CHAT_PATH, HELLO, headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert server.get("/v1/cluster/auth").json() == {"auth": True}
        assert server.get("/health").status_code == 200
        assert server.get("/metrics").status_code == 401
        assert "anybody" not in server.said()


def test_keys_are_no_matter_where_there_are_none(server: Online) -> None:
    assert server.get("/v1/cluster/auth").json() == {"auth": False}
    assert server.post(CHAT_PATH, HELLO, headers={"authorization": "Bearer cannot be empty"}).status_code == 200


def test_whoever_listens_to_others_without_keys_is_warned(tmp_path: Path) -> None:
    with fake_online(tmp_path, "--host", "0.0.0.0") as server:
        assert "anybody who reaches 0.0.0.0 may ask" in server.said()


def test_too_many_are_sent_away(tmp_path: Path) -> None:
    """At most so many wait; the next one is told when to come again, and places come back."""
    with fake_online(tmp_path, "--max-waiting", "1", max_in_flight=1, delay_s=1.5) as server:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: server.post(CHAT_PATH, HELLO), range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert both_dialects(refused)
        server.wait_for("places come back", lambda status: not status["requests"]["running"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(tmp_path: Path, *, stream: bool) -> None:
    with fake_online(tmp_path, max_in_flight=4, delay_s=20 if not stream else 0.2) as server:
        words = HELLO | {"messages": [{"role": "user", "content": "word " * 500}], "stream": stream}
        address = httpx.URL(server.address)
        with socket.create_connection((address.host, address.port or 80)) as wire:
            body = json.dumps(words).encode()
            head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            server.wait_for("it runs", lambda status: status["requests"]["running"] == 1)
            if stream:
                assert wire.recv(100)
        server.wait_for("its place is free", lambda status: status["requests"]["running"] == 0)


def test_answers_that_take_too_long(tmp_path: Path) -> None:
    """With --request-timeout an answer ends with a status, or within its stream with an error."""
    with fake_online(tmp_path, "--request-timeout", "1s", delay_s=0.25) as server:
        streamed = server.post(CHAT_PATH, HELLO | {"stream": True})
        assert streamed.status_code == 200
        events = [event for event in streamed.text.split("\n\n") if event]
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "request_timeout"
        assert events[-1] == "data: [DONE]"
    with fake_online(tmp_path, "--request-timeout", "0.2s", delay_s=5) as server:
        answer = server.post(CHAT_PATH, HELLO)
        assert answer.status_code == 504
        assert "--request-timeout" in both_dialects(answer)
        assert server.status()["requests"]["running"] == 0


def test_before_the_engine_answers(tmp_path: Path) -> None:
    """The server listens at once, and says that it isn't ready."""
    with fake_online(tmp_path, ready=False, start_s=8) as server:
        for answer in (server.get("/health"), server.post(CHAT_PATH, HELLO), server.get("/v1/models")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert both_dialects(answer)
        assert server.status()["engine"]["state"] == "loading"
        assert server.get("/v1/cluster/auth").status_code == 200


def test_an_engine_that_dies_is_started_again(tmp_path: Path) -> None:
    """Meanwhile clients are told to come again; then everything is as before."""
    with fake_online(tmp_path, crash_on=2, start_s=1) as server:
        assert server.post(CHAT_PATH, HELLO).status_code == 200
        for answer in (server.post(CHAT_PATH, HELLO), server.get("/health")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
        server.wait_for(
            "it is back", lambda status: status["engine"] == status["engine"] | {"restarts": 1, "state": "ready"}
        )
        assert server.post(CHAT_PATH, HELLO).status_code == 200


def test_stopping_drains(tmp_path: Path) -> None:
    """SIGTERM lets answers that are under way come to their end, and takes nothing new."""
    with fake_online(tmp_path, delay_s=1.5) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(server.post(CHAT_PATH, HELLO)))
        asking.start()
        server.wait_for("it runs", lambda status: status["requests"]["running"] == 1)
        assert server.stop() == 0
        asking.join()
        assert answers[0].status_code == 200
        with pytest.raises(httpx.TransportError):
            server.get("/health")


def test_what_can_not_be_served(tmp_path: Path) -> None:
    """A port that is taken and a model that isn't there end the server with a sentence and exit code 2."""
    with fake_online(tmp_path) as server:
        port = httpx.URL(server.address).port
        words = serve_command("--model", "demo", "--engine", "fake", port=port or 0)
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert f"can't listen at 127.0.0.1:{port}" in done.stderr
    with online(tmp_path, "--model", "./nowhere", ready=False) as server:
        assert server.process.wait(120) == 2
        assert "does not exist" in server.said()


def test_slow_bodies_hold_nobody_up(server: Online) -> None:
    """Clients that send their bodies byte by byte leave room for the others."""
    address = httpx.URL(server.address)
    wires = [socket.create_connection((address.host, address.port or 80)) for _ in range(3)]
    try:
        for wire in wires:
            wire.sendall(f"POST {CHAT_PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.2)
        assert server.post(CHAT_PATH, HELLO).status_code == 200
    finally:
        for wire in wires:
            wire.close()
    server.wait_for("their places are free", lambda status: status["requests"]["running"] == 0)
