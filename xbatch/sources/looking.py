"""The first look at an input, before the job has begun."""

from collections.abc import Iterator
from contextlib import contextmanager

from xbatch.errors import UsageError


@contextmanager
def reading(shown_as: str) -> Iterator[None]:
    """Turn what keeps an input from being opened into UsageError."""
    try:
        yield
    except FileNotFoundError as e:
        gone = e.strerror or ""  # a server may say more
        raise UsageError(f"{shown_as} {gone if 'does not exist' in gone else 'does not exist'}") from None
    except IsADirectoryError:
        raise UsageError(f"{shown_as} is a folder") from None
    except OSError as e:
        raise UsageError(f"{shown_as} can't be read: {e.strerror or e}") from e
