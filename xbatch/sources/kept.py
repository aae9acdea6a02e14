"""What a source keeps open between two calls, so that the second one goes on where the first has ended."""

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar, cast

MAX_KEPT = 8
"""Files that all sources of a process together keep open while nobody reads them."""


class Closable(Protocol):
    """Something with a file behind it."""

    def close(self) -> None:
        """Give the file back."""


T = TypeVar("T", bound=Closable)

_lock = threading.Lock()
_kept: OrderedDict[object, Closable] = OrderedDict()


class Kept(Generic[T]):
    """A place for one open thing. It may lose it, for of all that are kept the oldest are closed."""

    def put(self, thing: T) -> None:
        """Keep something that nobody uses now."""
        with _lock:
            _kept[self] = thing
            surplus = [_kept.popitem(last=False)[1] for _ in range(len(_kept) - MAX_KEPT)]
        for each in surplus:
            each.close()

    def take(self) -> T | None:
        """What was kept, if it still is; it is the caller's from here on."""
        with _lock:
            return cast("T | None", _kept.pop(self, None))

    def close(self) -> None:
        """Close what is kept, if anything is."""
        if (thing := self.take()) is not None:
            thing.close()
