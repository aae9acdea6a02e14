"""From a URI to the file system that fsspec opens for it, with the options that the user has given."""

import contextlib
import copy
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from fsspec.core import split_protocol, url_to_fs
from fsspec.registry import available_protocols, get_filesystem_class

from xbatch.errors import AddressInvalid, UsageError
from xbatch.masking import without_secrets
from xbatch.storage.naming import as_text, is_local, local_path
from xbatch.storage.settings import StorageSettings

READ_ONLY = ("http", "https")

_DESCRIPTOR = re.compile(r"/(dev|proc/self)/fd/\d+")
LONGEST_SILENCE_S = 60.0
"""A server of HTTP or SFTP from which nothing comes for so long is asked again."""
SHORTEST_SILENCE_S = 5.0
"""It has at least so long, however soon the waiting should end."""

# Values under these names stay texts, whatever they look like.
_TEXTS = {"key", "secret", "token", "password", "passphrase", "username", "account_key", "sas_token", "client_secret"}
# These hand every option on to the library below, which does not know those of fsspec.
_HANDS_ON = {"sftp", "ssh", "smb"}


def parse_options(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of the file systems from what the user has given.

    Dotted names nest: `client_kwargs.endpoint_url`. A name that begins with a protocol, as in `s3.anon`, is for file
    systems of that protocol only. Values are JSON where they can be, else texts. Raises UsageError.
    """
    options: dict[str, Any] = {}
    for name, text in given.items():
        *folders, last = name.split(".")
        inner = options
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--storage-option {name}: {folder} has a value of its own")
        if not all([*folders, last]) or isinstance(inner.get(last), dict):
            raise UsageError(f"--storage-option {name}: not a name")
        inner[last] = _value(last, text)
    return options


def open_fs(uri: str, settings: StorageSettings, *, fresh: bool) -> tuple[Any, str]:
    """Return the file system of a URI and the path in it; a fresh one has read the credentials again.

    Its listings are never remembered. Raises AddressInvalid if fsspec doesn't know it, or what it needs for it is not
    installed.
    """
    protocols = _protocols(uri)
    if protocols[0] in READ_ONLY:
        _check_address(uri)
    given, known = settings.options, _known()
    # A file system may change what it is given.
    options = {name: copy.deepcopy(given[name]) for name in given if name not in known or name in protocols}
    if not _HANDS_ON & set(protocols):
        options["use_listings_cache"] = False
    try:
        if protocols[0] in READ_ONLY:
            options["client_kwargs"] = {"timeout": _http_timeout(settings), **options.get("client_kwargs", {})}
        fs, path = cast("tuple[Any, str]", url_to_fs(uri, skip_instance_cache=fresh, **options))
    except ImportError as e:
        raise AddressInvalid(f"{uri}: {e}; xbatch's extras s3, gcs, azure and sftp bring what those need") from e
    except ValueError as e:
        raise AddressInvalid(f"{uri}: {e}") from e
    _limit_silence(fs)
    return fs, path


def _check_address(uri: str) -> None:
    """Raise AddressInvalid if an address of HTTP names no host, or a port that can't be."""
    try:
        address = urlsplit(uri)
        named = address.hostname and address.port != 0
    except ValueError as e:
        raise AddressInvalid(f"{uri}: {e}") from e
    if not named:
        raise AddressInvalid(f"{uri}: the address names no host and port")


def _http_timeout(settings: StorageSettings) -> Any:
    """Return how long an HTTP server may be silent; aiohttp would wait five minutes, however long it may be waited."""
    from aiohttp import ClientTimeout

    silent_s = min(LONGEST_SILENCE_S, max(SHORTEST_SILENCE_S, settings.budget_s))
    return ClientTimeout(total=None, sock_connect=silent_s, sock_read=silent_s)


@contextlib.contextmanager
def connected(fs: Any) -> Iterator[None]:
    """Use a file system's one connection, alone; if it has ended, connect again and raise ConnectionError.

    Of two threads that use paramiko's at once, either may take the other's answer, and the other waits for ever.
    """
    with alone(fs):
        try:
            yield
        except Exception as e:
            if not _has_hung_up(fs, e):
                raise
            with contextlib.suppress(Exception):  # then the next try meets the same and comes here again
                fs.client.close()
                fs._connect()  # noqa: SLF001 - in place, for everybody who has been given it
                _limit_silence(fs)
            raise ConnectionError(f"the connection has ended: {e or 'no answer'}") from e


def alone(fs: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the lock of a file system whose calls can't run side by side: of any that fsspec runs no loop for."""
    if fs.async_impl:
        return contextlib.nullcontext()
    lock: threading.RLock = vars(fs).setdefault("_xbatch_lock", threading.RLock())
    return lock


def protocol_of(uri: str) -> str:
    """Tell how a URI is reached: `file` on this machine, else what stands before `://`."""
    return "file" if is_local(uri) else _protocols(uri)[0]


def same_place(uri: str) -> str:
    """Return a name that two URIs share if they name one place, whoever has signed them."""
    if is_local(uri):
        # Path.resolve raises what is no OSError for links that lead round in a circle.
        given, real = str(local_path(uri)), os.path.realpath(local_path(uri))
        # A pipe behind a descriptor has another name in each process, under which nothing lies.
        return given if _DESCRIPTOR.fullmatch(given) and not os.path.lexists(real) else as_text(real)
    uri = without_secrets(uri)
    with contextlib.suppress(ImportError, ValueError):
        found = get_filesystem_class(protocol_of(uri))
        kind = found.protocol if isinstance(found.protocol, str) else found.protocol[0]
        # With a host in the URI the path alone would not tell one server from another.
        path = uri.split("://", 1)[1] if found._get_kwargs_from_urls(uri) else found._strip_protocol(uri)  # noqa: SLF001
        path = str(path).strip("/")
        return path if "://" in path else f"{kind}://{path}"
    return uri


def _limit_silence(fs: Any) -> None:
    """Have a server of SFTP be silent for LONGEST_SILENCE_S at most; paramiko would wait for ever."""
    if _is_sftp(fs):
        fs.ftp.get_channel().settimeout(LONGEST_SILENCE_S)


def _has_hung_up(fs: Any, error: Exception) -> bool:
    """Tell whether an SFTP connection is of no more use, which paramiko's errors do not tell but its transport does.

    After an answer that did not come in time, the next one on the same connection may be the late one.
    """
    if not _is_sftp(fs):
        return False
    transport = fs.client.get_transport()
    return transport is None or not transport.is_active() or isinstance(error, TimeoutError)


def _is_sftp(fs: Any) -> bool:
    return "sftp" in fs.protocol and hasattr(fs, "client")


def _protocols(uri: str) -> tuple[str, ...]:
    return tuple(split_protocol(part)[0] or part for part in uri.split("::"))


def _known() -> set[str]:
    return set(available_protocols())


def _value(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
