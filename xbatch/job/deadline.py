"""Durations and times as users write them."""

import re
from datetime import datetime, timedelta

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")

LONGEST_S = 366 * _UNITS_S["d"]
"""The longest duration that is taken."""
_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?")


def seconds(text: str) -> float:
    """Read a duration: a number of seconds, or `1d12h`, `90m`, `2h30m`, `45s`.

    Raises ValueError.
    """
    try:
        found = float(text)
    except ValueError:
        match = _DURATION.fullmatch(text)
        if not text or match is None:
            raise ValueError(f"{text!r} is no duration such as 90m, 2h30m or 3600") from None
        found = sum(float(n or 0) * unit for n, unit in zip(match.groups(), _UNITS_S.values(), strict=True))
    if not 0 < found < float("inf"):
        raise ValueError(f"{text!r} is no time span ahead")
    if found > LONGEST_S:
        raise ValueError(f"{text!r} is longer than {LONGEST_S / _UNITS_S['d']:g}d")
    return found


def seconds_until(text: str, now: datetime) -> float:
    """Read a deadline: a duration from now on, a time of day (the next one), or a date and time of ISO 8601.

    Times without an offset are local; `now` has an offset. Raises ValueError.
    """
    if not re.search("[:T]", text):
        return seconds(text)
    if "T" not in text and " " not in text:
        if not _TIME_OF_DAY.fullmatch(text):
            raise ValueError(f"{text!r} is no time of day such as 06:00")
        hour, minute, *second = (int(part) for part in text.split(":"))
        then = now.replace(hour=hour, minute=minute, second=second[0] if second else 0, microsecond=0)
        if then <= now:
            then += timedelta(days=1)
    else:
        try:
            then = datetime.fromisoformat(text)
            if then.tzinfo is None:
                then = then.astimezone()
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"{text!r} is no date and time such as 2030-01-31T06:00") from None
    left_s = (then - now).total_seconds()
    if left_s <= 0:
        raise ValueError(f"{text} is over")
    return left_s
