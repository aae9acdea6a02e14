"""Suggestions for names that are not known."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache

_SHOWN = 20


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'text'?)` if a known name is much like the given one, else nothing."""
    return _suggestion(name, tuple(known))


def listed(names: Iterable[str]) -> str:
    """Name columns for the user, the first of them if there are many."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "no columns"


@lru_cache(maxsize=256)
def _suggestion(name: str, known: tuple[str, ...]) -> str:
    by_lower = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), by_lower, 1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
