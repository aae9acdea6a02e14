"""What a URI, a key and a temporary file are called."""

import re
import secrets
from pathlib import Path

from xbatch.errors import StorageError

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp", re.DOTALL)
_KEPT = 50
"""Characters of a name that its temporary one keeps: at most 200 bytes, so that no file system finds it too long."""


# Bytes of a local file's name that are no UTF-8, which Python turns into surrogates that no UTF-8 file can hold, stand
# in URIs as characters of a private area instead: names go into job files, reports and messages.
_BYTES = {0xDC00 + byte: 0x10F000 + byte for byte in range(0x80, 0x100)}
_BYTES_BACK = {private: surrogate for surrogate, private in _BYTES.items()}
_BYTES_SHOWN = {0x10F000 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}


def as_text(name: str) -> str:
    """Return a name as the operating system gave it in a form that can be encoded; `local_path` takes it back."""
    return name if name.isascii() else name.translate(_BYTES)


def shown_name(uri: str) -> str:
    """Return a URI as messages show it, bytes that are no UTF-8 in hexadecimal."""
    return uri if uri.isascii() else uri.translate(_BYTES_SHOWN)


def is_local(uri: str) -> bool:
    """Tell whether a URI names a place on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """Return the path behind a local URI.

    Raises StorageError if the URI is not local.
    """
    if not is_local(uri):
        raise StorageError(f"{uri} is not on this machine")
    name = uri.removeprefix("file://")
    return Path(name if name.isascii() else name.translate(_BYTES_BACK))


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
