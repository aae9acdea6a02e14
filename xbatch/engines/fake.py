"""An engine without a model: scripted answers, failures, delays and crashes, for tests of everything around it."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from xbatch.engines import Load, ModelCard, Piece, PrefixCache
from xbatch.engines.judging import Rendered, Verdict
from xbatch.errors import EngineError
from xbatch.rows.outcome import Completion, Failure, Outcome, Usage
from xbatch.rows.request import CHAT, Prompt, Request

Answer = Callable[[Request], "str | Failure"]


def echo(request: Request) -> str:
    """Answer with the last message's content, or with the prompt."""
    if request.endpoint == CHAT:
        return str(request.body["messages"][-1]["content"])
    return str(request.body["prompt"])


class FakeEngine:
    """Answers by a function.

    `delay_s` passes before each answer. With `fail_on`, rows with these indexes get a retryable Failure
    `fake_failure`. The engine dies at the `crash_on`-th
    call (from 1), and whenever one of the rows in `poison` runs; then every call finds it dead until it is started
    again. A stream has a chunk for each word, `delay_s` after the one before. A prompt has a token for each character,
    and `cache_tokens` of them are said to be kept.
    `log` names a file that gets a line for each start and the index of each row that is asked.
    """

    def __init__(
        self,
        answer: Answer = echo,
        *,
        max_in_flight: int = 64,
        delay_s: float = 0.0,
        start_s: float = 0.0,
        cache_tokens: int = 0,
        crash_on: int | None = None,
        fail_on: frozenset[int] = frozenset(),
        poison: frozenset[int] = frozenset(),
        log: Path | None = None,
    ) -> None:
        self.max_in_flight = self.max_running = max_in_flight
        self.card = ModelCard(abilities=("generate", "chat"), context_tokens=2048)
        self.cache = PrefixCache(cache_tokens)
        self.load = Load()
        self.description = "a fake engine, for tests"
        self.started = False
        self.closed = False
        self.starts = 0
        self._dead = False
        self._answer = answer
        self._delay_s = delay_s
        self._start_s = start_s
        self._crash_on = crash_on
        self._fail_on = fail_on
        self._poison = poison
        self._log_fd = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._numbers = count(1)

    def check(self) -> None:
        """Find nothing wrong."""

    async def start(self) -> None:
        """Take `start_s` to get ready."""
        self._log("start")
        await asyncio.sleep(self._start_s)
        self.started, self.closed, self._dead = True, False, False
        self.starts += 1

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """A token for each character of all messages, or of the prompt."""
        return [_prompt(request) for request in requests]

    async def generate(self, request: Request) -> Outcome:
        """Answer as the script says."""
        self._log(str(request.index))
        if request.index in self._poison or next(self._numbers) == self._crash_on:
            self._dead = True
        await asyncio.sleep(0 if self._dead else self._delay_s)
        if self._dead:
            raise EngineError("the fake engine has crashed as it was told")
        if request.index in self._fail_on:
            return Failure("fake_failure", "the fake engine was told to fail this row", retryable=True)
        answer = self._answer(request)
        if isinstance(answer, Failure):
            return answer
        usage = Usage(prompt_tokens=len(str(request.body)) // 4, completion_tokens=len(answer.split()))
        return Completion(_body(request, answer, usage), usage)

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Answer as the script says, word by word."""
        outcome = await self.generate(request)
        if isinstance(outcome, Failure):
            yield outcome
            return
        for chunk in _chunks(request, msgspec.json.decode(outcome.body)):
            await asyncio.sleep(self._delay_s)
            if self._dead:
                raise EngineError("the fake engine has crashed as it was told")
            yield chunk
        if (request.body.get("stream_options") or {}).get("include_usage"):
            yield msgspec.json.encode(msgspec.json.decode(outcome.body) | {"choices": []})
        yield outcome.usage

    @property
    def is_dead(self) -> bool:
        """It has crashed as it was told."""
        return self._dead

    def kill(self) -> None:
        """As `close`."""
        self.close()

    def close(self) -> None:
        """Remember that nobody needs it any more."""
        self.closed = True

    def _log(self, line: str) -> None:
        if self._log_fd is not None:
            os.write(self._log_fd, f"{line}\n".encode())


class FakeJudge:
    """Finds nothing wrong; a token for each character."""

    def judge(self, requests: Sequence[Request]) -> list[Verdict]:
        """What the fake engine would make of each request."""
        prompts = [_prompt(request) for request in requests]
        return [Rendered((each.tokens,), each.max_tokens) if each else Rendered((), 0) for each in prompts]


def _prompt(request: Request) -> Prompt | None:
    given: Any = request.body.get("messages" if request.endpoint == CHAT else "prompt")
    parts = (
        [each.get("content") if isinstance(each, dict) else None for each in given] if type(given) is list else [given]
    )
    texts = [part for part in parts if isinstance(part, str)]
    limit = request.body.get("max_tokens")
    if len(texts) < len(parts):
        return None
    return Prompt("\n".join(texts).encode("utf-32-be", "replace"), limit if type(limit) is int else 16)


def _body(request: Request, text: str, usage: Usage) -> bytes:
    chat = request.endpoint == CHAT
    said: dict[str, object] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    total = usage.prompt_tokens + usage.completion_tokens
    return msgspec.json.encode(
        {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request.index}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": request.model,
            "choices": [{"index": 0, **said, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": total,
            },
        }
    )


def _chunks(request: Request, body: dict[str, Any]) -> Iterator[bytes]:
    """An answer's body as the chunks of a stream; the last one says why it ends."""
    chat = request.endpoint == CHAT
    choice = body["choices"][0]
    words = re.findall(r"\S*\s*", choice["message"]["content"] if chat else choice["text"])
    for word in words:
        said = {"delta": {"content": word}} if chat else {"text": word}
        choices = [{"index": 0, **said, "finish_reason": None if word else "stop"}]
        kind = {"object": "chat.completion.chunk"} if chat else {}
        yield msgspec.json.encode(body | {"choices": choices, "usage": None} | kind)
