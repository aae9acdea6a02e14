"""How long a store that is in trouble is waited for, and which trouble is worth the wait.

What an error means is read off the HTTP status that it carries or off its type, never off its text. The libraries
behind fsspec are not imported for that: their types are known by name.
"""

import errno
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from typing import Any, TypeVar

from xbatch.errors import StorageError, StorageUnavailable, XbatchError

T = TypeVar("T")
D = TypeVar("D")

SHORTEST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
MAX_RENEWALS = 3
"""How often a store that refuses the credentials is asked again with credentials read anew."""


class Trouble(Enum):
    """What an error of a store means for the one who asked."""

    ABSENT = auto()
    TAKEN = auto()
    REFUSED = auto()
    PASSING = auto()
    LASTING = auto()


_BY_TYPE: tuple[tuple[type[BaseException], Trouble], ...] = (
    (FileExistsError, Trouble.TAKEN),
    (FileNotFoundError, Trouble.ABSENT),
    (IsADirectoryError, Trouble.ABSENT),
    (NotADirectoryError, Trouble.ABSENT),
    (PermissionError, Trouble.REFUSED),
    (ConnectionError, Trouble.PASSING),
    (TimeoutError, Trouble.PASSING),
)
_PASSING_ERRNOS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EREMOTEIO, errno.ETIMEDOUT),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
}
_PASSING_TYPES = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "azure.core.exceptions.IncompleteReadError",
    "azure.core.exceptions.ServiceRequestError",
    "azure.core.exceptions.ServiceResponseError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
    "google.auth.exceptions.TransportError",
    "http.client.HTTPException",
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
}
_PASSING_STATUS = {408, 409, 425, 429}
_LASTING_STATUS = {501, 505}


RETRY_BUDGET_S = 900.0

_budget_s = RETRY_BUDGET_S


def set_retry_budget(seconds: float) -> None:
    """Have trouble that passes waited out for so long from here on, where nothing else is said."""
    global _budget_s  # noqa: PLW0603 - one process does one job, and a budget has no place in the words for a file
    _budget_s = seconds


class Retrying:
    """Asks again while the trouble is of the passing kind, at growing random distances.

    It does so for `budget_s` in all; None stands for the budget of the process.
    """

    def __init__(self, budget_s: float | None, renew: Callable[[], None]) -> None:
        self._budget_s = _budget_s if budget_s is None else budget_s
        self._renew = renew

    def call(self, place: str, operation: Callable[[], T], instead: Mapping[Trouble, D]) -> T | D:
        """Return what `operation` gives, or for a trouble that was reckoned with, what stands for it in `instead`.

        Raises StorageError, and StorageUnavailable when the budget is used up.
        """
        started = time.monotonic()
        tries = renewals = 0
        while True:
            trouble = None
            try:
                return operation()
            except XbatchError:
                raise
            except Exception as e:  # noqa: BLE001 - these libraries share no base class for their errors
                trouble = e
            kind = classify(trouble)
            # Credentials that have run out are refused like wrong ones, so what stands for that comes last.
            if (kind is Trouble.REFUSED or _unexplained(trouble)) and renewals < MAX_RENEWALS:
                renewals += 1
                self._renew()
            elif kind in instead:
                return instead[kind]
            elif kind is not Trouble.PASSING:
                raise StorageError(f"{place}: {reason(trouble)}") from trouble
            # Full jitter: processes that were turned away together don't come back together.
            pause = random.uniform(0, min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2**tries))  # noqa: S311
            tries += 1
            if time.monotonic() - started + pause > self._budget_s:
                waited = f"no answer within {self._budget_s:g} s, last {reason(trouble)}"
                raise StorageUnavailable(f"{place}: {waited}") from trouble
            time.sleep(pause)


def classify(error: BaseException) -> Trouble:
    """Tell what an error means; the outermost of a chain that says anything has the word."""
    chain = list(_chain(error))
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        return Trouble.LASTING
    return next((kind for link in chain if (kind := _kind(link)) is not None), Trouble.LASTING)


def _unexplained(error: BaseException) -> bool:
    """Some request was bad, and it was one for a header, whose answer can't say why: S3 means old credentials too."""
    responses = (getattr(link, "response", None) for link in _chain(error))
    return any(isinstance(each, dict) and each.get("Error", {}).get("Code") == "400" for each in responses)


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(text.split()) or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _kind(error: BaseException) -> Trouble | None:
    for known, kind in _BY_TYPE:
        if isinstance(error, known):
            return kind
    if (status := _status(error)) is not None:
        return _kind_of_status(status)
    if {f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__} & _PASSING_TYPES:
        return Trouble.PASSING
    if isinstance(error, socket.gaierror):
        return Trouble.PASSING if error.errno == socket.EAI_AGAIN else None
    return Trouble.PASSING if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS else None


def _kind_of_status(status: int) -> Trouble:
    if status in {401, 403}:
        return Trouble.REFUSED
    if status == 404:
        return Trouble.ABSENT
    if status == 412:
        return Trouble.TAKEN
    passing = status in _PASSING_STATUS or (status >= 500 and status not in _LASTING_STATUS)
    return Trouble.PASSING if passing else Trouble.LASTING


def _status(error: Any) -> int | None:
    """The HTTP status that an error of botocore, aiohttp, azure, gcsfs or requests carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    candidates = [getattr(error, name, None) for name in ("status", "status_code", "code")]
    candidates.append(getattr(response, "status_code", None))
    return next((each for each in candidates if isinstance(each, int) and 400 <= each < 600), None)
