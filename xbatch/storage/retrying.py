"""How a store that is in trouble is waited for."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from xbatch.errors import PlaceUnusable, StorageError, StorageUnavailable, XbatchError
from xbatch.masking import masked
from xbatch.storage.settings import StorageSettings
from xbatch.storage.trouble import Trouble, classify, is_unexplained, reason, retry_after_s

T = TypeVar("T")
D = TypeVar("D")

SHORTEST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
TELL_AFTER_S = 3.0
"""The user is told of a store that has been in trouble for so long."""
MAX_RENEWALS = 3
"""How often a store that refuses the credentials is asked again with credentials read anew."""


class Retrying:
    """A caller of stores that asks again at growing random distances while their trouble may pass.

    It does so for `budget_s` in all; None stands for what the settings say.
    """

    def __init__(self, settings: StorageSettings, renew: Callable[[], None], budget_s: float | None = None) -> None:
        self._settings = settings
        self._budget_s = settings.budget_s if budget_s is None else budget_s
        self._renew = renew

    def call(
        self,
        place: str,
        operation: Callable[[], T],
        instead: Mapping[Trouble, D],
        refusal: Callable[[Trouble, BaseException], Exception | None] = lambda _kind, _error: None,
        *,
        asks: bool = True,
    ) -> T | D:
        """Return what `operation` gives, or for a trouble that was reckoned with, what stands for it in `instead`.

        With `asks`, an operation that succeeds shows that the store can be reached.

        Raises what `refusal` makes of a trouble that does not pass, else StorageError, PlaceUnusable if the place can't
        be reached by its address, and StorageUnavailable when the budget is used up.
        """
        started = time.monotonic()
        tries = renewals = 0
        while True:
            trouble = None
            try:
                found = operation()
            except XbatchError:
                raise
            except Exception as e:  # noqa: BLE001 - these libraries share no base class for their errors
                trouble = e
            else:
                if asks:
                    self._answered(place, started)
                return found
            kind = self._kind(place, trouble)
            # Credentials that have run out are refused like wrong ones, so what stands for that comes last.
            may_renew = renewals < MAX_RENEWALS and self._has_time(started, tries)
            if may_renew and (kind is Trouble.REFUSED or is_unexplained(trouble)):
                renewals += 1
                with suppress(Exception):  # then the next try meets the same trouble
                    self._renew()
            elif kind in instead:
                self._answered(place, started)
                return instead[kind]
            elif kind is not Trouble.PASSING:
                refused = PlaceUnusable if kind is Trouble.UNREACHABLE else StorageError
                raise refusal(kind, trouble) or refused(f"{place}: {reason(trouble)}") from trouble
            tries += 1
            self._pause(place, started, tries, trouble)

    def _has_time(self, started: float, tries: int) -> bool:
        """Tell whether the next pause is sure to end within the budget."""
        return time.monotonic() - started + _longest_pause_s(tries) <= self._budget_s

    def _pause(self, place: str, started: float, tries: int, trouble: Exception) -> None:
        """Wait before the next try. Raises StorageUnavailable if there is no time left for one."""
        waited_s = time.monotonic() - started
        # Full jitter: processes that were turned away together don't come back together.
        pause_s = random.uniform(0, _longest_pause_s(tries - 1))  # noqa: S311
        # However long the server wants to be left alone, there is one last try at the end of the budget.
        pause_s = max(pause_s, min(retry_after_s(trouble), self._budget_s - waited_s - SHORTEST_PAUSE_S))
        if waited_s + pause_s > self._budget_s:
            waited = f"no answer within {_span(self._budget_s)} (--storage-timeout), last {reason(trouble)}"
            raise StorageUnavailable(f"{place}: {waited}") from trouble
        if waited_s + pause_s > TELL_AFTER_S and self._settings.seen.wait(_store_of(place)):
            most = f"up to {_span(self._budget_s)} (--storage-timeout)"
            self._settings.tell(masked(f"waiting for {place}: {reason(trouble)}; {most}"))
        time.sleep(pause_s)

    def _kind(self, place: str, trouble: Exception) -> Trouble:
        kind = classify(trouble)
        # A store that has answered exists: a name server that does not know it now is in trouble itself.
        is_known = kind is Trouble.UNREACHABLE and self._settings.seen.has_answered(_store_of(place))
        return Trouble.PASSING if is_known else kind

    def _answered(self, place: str, started: float) -> None:
        if self._settings.seen.answer(_store_of(place)):
            self._settings.tell(masked(f"{place} answers again, after {_span(time.monotonic() - started)}"))


def _longest_pause_s(tries: int) -> float:
    # After days of trouble two to the power of the tries would be no number any more.
    return min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2.0 ** min(tries, 32))


def _store_of(place: str) -> str:
    """Return the protocol and the host, or the bucket, of a URI."""
    protocol, separator, rest = place.partition("://")
    return protocol + separator + rest.partition("/")[0].partition("?")[0]


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:.3g} s"
