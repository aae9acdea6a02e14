"""Keeps the one engine of a server alive."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeAlias

from xbatch.assemble.starting import EngineStarter
from xbatch.engines import Engine
from xbatch.serve.errors import ApiProblem
from xbatch.serve.turns import Turns

EngineState: TypeAlias = Literal["loading", "ready", "restarting", "failed"]
_LOOK_S = 0.5
"""An engine that nobody asks anything dies unheard, so it is looked at from time to time."""
_RETRY_AFTER_S = 10


class EngineKeeper:
    """Starts an engine, starts it again whenever it has died, and tells whether it answers.

    Whoever asks the engine takes part in `turns`.
    """

    def __init__(self, starter: EngineStarter, model: str, tell: Callable[[str], None]) -> None:
        self.state: EngineState = "loading"
        self.restarts = 0
        self.turns = Turns()
        self._starter = starter
        self._model = model
        self._tell = tell
        self._ready = asyncio.Event()
        self._suspicion = asyncio.Event()

    async def keep(self) -> None:
        """Keep the engine alive until cancelled.

        Raises UsageError or EngineError once it can't be started.
        """
        try:
            await self._starter.check(self._model)
            await self._starter.start()
            self._become_ready()
            while True:
                await self._death()
                self.state = "restarting"
                self._ready.clear()
                self._tell("vLLM's engine has died; starting it again")
                await self._starter.revive()
                self.restarts += 1
                self._become_ready()
        except Exception:
            self.state = "failed"
            raise

    @property
    def engine(self) -> Engine:
        """The engine, which answers. Raises ApiProblem if it does not at this moment."""
        engine = self._starter.engine
        if engine is None or not self._ready.is_set() or engine.is_dead:
            self.suspect()
            words = "is being loaded" if self.state == "loading" else "is being started again"
            raise unavailable(f"the model {words}: try again in a moment")
        return engine

    @property
    def known(self) -> Engine | None:
        """The engine once it was started, also while it is dead."""
        return None if self.state == "loading" else self._starter.engine

    async def ready(self) -> Engine:
        """Wait until the engine answers."""
        while True:
            with suppress(ApiProblem):
                return self.engine
            await self._ready.wait()
            await asyncio.sleep(0)

    def suspect(self) -> None:
        """Have the engine looked at now: somebody has found it dead."""
        self._suspicion.set()

    def close(self) -> None:
        """End the engine's processes."""
        self._starter.close()

    def kill(self) -> None:
        """As `close`, at once and from any thread."""
        self._starter.kill()

    def _become_ready(self) -> None:
        self.state = "ready"
        self._ready.set()

    async def _death(self) -> None:
        while self._starter.engine is not None and not self._starter.engine.is_dead:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._suspicion.wait(), _LOOK_S)
            self._suspicion.clear()


def unavailable(message: str) -> ApiProblem:
    """The answer while there is no engine."""
    headers = {"Retry-After": str(_RETRY_AFTER_S)}
    return ApiProblem(503, message, code="engine_unavailable", headers=headers)
