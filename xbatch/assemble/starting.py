"""The engine of a job: built from the specification, started, and started again when it has died."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xbatch.demo import BUNDLED, MODEL_PATH
from xbatch.engines.build import build_fake, build_vllm
from xbatch.errors import EngineError
from xbatch.job.spec import JobSpec

if TYPE_CHECKING:
    from xbatch.engines import Engine
    from xbatch.rows.sizes import Expectation

START_TRIES = 3
"""An engine that has died may need a moment until its memory is free again."""
_BETWEEN_TRIES_S = 1.0


class Starter(Protocol):
    """What a job asks of whoever has its engine."""

    @property
    def engine(self) -> "Engine | None":
        """The engine, once it was checked."""

    async def check(self, model: str) -> None:
        """Make the engine of a model, and have it judge its settings.

        Raises UsageError.
        """

    async def start(self) -> None:
        """Get the engine ready, unless it is.

        Raises UsageError or EngineError.
        """

    async def revive(self) -> None:
        """Start the engine again after its death.

        Raises EngineError.
        """

    def close(self) -> None:
        """End the engine's processes, if there are any; not called by a job whose engine outlives it."""

    def kill(self) -> None:
        """As `close`, at once and from any thread."""


class EngineStarter:
    """Makes, starts and ends the engine of a job.

    `folder` is the job's on this machine, by which the processes of its engine are known; `log` is where it may write,
    and `before` is called with it before anything that writes to it is imported. `expect` tells what the rows need, as
    far as they were looked at.
    """

    def __init__(
        self,
        spec: JobSpec,
        folder: Path,
        log: Path,
        before: Callable[[Path], None],
        tell: Callable[[str], None],
        expect: "Callable[[], Expectation | None]" = lambda: None,
    ) -> None:
        self.engine: Engine | None = None
        """Once it is checked."""
        self._is_started = False
        self._model = ""
        self._spec = spec
        self._owner = str(folder.resolve())
        self._log = log
        self._before = before
        self._tell = tell
        self._expect = expect

    async def check(self, model: str) -> None:
        """Make the engine of a model, unless it is there already, and have it judge its settings.

        Raises UsageError.
        """
        if self.engine is not None and self._model == model:
            return  # it is warm
        self.close()
        self._model = model
        # Both take seconds, and who waits for the engine should hear that it is being started.
        engine = await asyncio.to_thread(self.build, model, starts=True)
        try:
            await asyncio.to_thread(engine.check)
        except BaseException:
            await asyncio.to_thread(engine.close)
            raise
        self.engine = engine
        self._tell(engine.description)

    async def start(self) -> None:
        """Load the model, unless it is loaded.

        Raises UsageError or EngineError.
        """
        assert self.engine is not None
        if not self._is_started:
            await self.engine.start()
            self._is_started = True

    async def revive(self) -> None:
        """Start the engine again after its death.

        Raises EngineError.
        """
        assert self.engine is not None
        for tries_left in reversed(range(START_TRIES)):
            await asyncio.to_thread(self.engine.close)
            try:
                await self.engine.start()
            except EngineError:
                if not tries_left:
                    raise
                await asyncio.sleep(_BETWEEN_TRIES_S)
            else:
                return

    def build(self, model: str, *, starts: bool = False) -> "Engine":
        """Make the engine of a model, not yet checked; one that `starts` has begun to, so it must be closed.

        Raises UsageError if it is not installed.
        """
        self._before(self._log)
        if self._spec.engine_name == "fake":
            return build_fake(self._spec.engine_args)
        names = [*self._spec.served_model_name, model]  # answers carry the first one
        settings, adapters = self._spec.engine_args, self._spec.lora_modules
        return build_vllm(model_place(model), names, adapters, settings, self._owner, self._expect(), starts=starts)

    def close(self) -> None:
        """End the engine's processes, if there are any."""
        self._is_started = False
        if self.engine is not None:
            self.engine.close()

    def kill(self) -> None:
        """End the engine's processes at once; from any thread."""
        if self.engine is not None:
            self.engine.kill()


def model_place(model: str) -> str:
    """Where a model is loaded from."""
    return str(MODEL_PATH) if model == BUNDLED else model
