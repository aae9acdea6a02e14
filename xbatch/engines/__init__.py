"""What answers requests: one verb, whatever stands behind it."""

from typing import Protocol

from xbatch.rows.outcome import Outcome
from xbatch.rows.request import Request


class Engine(Protocol):
    """Anything that answers requests."""

    max_in_flight: int
    """Requests it should have at a time to be busy all the time; known once it is checked."""
    description: str
    """The settings that were chosen, and why, in one line; known once it is checked."""

    def check(self) -> None:
        """Judge the settings and look for the model, without loading it.

        Raises UsageError.
        """

    async def start(self) -> None:
        """Get ready to answer; may block the event loop, for a model may have to be loaded.

        Raises EngineError.
        """

    async def generate(self, request: Request) -> Outcome:
        """Answer one request; many calls run at once, and a cancelled one frees its place.

        A request that can't be answered gives a Failure. Raises EngineError if the engine itself is lost.
        """

    def kill(self) -> None:
        """End its processes without waiting for anything, from any thread; it can't be used after that."""

    def close(self) -> None:
        """Let go of everything, processes included; harmless when called twice or before the start."""
