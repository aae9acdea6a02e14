"""The engine of a job that needs none: it answers nothing."""

from collections.abc import AsyncGenerator, Sequence

from xbatch.engines import Load, ModelCard, Piece, PrefixCache
from xbatch.rows.outcome import Outcome
from xbatch.rows.request import Prompt, Request


class NoEngine:
    """Stands where a job has no engine, and raises RuntimeError when a row asks it for anything.

    A job has none as long as no row of it can be sent. That a row asks all the same is a bug, which must never look
    like an answer.
    """

    max_in_flight = max_running = 64
    description = "none: no row can be sent"
    card = ModelCard(abilities=())
    cache = PrefixCache()
    load = Load()
    is_dead = False

    def check(self) -> None:
        """Do nothing: there are no settings."""

    async def start(self) -> None:
        """Do nothing: there is no model."""

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """Return the prompts of no requests; raise RuntimeError if there are any."""
        for request in requests:
            raise _asked(request)
        return []

    async def generate(self, request: Request) -> Outcome:
        """Raise RuntimeError."""
        raise _asked(request)

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Raise RuntimeError."""
        raise _asked(request)

    def kill(self) -> None:
        """Do nothing: there is no process."""

    def close(self) -> None:
        """Do nothing: there is no process."""


def _asked(request: Request) -> RuntimeError:
    return RuntimeError(f"row {request.index} asks for an answer, but the job has started no engine")
