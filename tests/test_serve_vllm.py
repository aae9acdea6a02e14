"""`xbatch serve` with the real engine: what clients read of it, what a crowd does to it, and its engine's death."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from online import CHAT_PATH, COMPLETIONS_PATH, Online, online
from serving import CONTEXT_TOKENS, SYSTEM, Body, batch_line, environment

from xbatch.demo import questions

QUESTION, ANSWER = questions()[0]
ASKED = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 40}
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}


def chunks(answer: httpx.Response) -> Iterator[Body]:
    """The chunks of a stream, whose framing must be as clients expect."""
    assert answer.status_code == 200, answer.text
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        assert event.startswith("data: ")
        assert "\n" not in event
        yield json.loads(event.removeprefix("data: "))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": ["."]},
        {"messages": [{"role": "system", "content": ""}, *ASKED["messages"]]},  # type: ignore[misc]
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
        {"logprobs": True, "top_logprobs": 2},
        {"ignore_eos": True, "max_tokens": 30},
    ],
    ids=str,
)
def test_every_chunk_has_one_choice_with_a_text(demo_server: Online, fields: Body) -> None:
    """As Xinference's, LangChain's and LlamaIndex's classes index them, whatever the request."""
    found = list(chunks(demo_server.post(CHAT_PATH, ASKED | fields | {"stream": True})))
    assert found
    for chunk in found:
        assert chunk["id"].startswith("chatcmpl-")
        assert "error" not in chunk
        (choice,) = chunk["choices"]
        assert isinstance(choice["delta"]["content"], str)
    assert found[-1]["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")
    whole = demo_server.post(CHAT_PATH, ASKED | fields).json()["choices"][0]["message"]
    if "tool_choice" not in fields:
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in found) == whole["content"]


def test_usage_comes_last_where_it_is_asked_for(demo_server: Online) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    *found, last = chunks(demo_server.post(CHAT_PATH, ASKED | fields))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"] > 2
    assert all(len(chunk["choices"]) == 1 for chunk in found)


def test_completions_go_on_to_the_end_of_the_context(demo_server: Online) -> None:
    """Without max_tokens, as Xinference's do; with it, or null with a number beside it, as it says."""
    asked = {"model": "demo", "prompt": [266] * (CONTEXT_TOKENS - 40), "ignore_eos": True}
    for stream in (False, True):
        body = asked | {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})
        answer = demo_server.post(COMPLETIONS_PATH, body)
        last = list(chunks(answer))[-1] if stream else answer.json()
        assert last["usage"]["completion_tokens"] == 40
    for fields in ({"max_tokens": None}, {"echo": True}):
        assert demo_server.post(COMPLETIONS_PATH, asked | fields).json()["usage"]["completion_tokens"] == 40
    assert demo_server.post(COMPLETIONS_PATH, asked | {"max_tokens": 3}).json()["usage"]["completion_tokens"] == 3


def test_list_prompts_have_indexes_by_prompt(demo_server: Online) -> None:
    body = {"model": "demo", "prompt": [QUESTION, "Why?"], "n": 2, "max_tokens": 4, "echo": True}
    found = demo_server.post(COMPLETIONS_PATH, body).json()
    assert found["id"].startswith("cmpl-")
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    prompts = [choice["text"].startswith(QUESTION) for choice in found["choices"]]
    assert prompts == [True, True, False, False]
    streamed: Counter[int] = Counter()
    for chunk in chunks(demo_server.post(COMPLETIONS_PATH, body | {"stream": True})):
        streamed[chunk["choices"][0]["index"]] += 1
    assert set(streamed) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT_PATH, {"logprobs": True, "top_logprobs": 99}),
        (CHAT_PATH, {"temperature": -1}),
        (CHAT_PATH, {"messages": [{"role": "user", "content": "word " * 4000}]}),
        (CHAT_PATH, {"messages": "hello"}),
        (CHAT_PATH, {"n": 0}),
        (COMPLETIONS_PATH, {"prompt": "word " * 4000}),
        (COMPLETIONS_PATH, {"prompt": [99999]}),
        (COMPLETIONS_PATH, {"prompt": "a", "logprobs": 99}),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told_by_a_status(demo_server: Online, path: str, fields: Body, *, stream: bool) -> None:
    """400 in both dialects, also where a stream was asked for: clients don't try again, and see why."""
    base = ASKED if path == CHAT_PATH else {"model": "demo"}
    answer = demo_server.post(path, base | fields | {"stream": stream})
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"] == answer.json()["error"]["message"]


def test_dialects_reach_the_model(demo_server: Online) -> None:
    """Fields of older clients change the answer, not nothing."""
    chosen = demo_server.post(CHAT_PATH, ASKED | {"guided_choice": ["Yes", "No"]}).json()
    assert chosen["choices"][0]["message"]["content"] in ("Yes", "No")
    thinking = demo_server.post(CHAT_PATH, ASKED | {"enable_thinking": False, "stream_interval": 1, "lora_name": None})
    assert thinking.json()["choices"][0]["message"]["content"] == ANSWER


def test_media_are_not_redirected() -> None:
    """vLLM itself hears of it, so that no public host leads to a private one."""
    code = "import xbatch.serve.serving, vllm.envs as envs; print(envs.VLLM_MEDIA_URL_ALLOW_REDIRECTS)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split()[-1] == "False"


def test_a_crowd(demo_server: Online) -> None:
    """A thousand at a time, of which some leave, some read slowly and some ask nonsense: every good one is answered.

    Nothing is left running, and memory stays where it was after the first crowd.
    """
    process = psutil.Process(demo_server.process.pid)
    sizes = []
    for _ in range(2):
        kinds = asyncio.run(_crowd(demo_server.address, 1000))
        assert kinds["good"] == 500
        assert kinds["bad"] == 100
        assert kinds["slow"] == 100
        assert kinds["left"] + kinds["left late"] == 300
        demo_server.wait_for("nothing is left running", lambda status: status["requests"]["running"] == 0)
        sizes.append(process.memory_info().rss)
    assert sizes[1] < sizes[0] + (32 << 20)
    assert demo_server.status()["engine"]["restarts"] == 0


async def _crowd(address: str, people: int) -> Counter[str]:
    rng = random.Random(7)
    acts = [_good] * 5 + [_leaver] * 3 + [_bad] + [_slow]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, limits=limits) as client:
        return Counter(await asyncio.gather(*(acts[i % len(acts)](client, rng, i) for i in range(people))))


async def _good(client: httpx.AsyncClient, _: random.Random, i: int) -> str:
    question, expected = questions()[i % len(questions())]
    body = ASKED | {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]}
    answer = await client.post(CHAT_PATH, json=body | {"stream": bool(i % 2)})
    assert answer.status_code == 200, answer.text
    if i % 2:
        text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks(answer))
    else:
        text = answer.json()["choices"][0]["message"]["content"]
    # Half precision and other sequences in a step change a letter now and then.
    return "good" if text[:8] == expected[:8] else f"{question}: {text}"


async def _leaver(client: httpx.AsyncClient, rng: random.Random, i: int) -> str:
    body = {"model": "demo", "prompt": "Why?", "ignore_eos": True, "max_tokens": 400, "stream": bool(i % 2)}
    try:
        await client.post(COMPLETIONS_PATH, json=body, timeout=rng.uniform(0.05, 2))
    except httpx.TimeoutException:
        return "left"
    return "left late"


async def _bad(client: httpx.AsyncClient, rng: random.Random, _: int) -> str:
    nonsense: list[Any] = [b"{", b"\xff", b"[]", b'{"model":"x","messages":[{}]}', b'{"model":"demo","messages":[]}']
    answer = await client.post(CHAT_PATH, content=rng.choice(nonsense), headers={"content-type": "application/json"})
    return "bad" if answer.status_code in (400, 404) else answer.text


async def _slow(client: httpx.AsyncClient, rng: random.Random, _: int) -> str:
    body = {"model": "demo", "prompt": "Why?", "ignore_eos": True, "max_tokens": 60, "stream": True}
    body["stream_options"] = {"include_usage": True}  # what the engine has while one is slow comes in one piece
    seen, last = 0, ""
    async with client.stream("POST", COMPLETIONS_PATH, json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                seen, last = seen + 1, line
            if seen % 20 == 0:
                await asyncio.sleep(rng.uniform(0, 0.2))
    tokens = json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"]
    return "slow" if tokens == 60 and seen > 1 else f"slow, but only {tokens} in {seen}"


def broken_off(server: Online) -> list[str]:
    """Kill vLLM's worker in the middle of a stream, and return what came after its first chunk."""
    (worker, *_) = [p for p in psutil.Process(server.process.pid).children(recursive=True) if "Worker" in p.name()]
    long = {"model": "demo", "prompt": "Why?", "ignore_eos": True, "stream": True}
    with server.client() as client, client.stream("POST", COMPLETIONS_PATH, json=long) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: {")
        worker.kill()
        return [line for line in lines if line]


def until_restarted(server: Online, restarts: int) -> None:
    while (engine := server.status()["engine"])["state"] != "ready" or engine["restarts"] < restarts:
        assert server.process.poll() is None, server.said()
        time.sleep(0.5)


def test_the_engine_dies_and_comes_back(demo_server: Online) -> None:
    """With a kill -9 of vLLM's worker, streams end in an error, the next hear 503, and then all is as before."""
    before = demo_server.status()["engine"]["restarts"]
    kills = 1
    while '"error"' not in (rest := broken_off(demo_server))[-2]:
        until_restarted(demo_server, before + kills)
        kills += 1  # a busy machine has killed it when the stream was at its end
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["message"]
    assert rest[-1] == "data: [DONE]"
    answer = demo_server.post(CHAT_PATH, ASKED)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    until_restarted(demo_server, before + kills)
    assert demo_server.status()["engine"]["restarts"] == before + kills
    assert demo_server.post(CHAT_PATH, ASKED).json()["choices"][0]["message"]["content"] == ANSWER


def test_killed_in_the_middle_of_a_large_batch(tmp_path: Path) -> None:
    """kill -9 with rows in flight: nothing of the engine stays, and the next server answers every row once."""
    rows = 5000
    asked = [question for question, _ in questions()]
    with online(tmp_path) as server:
        lines = [
            batch_line(
                str(i),
                CHAT_PATH,
                # No two rows are alike, else the first answers would be those of all others.
                ASKED | {"messages": [{"role": "user", "content": asked[i % len(asked)]}], "user": f"u-{i}"},
            )
            for i in range(rows)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with server.client() as client:
            file = client.post("/v1/files", files={"file": ("rows.jsonl", text)}, data={"purpose": "batch"}).json()
        batch = server.post("/v1/batches", _batch_of(file["id"])).json()["id"]
        before = _settled(server, batch, rows // 5)
        engine = psutil.Process(server.process.pid).children(recursive=True)
        assert any("Worker" in process.name() for process in engine)
        server.process.kill()
        server.process.wait()
        assert psutil.wait_procs(engine, timeout=20)[1] == []
    assert rows // 5 <= before["request_counts"]["completed"] < rows
    with online(tmp_path) as server:
        done = _settled(server, batch, rows)
        assert (done["status"], done["error_file_id"]) == ("completed", None)
        assert done["request_counts"] == {"total": rows, "completed": rows, "failed": 0}
        answers = [
            json.loads(line) for line in server.get(f"/v1/files/{done['output_file_id']}/content").text.splitlines()
        ]
    assert [answer["custom_id"] for answer in answers] == [str(i) for i in range(rows)]
    assert len({answer["response"]["body"]["id"] for answer in answers}) == rows
    known = dict(questions())
    right = [
        answer["response"]["body"]["choices"][0]["message"]["content"] == known[asked[i % len(asked)]]
        for i, answer in enumerate(answers)
    ]
    assert sum(right) > 0.95 * rows


def _batch_of(file: str) -> Body:
    return {"input_file_id": file, "endpoint": CHAT_PATH, "completion_window": "24h"}


def _settled(server: Online, batch: str, rows: int) -> Body:
    """A batch once so many of its rows are answered; all of them, once it has ended."""
    until = time.monotonic() + 300
    with server.client() as client:
        while True:
            found: Body = client.get(f"/v1/batches/{batch}").json()
            whole = rows == found["request_counts"]["total"]
            if found["request_counts"]["completed"] >= rows and (not whole or found["status"] == "completed"):
                return found
            assert time.monotonic() < until, found
            assert found["status"] in ("validating", "in_progress", "finalizing"), found
            time.sleep(0.25)
