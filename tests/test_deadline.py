"""Durations and deadlines: what users write, in seconds."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbatch.job.deadline import seconds, seconds_until

NOW = datetime(2026, 3, 31, 22, 30, 15, 250_000, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("3600", 3600.0),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("45s", 45.0),
        ("90m", 5400.0),
        ("2h", 7200.0),
        ("2h30m", 9000.0),
        ("1d12h", 129_600.0),
        ("1d2h3m4s", 93_784.0),
        ("1.5h", 5400.0),
        ("1h0.5s", 3600.5),
    ],
)
def test_durations(text: str, expected_s: float) -> None:
    """A duration is a number of seconds, or days, hours, minutes and seconds in this order, each with its letter."""
    assert seconds(text) == expected_s
    assert seconds_until(text, NOW) == expected_s


@pytest.mark.parametrize(
    "text",
    ["", " ", "h", "1h30", "30m1h", "5x", "1 h", "-5", "-1h", "0", "0m", "inf", "nan", "-inf", "1h1h", "h1", "1,5h"],
)
def test_no_durations(text: str) -> None:
    """Anything else, nothing at all, the past and eternity are refused."""
    with pytest.raises(ValueError, match=r"no duration|no time span"):
        seconds(text)
    with pytest.raises(ValueError, match=r"no duration|no time span"):
        seconds_until(text, NOW)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_parts_add_up(days: int, hours: int, minutes: int, secs: int) -> None:
    """The parts of a duration add up, however large each is."""
    assert seconds(f"{days}d{hours}h{minutes}m{secs}s") == ((days * 24 + hours) * 60 + minutes) * 60 + secs


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("23:00", NOW.replace(hour=23, minute=0, second=0, microsecond=0)),
        ("22:30:16", NOW.replace(second=16, microsecond=0)),
        ("22:30:15", NOW.replace(second=15, microsecond=0) + timedelta(days=1)),
        ("22:30", NOW.replace(second=0, microsecond=0) + timedelta(days=1)),
        ("07:05", datetime(2026, 4, 1, 7, 5, tzinfo=NOW.tzinfo)),
        ("0:00", datetime(2026, 4, 1, tzinfo=NOW.tzinfo)),
    ],
)
def test_time_of_day(text: str, then: datetime) -> None:
    """A time of day is the next one by the user's clock: today's if it is still to come, else tomorrow's."""
    assert seconds_until(text, NOW) == (then - NOW).total_seconds()


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("2026-04-02T06:00:00Z", datetime(2026, 4, 2, 6, tzinfo=UTC)),
        ("2026-04-02T06:00+02:00", datetime(2026, 4, 2, 4, tzinfo=UTC)),
        ("2026-04-02 06:00-05:30", datetime(2026, 4, 2, 11, 30, tzinfo=UTC)),
        ("2026-04-02T06:00", datetime(2026, 4, 2, 6).astimezone()),
        ("2026-04-02 06:00", datetime(2026, 4, 2, 6).astimezone()),
    ],
)
def test_date_and_time(text: str, then: datetime) -> None:
    """A date with a time is that moment; without an offset it is local."""
    assert seconds_until(text, NOW) == (then - NOW).total_seconds()


@pytest.mark.parametrize(
    "text",
    ["24:00", "7:60", "7:", ":30", "7:-5", "7:30:15:9", "a:b", "2026-13-01T00:00", "T", "2026-04-02T", "7: 30", "10T"],
)
def test_no_times(text: str) -> None:
    """A time that no clock shows is refused."""
    with pytest.raises(ValueError, match=r".+"):
        seconds_until(text, NOW)


@pytest.mark.parametrize("text", ["2026-03-31T22:30:15+02:00", "2020-01-01T00:00Z", "2026-03-31 20:30:15Z"])
def test_over(text: str) -> None:
    """A moment in the past is refused, and said to be over."""
    with pytest.raises(ValueError, match="is over"):
        seconds_until(text, NOW)
