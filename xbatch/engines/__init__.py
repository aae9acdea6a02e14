"""What answers requests: one verb, whatever stands behind it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from xbatch.rows.outcome import Failure, Outcome, Usage
from xbatch.rows.request import Prompt, Request

Piece: TypeAlias = bytes | Failure | Usage
"""Of an answer that is streamed: a chunk, which is one JSON object of OpenAI's API; why there is none, or no more; the
tokens of the whole answer, which come last."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is and can do."""

    abilities: tuple[str, ...] = ("generate",)
    """Xinference's words: `generate`, `chat`, `tools`, `reasoning`, `vision`."""
    context_tokens: int = 0
    """Longest prompt and answer together."""
    parameters: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    """Names of the adapters that can be asked for in the model's place."""
    unable: tuple[str, ...] = ()
    """What it surely refuses, by the names in `xbatch.rows.needs`: chats, if it has no template, and media."""


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """What an engine keeps of prompts, so that others that begin alike need not be computed from their beginning."""

    tokens: int = 0
    """So many it can hold, those of the requests that run included; 0 where nothing is kept."""
    block: int = 16
    """Tokens are kept in blocks of so many."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine tells of its work."""

    running: int = 0
    waiting: int = 0
    cache_share: float = 0.0
    """Of the cache, so much is used by requests that run."""
    preempted: int = 0
    """Requests that have lost their place in the cache to others, and were computed again."""
    prompt_tokens: int = 0
    """Tokens of prompts that have begun to run."""
    cached_tokens: int = 0
    """Those of them that were in the cache already."""


class Engine(Protocol):
    """Anything that answers requests."""

    max_running: int
    """Requests that it works on at a time; the others wait in it. Known once it is checked."""
    description: str
    """The settings that were chosen, and why, in one line; known once it is checked."""

    card: ModelCard
    """The model; known once it is checked."""
    cache: PrefixCache
    """What it keeps of prompts; known once it is started."""

    @property
    def max_in_flight(self) -> int:
        """Requests it should have at a time to be busy all the time; known once checked, and may change as it runs."""
        ...

    @property
    def load(self) -> Load:
        """Its work at this moment."""
        ...

    @property
    def is_dead(self) -> bool:
        """It was started, and can answer nothing any more until it is started again."""
        ...

    def check(self) -> None:
        """Judge the settings and look for the model, without loading it.

        Raises UsageError.
        """

    async def start(self) -> None:
        """Get ready to answer.

        Raises EngineError.
        """

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """The prompts of requests, so that they can be planned and need not be made again; None where there is none.

        Called from threads, and once it is checked also before it is started. What is wrong with a request is left
        for `generate` to tell.
        """
        ...

    async def generate(self, request: Request) -> Outcome:
        """Answer one request; many calls run at once, and a cancelled one frees its place.

        A request that can't be answered gives a Failure. Raises EngineError if the engine itself is lost.
        """

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """As `generate`, piece by piece; to close it before its end frees its place, too."""
        ...

    def kill(self) -> None:
        """End its processes without waiting for anything, from any thread; it can't be used after that."""

    def close(self) -> None:
        """Let go of everything, processes included; harmless when called twice or before the start."""
