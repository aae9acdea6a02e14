"""How the stores of one job are reached: their options, how long trouble is waited for, and who is told of it.

They are bound to a context (contextvars), so that several jobs in one process, each in threads and tasks of its own,
never see each other's. What lives longer than one call takes them from the context when it is made.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

RETRY_BUDGET_S = 900.0


def _tell_nobody(_: str) -> None:
    pass


class StoresSeen:
    """Which stores have answered a job, and which are waited for, so that the user is told of each outage once."""

    def __init__(self) -> None:
        self._answered: set[str] = set()
        self._waited_for: set[str] = set()
        self._lock = threading.Lock()

    def has_answered(self, store: str) -> bool:
        """Tell whether a store has ever answered."""
        return store in self._answered

    def wait(self, store: str) -> bool:
        """Note that a store is waited for; False if the user knows that already."""
        with self._lock:
            known = store in self._waited_for
            self._waited_for.add(store)
            return not known

    def answer(self, store: str) -> bool:
        """Note that a store answers; True if the user was told that it did not."""
        with self._lock:
            self._answered.add(store)
            told = store in self._waited_for
            self._waited_for.discard(store)
            return told


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How the stores of one job are reached; replaced as a whole, never changed."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the file systems, nested, by fsspec's names."""
    budget_s: float = RETRY_BUDGET_S
    """Trouble that may pass is waited out for so long."""
    tell: Callable[[str], None] = _tell_nobody
    """Is called, from any thread, with a sentence when a store has to be waited for and when it answers again."""
    seen: StoresSeen = field(default_factory=StoresSeen)


_current: ContextVar[StorageSettings] = ContextVar("storage settings", default=StorageSettings())  # noqa: B039 - frozen


def current_settings() -> StorageSettings:
    """Return the settings that the current context has."""
    return _current.get()


def use_settings(settings: StorageSettings) -> None:
    """Reach stores with these settings from here on, in this context and in those copied from it later."""
    _current.set(settings)


@contextlib.contextmanager
def using(settings: StorageSettings) -> Iterator[None]:
    """Reach stores with these settings inside of the block."""
    token = _current.set(settings)
    try:
        yield
    finally:
        _current.reset(token)


def own_context(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function run in a copy of its caller's context: settings that it uses are not left to the caller."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return copy_context().run(function, *args, **kwargs)

    return call
