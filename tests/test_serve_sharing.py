"""What batches get of the engine beside online requests."""

import asyncio
from typing import Any

from xbatch.cli.serve import _spec, serve
from xbatch.engines.fake import FakeEngine
from xbatch.rows.outcome import Completion, Outcome
from xbatch.rows.request import CHAT, Request
from xbatch.serve.sharing import BATCH_PRIORITY, BatchShare
from xbatch.serve.turns import Turns


class _Watched(FakeEngine):
    """Keeps the priority of every request, and how many it has had at a time."""

    def __init__(self) -> None:
        super().__init__(delay_s=0.01, max_in_flight=8)
        self.priorities: set[Any] = set()
        self.inside = self.most = 0

    async def generate(self, request: Request) -> Outcome:
        self.priorities.add(request.body.get("priority"))
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            return await super().generate(request)
        finally:
            self.inside -= 1


class _Kept:
    """A keeper whose engine answers."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.turns = Turns()

    async def ready(self) -> FakeEngine:
        return self.engine


def test_rows_of_all_batches_share_places_at_low_priority() -> None:
    """Two jobs together have three quarters of the engine's places, behind whatever is asked online."""
    engine = _Watched()

    async def run() -> list[Outcome]:
        engine.check()
        await engine.start()
        share = BatchShare(_Kept(engine), 0.75)  # type: ignore[arg-type]
        starters = [share.starter(), share.starter()]
        for starter in starters:
            await starter.check("demo")
            await starter.start()
        body = {"model": "demo", "messages": [{"role": "user", "content": "a"}], "priority": -5}
        jobs = [starter.engine for starter in starters]
        return await asyncio.gather(
            *(job.generate(Request(i, f"{i}", CHAT, body, 50)) for job in jobs if job for i in range(20))
        )

    outcomes = asyncio.run(run())
    assert len(outcomes) == 40
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    assert engine.priorities == {BATCH_PRIORITY}
    assert engine.most == 6


def test_the_engine_of_a_server_keeps_priorities() -> None:
    """Unless it is told otherwise: vLLM looks at priorities under this policy only."""

    def engine_of(*words: str) -> dict[str, Any]:
        options = dict(serve.make_context("serve", ["--model", "demo", *words]).params)
        for name in ("quiet", "api_keys", "api_key_file", "host", "port", "files", "cors_origins", "max_waiting"):
            options.pop(name)
        for name in ("max_body", "max_file", "max_batch_rows", "max_running_batches", "batch_share"):
            options.pop(name)
        return _spec(options).engine

    assert engine_of()["scheduling_policy"] == "priority"
    assert engine_of("--engine-arg", "scheduling_policy=fcfs")["scheduling_policy"] == "fcfs"
