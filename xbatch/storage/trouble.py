"""What an error of a store means, read off its whole chain of causes.

It is read off the HTTP status that an error carries, its errno or its type, never off its text; gcsfs's 403 is the one
exception, for that keeps nothing else. The libraries behind fsspec are not imported for that: their types are known by
name.
"""

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, TypeVar

T = TypeVar("T")


class Trouble(Enum):
    """What an error of a store means for the one who asked."""

    ABSENT = auto()
    TAKEN = auto()
    REFUSED = auto()
    PASSING = auto()
    LASTING = auto()
    UNREACHABLE = auto()
    """The address itself is no good: no such host, or a certificate that is not trusted."""


_ABSENT_TYPES = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_BY_TYPE: tuple[tuple[type[BaseException], Trouble], ...] = (
    (FileExistsError, Trouble.TAKEN),
    (PermissionError, Trouble.REFUSED),
    (ConnectionError, Trouble.PASSING),
    (TimeoutError, Trouble.PASSING),
    (EOFError, Trouble.PASSING),
)
_PASSING_ERRNOS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EREMOTEIO, errno.ETIMEDOUT),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
}
_BY_NAME = {
    Trouble.UNREACHABLE: {
        "aiohttp.client_exceptions.InvalidURL",
        "paramiko.ssh_exception.BadHostKeyException",
    },
    Trouble.REFUSED: {
        "botocore.exceptions.NoCredentialsError",
        "botocore.exceptions.PartialCredentialsError",
        "google.auth.exceptions.DefaultCredentialsError",
        "paramiko.ssh_exception.AuthenticationException",
        "smbprotocol.exceptions.LogonFailure",
        "smbprotocol.exceptions.SMBAuthenticationError",
    },
    Trouble.LASTING: {
        "aiohttp.client_exceptions.TooManyRedirects",
        "paramiko.ssh_exception.IncompatiblePeer",
        "requests.exceptions.TooManyRedirects",
    },
    Trouble.PASSING: {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "azure.core.exceptions.IncompleteReadError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "ftplib.error_temp",
        "google.auth.exceptions.TransportError",
        "http.client.HTTPException",
        "httpx.TransportError",
        "paramiko.ssh_exception.NoValidConnectionsError",
        "paramiko.ssh_exception.SSHException",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "smbprotocol.exceptions.SMBConnectionClosed",
    },
}
"""Types that carry no status, by name; of an error that is several of them the first kind counts."""
_ONLY_STATUS = {"aiohttp.client_exceptions.ClientResponseError", "requests.exceptions.HTTPError"}
"""Types whose text is made of the status and the address."""
_ONLY_ERRNO = {"aiohttp.client_exceptions.ClientOSError"}
_PASSING_STATUS = {408, 409, 425, 429}
_LASTING_STATUS = {501, 505}
_UNKNOWN_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None), getattr(socket, "EAI_ADDRFAMILY", None)}
_DNS_ERROR = "aiodns.error.DNSError"
_UNKNOWN_TO_ARES = {1, 4}
"""ARES_ENODATA and ARES_ENOTFOUND, which aiodns puts in front of its text."""
_NOT_TLS = {"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "RECORD_LAYER_FAILURE"}
"""What OpenSSL calls an answer that is no TLS, or of a version that is not spoken here."""


def classify(error: BaseException) -> Trouble:
    """Tell what an error means."""
    return _verdict(error)[0]


def if_there(operation: Callable[[], T]) -> T | None:
    """Return what an operation gives, None if what it looks for is not there; what is in trouble may well be there."""
    try:
        return operation()
    except Exception as e:
        if classify(e) is not Trouble.ABSENT:
            raise
        return None


def reason(error: BaseException) -> str:
    """Tell in one line why a store did not do what it was asked."""
    kind, link = _verdict(error)
    if kind is Trouble.UNREACHABLE:
        return _why_unreachable(error, link)
    if (status := _status(link)) is not None and _names(link) & _ONLY_STATUS:
        return status_text(status)
    # What is wrongly called absent says nothing else.
    says = link if isinstance(error, _ABSENT_TYPES) else error
    text = str(says)
    if isinstance(says, OSError) and says.strerror:
        # aiohttp puts the address where the reason should be.
        text = os.strerror(says.errno) if says.errno and _names(says) & _ONLY_ERRNO else says.strerror
    return " ".join(text.split()) or type(says).__name__


def _why_unreachable(error: BaseException, link: BaseException) -> str:
    if isinstance(link, ssl.SSLCertVerificationError):
        said = next(filter(None, (getattr(each, "verify_message", "") for each in _chain(error))), str(link))
        return f"its TLS certificate is not trusted ({said})"
    if isinstance(link, ssl.SSLError):
        return f"it does not speak TLS as it should ({link.reason})"
    if isinstance(link, socket.gaierror) or _DNS_ERROR in _names(link):
        host = next(filter(None, (str(getattr(each, "host", "")) for each in _chain(error))), "")
        return f"there is no host {host}".rstrip() + f" ({getattr(link, 'strerror', None) or link})"
    return " ".join(str(link).split()) or type(link).__name__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the error in a chain that tells what it means, if that carries one."""
    return _status(_verdict(error)[1])


def status_text(status: int) -> str:
    """Write an HTTP status as `503 Service Unavailable`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP status {status}"


def retry_after_s(error: BaseException) -> float:
    """Return how long the server wants to be left alone (Retry-After); 0 if it does not say."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
        else:
            headers = getattr(link, "headers", None) or getattr(response, "headers", None)
        try:
            given = next((str(headers[name]) for name in ("Retry-After", "retry-after") if name in headers), None)
        except TypeError:
            continue
        if given is not None:
            return _seconds(given)
    return 0.0


def is_unexplained(error: BaseException) -> bool:
    """Tell whether a bad request was one for a header, whose answer can't say why: S3 means old credentials too."""
    responses = (getattr(link, "response", None) for link in _chain(error))
    return any(isinstance(each, dict) and each.get("Error", {}).get("Code") == "400" for each in responses)


def _verdict(error: BaseException) -> tuple[Trouble, BaseException]:
    """Tell what an error means, and which link of its chain says so.

    The outermost link that says anything counts, with two exceptions. An address that is no good is that wherever in
    the chain it stands. And libraries call any trouble a file that does not exist (fsspec's `info` over HTTP a 503):
    that counts only if nothing beneath says otherwise.
    """
    chain = list(_chain(error))
    if (found := next((link for link in chain if _is_unreachable(link)), None)) is not None:
        return Trouble.UNREACHABLE, found
    absent: BaseException | None = None
    for link in chain:
        if isinstance(link, _ABSENT_TYPES):
            absent = absent or link
        elif (kind := _kind(link)) is None:
            continue
        # Found absent while it dealt with another refusal: it has looked in another way, as gcsfs does.
        elif absent is None or absent.__cause__ is not None or kind is Trouble.PASSING:
            return kind, link
    if absent is None:
        return Trouble.LASTING, error
    cause = absent.__cause__
    return (Trouble.ABSENT, absent) if cause is None or _means_absent(cause) else (Trouble.LASTING, cause)


def _means_absent(cause: BaseException) -> bool:
    if isinstance(cause, OSError):
        return cause.errno in {None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
    return isinstance(cause, LookupError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_unreachable(link: BaseException) -> bool:
    if isinstance(link, ssl.SSLCertVerificationError):
        return True
    if isinstance(link, ssl.SSLError):
        return getattr(link, "reason", None) in _NOT_TLS  # aiohttp's own has none
    if isinstance(link, socket.gaierror):
        return link.errno in _UNKNOWN_HOST
    names = _names(link)
    if _DNS_ERROR in names:
        return bool(link.args) and link.args[0] in _UNKNOWN_TO_ARES
    return bool(names & _BY_NAME[Trouble.UNREACHABLE])


def _kind(error: BaseException) -> Trouble | None:
    for known, kind in _BY_TYPE:
        if isinstance(error, known):
            return kind
    if (status := _status(error)) is not None:
        return _kind_of_status(status)
    names = _names(error)
    if (found := next((kind for kind, known in _BY_NAME.items() if names & known), None)) is not None:
        return found
    if isinstance(error, socket.gaierror) or _DNS_ERROR in names:
        return Trouble.PASSING
    if type(error) is OSError and error.errno is None and str(error).startswith("Forbidden: "):
        return Trouble.REFUSED  # gcsfs, of a 403
    return Trouble.PASSING if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS else None


def _kind_of_status(status: int) -> Trouble:
    if status in {401, 403}:
        return Trouble.REFUSED
    if status in {404, 410}:
        return Trouble.ABSENT
    if status == 412:
        return Trouble.TAKEN
    passing = status in _PASSING_STATUS or (status >= 500 and status not in _LASTING_STATUS)
    return Trouble.PASSING if passing else Trouble.LASTING


def _status(error: Any) -> int | None:
    """Return the HTTP status that an error of botocore, aiohttp, azure, gcsfs or requests carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    named = ((error, "status"), (error, "status_code"), (response, "status_code"), (error, "code"))
    found = (getattr(owner, name, None) for owner, name in named)  # one by one: aiohttp warns of its `code`
    status = next((each for each in found if isinstance(each, int)), 0)
    return status if 400 <= status < 600 else None


def _names(error: BaseException) -> set[str]:
    return {f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__}


def _seconds(given: str) -> float:
    """Read a Retry-After, which is a number of seconds or a date."""
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
