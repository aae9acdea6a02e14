"""What a URI, a key and a temporary file are called."""

import re
import secrets
from pathlib import Path

from xbatch.errors import StorageError

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp", re.DOTALL)
_KEPT = 50
"""Characters of a name that its temporary one keeps: at most 200 bytes, so that no file system finds it too long."""


def is_local(uri: str) -> bool:
    """Tell whether a URI names a place on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path behind a local URI.

    Raises StorageError if the URI is not local.
    """
    if not is_local(uri):
        raise StorageError(f"{uri} is not on this machine")
    return Path(uri.removeprefix("file://"))


def temporary_name(name: str) -> str:
    """A name that nobody else uses, for what will be `name` once it is whole."""
    return f".{name[:_KEPT]}.{secrets.token_hex(6)}.tmp"


def is_temporary_of(temporary: str, name: str, *, prefix: bool = False) -> bool:
    """Tell whether `temporary_name` gave the one name for the other, or for one that begins with it."""
    end = "" if prefix else "."
    return is_temporary(temporary) and temporary.startswith(f".{name[:_KEPT]}{end}")


def is_temporary(name: str) -> bool:
    """Tell whether `temporary_name` gave this name."""
    return _TEMPORARY.fullmatch(name) is not None


def check_key(key: str) -> str:
    """Return a key that every store can hold.

    Raises StorageError if a part of it is empty, `.`, `..` or the name of a temporary file, or has a NUL.
    """
    parts = key.split("/")
    if "\0" in key or not all(parts) or {".", ".."} & set(parts) or any(map(is_temporary, parts)):
        raise StorageError(f"{key!r} can't be the key of an object")
    return key


def check_folder(folder: str) -> str:
    """Return the name of a folder, which is a key or, for the whole store, empty. Raises StorageError."""
    return check_key(folder) if folder else folder
