"""What a client sends and gets, without a server: dialects, chunks, URLs of media, keys."""

import asyncio
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xbatch.engines import ModelCard, Piece
from xbatch.errors import UsageError
from xbatch.rows.request import CHAT, COMPLETIONS
from xbatch.serve import streaming
from xbatch.serve.bodies import make_request, wants_stream
from xbatch.serve.errors import ApiProblem
from xbatch.serve.media import private_media
from xbatch.serve.models import Served
from xbatch.serve.serving import _bind
from xbatch.serve.settings import make_settings, read_keys

if TYPE_CHECKING:
    from xbatch.rows.outcome import Usage


class _Kept:
    """A keeper whose engine is known by its card."""

    def __init__(self, *abilities: str) -> None:
        self.known = self
        self.card = ModelCard(abilities=abilities, context_tokens=100)


def served(*abilities: str) -> Served:
    return Served(_Kept(*(abilities or ("generate", "chat"))), ["m", "org/m"], ["styled"], 7)  # type: ignore[arg-type]


def made(body: dict[str, Any], endpoint: str = CHAT) -> dict[str, Any]:
    return make_request(body, 10, endpoint, served()).body


@pytest.mark.parametrize("kind", ["json", "regex", "choice", "grammar"])
def test_guided_fields_become_structured_outputs(kind: str) -> None:
    """What older clients call `guided_*` is not ignored in silence."""
    assert made({"model": "m", f"guided_{kind}": "x"}) == {"model": "m", "structured_outputs": {kind: "x"}}


def test_thinking_is_told_to_the_template() -> None:
    assert made({"enable_thinking": False}) == {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
    own = {"enable_thinking": True}
    kept = made({"enable_thinking": False, "chat_template_kwargs": own})["chat_template_kwargs"]
    assert kept == {"enable_thinking": True, "thinking": False}


def test_lora_name_asks_for_the_adapter() -> None:
    assert made({"model": "m", "lora_name": "styled"}) == {"model": "styled"}


def test_unknown_fields_and_nulls_pass() -> None:
    body = {"model": "m", "stream_interval": 2, "seed": None, "wizard": {"a": 1}}
    assert made(dict(body)) == body


def test_only_completions_go_on_to_the_end_of_the_context() -> None:
    assert make_request({}, 1, COMPLETIONS, served()).to_context_end
    assert not make_request({}, 1, CHAT, served()).to_context_end


@pytest.mark.parametrize(
    ("body", "endpoint", "status", "word"),
    [
        ({"model": "other"}, CHAT, 404, "does not exist"),
        ({"model": 5}, CHAT, 400, "not a text"),
        ({"messages": []}, CHAT, 400, "empty"),
        ({"lora_name": "none"}, CHAT, 404, "does not exist"),
    ],
)
def test_what_is_refused_before_the_engine(body: dict[str, Any], endpoint: str, status: int, word: str) -> None:
    with pytest.raises(ApiProblem, match=word) as caught:
        make_request(body, 1, endpoint, served())
    assert caught.value.status_code == status


def test_chat_without_the_ability_is_a_clear_refusal() -> None:
    """A model without a chat template says what it can do instead."""
    with pytest.raises(ApiProblem, match=r"no chat ability.*/v1/completions") as caught:
        make_request({"messages": [{}]}, 1, CHAT, served("generate"))
    assert caught.value.status_code == 400
    assert make_request({"prompt": "a"}, 1, COMPLETIONS, served("generate")).endpoint == COMPLETIONS


def test_stream_is_a_boolean() -> None:
    assert wants_stream({"stream": True})
    assert not wants_stream({"stream": None})
    with pytest.raises(ApiProblem, match="stream"):
        wants_stream({"stream": "yes"})


@pytest.mark.parametrize("delta", [{}, {"content": None}, {"role": "assistant"}, {"tool_calls": [{"index": 0}]}])
def test_every_delta_has_a_text(delta: dict[str, Any]) -> None:
    """Clients of Xinference read `delta.content` of every chunk."""
    chunk = json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()
    found = json.loads(streaming.as_clients_expect(chunk, CHAT))["choices"][0]["delta"]
    assert found == delta | {"content": ""}


def test_good_chunks_pass_untouched() -> None:
    chunk = b'{"choices":[{"index":0,"delta":{"content":"a \\u20ac"}}]}'
    assert streaming.as_clients_expect(chunk, CHAT) is chunk
    assert streaming.as_clients_expect(b'{"choices":[{"text":"a"}]}', COMPLETIONS) == b'{"choices":[{"text":"a"}]}'
    assert json.loads(streaming.as_clients_expect(b'{"choices":[],"usage":{}}', CHAT))["choices"] == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://example.com/a.png",
        "http://127.0.0.1/a.png",
        "http://localhost:9/a.png",
        "http://[::1]/a.png",
        "http://10.1.2.3/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://0.0.0.0/",
        "http://127.0.0.1\\@1.1.1.1/a.png",
        "http://1.1.1.1/a.png\n",
        "http://[64:ff9b::7f00:1]/a.png",
        "http://[2002:7f00:1::]/a.png",
        "http://[fec0::1]/a.png",
        "http://224.0.0.1/a.png",
        "http:///a.png",
        "//example.com/a.png",
        "http://[bad/a.png",
        " http://127.0.0.1/a.png",
        "",
    ],
)
@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
def test_private_media_are_refused(url: str, kind: str) -> None:
    """No stranger has the server read its files or its neighbours."""
    for value in (url, {"url": url}):
        body = {"messages": [{"role": "user", "content": [{"type": kind, kind: value}]}]}
        assert asyncio.run(private_media(body)) is not None


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AAAA", "https://1.1.1.1/a.png", "http://[2606:4700::1111]/a.png"]
)
def test_public_media_pass(url: str) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    assert asyncio.run(private_media(body)) is None


@pytest.mark.parametrize(
    "body", [{}, {"messages": 5}, {"messages": [5, {"content": "a"}, {"content": [1, {"url": 5}]}]}]
)
def test_media_of_odd_bodies_are_the_engines_to_judge(body: dict[str, Any]) -> None:
    assert asyncio.run(private_media(body)) is None


def test_a_slow_reader_is_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing any more does not hold its place for ever, and the answer is given up."""
    monkeypatch.setattr(streaming, "SEND_S", 0.05)
    ended: list[Usage | None] = []
    closed = False

    async def pieces() -> Any:
        nonlocal closed
        try:
            while True:
                yield b"{}"
        finally:
            closed = True

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def answer() -> None:
        rest = pieces()
        first: Piece = await anext(rest)
        await streaming.EventStream(first, rest, COMPLETIONS, None, ended.append)({}, receive, send)

    with pytest.raises(streaming.SlowReader):
        asyncio.run(answer())
    assert ended == [None]
    assert closed


def test_keys_come_from_words_and_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nthree\n\n four \n")
    assert read_keys(("one two",), str(file)) == {"one", "two", "three", "four"}
    file.write_text("# none\n")
    with pytest.raises(UsageError, match="no API key"):
        read_keys((), str(file))
    with pytest.raises(UsageError, match="can't be read"):
        read_keys((), str(tmp_path / "missing"))


@pytest.mark.parametrize("words", [("",), ("one", " ")])
def test_an_empty_key_is_refused(words: tuple[str, ...]) -> None:
    """A variable that is not set in `--api-key "$KEY"` does not open the server to everybody."""
    with pytest.raises(UsageError, match="--api-key"):
        read_keys(words, None)


def test_settings_name_the_flag_that_is_wrong() -> None:
    assert make_settings({"max_body": "1MiB", "max_file": None}).max_body == 1 << 20
    with pytest.raises(UsageError, match="--max-body"):
        make_settings({"max_body": "large"})


def test_chunks_are_not_held_back() -> None:
    """asyncio turns Nagle's algorithm off for sockets that it knows for TCP only; else each chunk waits for 40 ms."""
    listener = _bind("127.0.0.1", 0)
    try:
        assert listener.proto == socket.IPPROTO_TCP
    finally:
        listener.close()
