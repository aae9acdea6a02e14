"""The contract of engines. Another engine proves itself by one more parameter of the fixture `engine`."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator

import pytest

from xbatch.engines import Engine
from xbatch.engines.absent import NoEngine
from xbatch.engines.fake import FakeEngine
from xbatch.errors import EngineError
from xbatch.rows.outcome import Completion, Failure, Outcome
from xbatch.rows.request import CHAT, COMPLETIONS, Request

ENGINES: dict[str, Callable[[], Engine]] = {"fake": lambda: FakeEngine(delay_s=0.001)}
MODEL = "demo"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = ENGINES[request.param]()
    yield made
    made.close()


def chat(index: int, text: str) -> Request:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return Request(index, f"row-{index}", CHAT, body, 100)


def completion(index: int, text: str) -> Request:
    return Request(index, f"row-{index}", COMPLETIONS, {"model": MODEL, "prompt": text, "max_tokens": 4}, 100)


def answers(engine: Engine, *requests: Request) -> list[Outcome]:
    async def ask() -> list[Outcome]:
        engine.check()
        await engine.start()
        return await asyncio.gather(*map(engine.generate, requests))

    return asyncio.run(ask())


def test_shape(engine: Engine) -> None:
    """An engine has every member of the protocol, asynchronous where the protocol is."""
    for name in ("check", "start", "prepare", "generate", "close"):
        is_async = inspect.iscoroutinefunction(getattr(engine, name))
        assert is_async == inspect.iscoroutinefunction(getattr(Engine, name)), name


def test_checked_engine_tells_about_itself(engine: Engine) -> None:
    """Once checked, an engine knows how many requests it wants at a time, and describes itself in one line."""
    engine.check()
    assert engine.max_in_flight >= 1
    assert engine.description
    assert "\n" not in engine.description


@pytest.mark.parametrize(("ask", "kind"), [(chat, "chat.completion"), (completion, "text_completion")])
def test_a_completion(engine: Engine, ask: Callable[[int, str], Request], kind: str) -> None:
    """The answer is an OpenAI object of the endpoint on one line of JSON, with the tokens that it cost."""
    [outcome] = answers(engine, ask(0, "hello there"))
    assert isinstance(outcome, Completion)
    assert b"\n" not in outcome.body
    body = json.loads(outcome.body)
    assert body["object"] == kind
    assert body["model"] == MODEL
    assert len(body["choices"]) == 1
    assert body["choices"][0]["finish_reason"] in ("stop", "length")
    assert body["usage"]["prompt_tokens"] == outcome.usage.prompt_tokens
    assert body["usage"]["completion_tokens"] == outcome.usage.completion_tokens


def test_many_at_once(engine: Engine) -> None:
    """Many requests in flight all get an answer, each its own."""
    outcomes = answers(engine, *(chat(i, f"number {i}") for i in range(30)))
    assert all(isinstance(outcome, Completion) for outcome in outcomes)


def test_cancelled_request(engine: Engine) -> None:
    """A cancelled request leaves nothing behind that keeps others from being answered."""

    async def ask() -> Outcome:
        engine.check()
        await engine.start()
        task = asyncio.create_task(engine.generate(chat(0, "never mind")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await engine.generate(chat(1, "hello"))

    assert isinstance(asyncio.run(ask()), Completion)


def test_close_is_harmless(engine: Engine) -> None:
    """An engine may be closed before its start, and twice."""
    engine.close()
    engine.close()


def test_fake_echoes() -> None:
    """The fake engine answers with what it was asked."""
    for outcome, path in zip(
        answers(FakeEngine(), chat(0, "a ü"), completion(1, "b")), (("message", "content"), ("text",)), strict=True
    ):
        assert isinstance(outcome, Completion)
        said = json.loads(outcome.body)["choices"][0]
        for key in path:
            said = said[key]
        assert said in ("a ü", "b")


def test_no_engine_answers_nothing() -> None:
    """What stands where a job has no engine raises whatever it is asked, and prepares nothing but no requests."""
    none: Engine = NoEngine()
    refused = pytest.raises(RuntimeError, match="row 7 asks for an answer")
    with refused:
        asyncio.run(none.generate(chat(7, "a")))  # type: ignore[arg-type]
    with refused:
        none.stream(chat(7, "a"))
    with refused:
        none.prepare([chat(7, "a")])
    assert none.prepare([]) == []


def test_fake_fails_as_told() -> None:
    """The fake engine fails the rows it is told to, and no others."""
    outcomes = answers(FakeEngine(fail_on=frozenset({1})), *(chat(i, "a") for i in range(3)))
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [False, True, False]


def test_fake_crashes_as_told() -> None:
    """From the call on at which it is told to crash, the fake engine is dead."""
    fake = FakeEngine(crash_on=2)

    async def ask() -> None:
        await fake.start()
        assert isinstance(await fake.generate(chat(0, "a")), Completion)
        for _ in range(2):
            with pytest.raises(EngineError):
                await fake.generate(chat(1, "a"))

    asyncio.run(ask())


def test_workers_ask_for_leave_to_use_amx() -> None:
    """Where a CPU has AMX, for vLLM's worker dies of a first short prompt else; a setting of the user's wins."""
    from xbatch.engines.vllm.settings import Machine, choose

    machine = Machine(is_cpu=True, free_bytes=1 << 33, max_model_len=2048, kv_bytes_a_token=1024, has_tiles=True)
    assert "worker_extension_cls" in {choice.name for choice in choose(machine, set())}
    assert "worker_extension_cls" not in {choice.name for choice in choose(machine, {"worker_extension_cls"})}
    plain = Machine(is_cpu=True, free_bytes=1 << 33, max_model_len=2048, kv_bytes_a_token=1024)
    assert "worker_extension_cls" not in {choice.name for choice in choose(plain, set())}
