"""An engine without a model: scripted answers, failures, delays and crashes, for tests of everything around it."""

import asyncio
from collections.abc import Callable
from itertools import count

import msgspec

from xbatch.errors import EngineError
from xbatch.rows.outcome import Completion, Failure, Outcome, Usage
from xbatch.rows.request import CHAT, Request

Answer = Callable[[Request], "str | Failure"]


def echo(request: Request) -> str:
    """Answer with the last message's content, or with the prompt."""
    if request.endpoint == CHAT:
        return str(request.body["messages"][-1]["content"])
    return str(request.body["prompt"])


class FakeEngine:
    """Answers by a function.

    `delay_s` passes before each answer; the `crash_on`-th call (from 1) and all later ones find the engine dead;
    with `fail_on`, rows with these indexes get a Failure `fake_failure`.
    """

    def __init__(
        self,
        answer: Answer = echo,
        *,
        max_in_flight: int = 64,
        delay_s: float = 0.0,
        start_s: float = 0.0,
        crash_on: int | None = None,
        fail_on: frozenset[int] = frozenset(),
    ) -> None:
        self.max_in_flight = max_in_flight
        self.description = "a fake engine, for tests"
        self.started = False
        self.closed = False
        self._answer = answer
        self._delay_s = delay_s
        self._start_s = start_s
        self._crash_on = crash_on
        self._fail_on = fail_on
        self._numbers = count(1)

    def check(self) -> None:
        """Find nothing wrong."""

    async def start(self) -> None:
        """Take `start_s` to get ready."""
        await asyncio.sleep(self._start_s)
        self.started = True

    async def generate(self, request: Request) -> Outcome:
        """Answer as the script says."""
        number = next(self._numbers)
        if self._crash_on is not None and number >= self._crash_on:
            raise EngineError("the fake engine has crashed as it was told")
        await asyncio.sleep(self._delay_s)
        if request.index in self._fail_on:
            return Failure("fake_failure", "the fake engine was told to fail this row", retryable=True)
        answer = self._answer(request)
        if isinstance(answer, Failure):
            return answer
        usage = Usage(prompt_tokens=len(str(request.body)) // 4, completion_tokens=len(answer.split()))
        return Completion(_body(request, answer, usage), usage)

    def close(self) -> None:
        """Remember that nobody needs it any more."""
        self.closed = True


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
