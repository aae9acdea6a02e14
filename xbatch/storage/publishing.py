"""Finished files, given their final names wherever those lie."""

import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xbatch.errors import AddressInvalid, PlaceUnusable, StorageError, StorageUnavailable, UsageError
from xbatch.storage.filesystems import READ_ONLY, protocol_of
from xbatch.storage.local import check_writable, is_disk_trouble, publish_file, translated
from xbatch.storage.local import sweep_beside as sweep_beside_path
from xbatch.storage.naming import is_local, local_path
from xbatch.storage.remote_file import RemoteFile

_ASKED_ONE_BY_ONE = 16
"""Files of a store's folder for which it is asked one by one; of more, it is asked what the folder holds."""


def publish_to(uri: str, path: Path) -> None:
    """Give a finished, synced file of this machine its final name, in place of the regular file that was there.

    Whole or not at all, and durable on return. The file at `path` may be gone afterwards. Raises StorageError.
    """
    if not is_local(uri):
        RemoteFile(uri).publish(path)
        return
    with translated(uri):
        publish_file(path, local_path(uri))


def exists(uri: str) -> bool:
    """Tell whether there is a file. Raises StorageError."""
    return local_path(uri).is_file() if is_local(uri) else RemoteFile(uri).exists


def existing(uris: Sequence[str]) -> list[str]:
    """Return those of some places at which there is a file, as far as this user may know. Raises StorageError."""
    folders: dict[str, list[str]] = {}
    for uri in uris:
        folders.setdefault(uri[: uri.rfind("/") + 1], []).append(uri)
    return [uri for folder, inside in folders.items() for uri in _existing_in(folder, inside)]


def _existing_in(folder: str, uris: list[str]) -> list[str]:
    if is_local(uris[0]):
        return [uri for uri in uris if local_path(uri).is_file()]
    if len(uris) > _ASKED_ONE_BY_ONE:
        names = set(RemoteFile(uris[0]).names_beside(seen=True))
        return [uri for uri in uris if uri[len(folder) :] in names]
    return [uri for uri in uris if RemoteFile(uri).seen]


def remove(uri: str) -> None:
    """Remove a file, if there is a regular one. Raises StorageError."""
    if not is_local(uri):
        RemoteFile(uri).delete()
        return
    with translated(uri), suppress(FileNotFoundError):
        if stat.S_ISREG((path := local_path(uri)).stat().st_mode):
            path.unlink()


def names_beside(uri: str) -> list[str]:
    """Return the names of what lies in the folder of a file, there or not, in order. Raises StorageError."""
    if not is_local(uri):
        return RemoteFile(uri).names_beside()
    folder = local_path(uri).parent
    with translated(str(folder)):
        return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def sweep_beside(uri: str, *, prefix: bool = False) -> None:
    """Remove what killed processes have left of a file that was to be published; only while nobody publishes it.

    On S3 that is its uploads that never ended. With `prefix` it is that of all files beside it whose names begin with
    its name. Raises StorageError.
    """
    if is_local(uri):
        with translated(uri):
            sweep_beside_path(local_path(uri), prefix=prefix)
    else:
        RemoteFile(uri).sweep(prefix=prefix)


def check_uri_writable(uri: str) -> None:
    """Find out whether a file could be published there, leaving nothing behind.

    Raises UsageError if the place is wrong, PlaceUnusable if it can't be reached by its address, and StorageError if it
    is in trouble.
    """
    if protocol_of(uri) in READ_ONLY:
        raise UsageError(f"the output {uri} can't be written: HTTP is for inputs only")
    try:
        if is_local(uri):
            check_writable(local_path(uri))
        else:
            RemoteFile(uri).try_out()
    except OSError as e:
        kind = StorageError if is_disk_trouble(e) else UsageError
        raise kind(f"the output {uri} can't be written: {e.strerror or e}") from e
    except StorageUnavailable:
        raise
    except StorageError as e:
        # A name server may know the host later, and then a watcher has to try again.
        may_pass = isinstance(e, PlaceUnusable) and not isinstance(e, AddressInvalid)
        wrong = PlaceUnusable if may_pass else UsageError
        raise wrong(f"the output can't be written: {e}") from e
