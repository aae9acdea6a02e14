"""From a URI to a store, and what a store must be able to do if several processes are to share it."""

import secrets

from fsspec.registry import available_protocols

from xbatch.errors import AddressInvalid
from xbatch.storage.local_store import LocalStore
from xbatch.storage.naming import is_local
from xbatch.storage.remote import FsspecStore
from xbatch.storage.store import Store


def open_store(uri: str) -> Store:
    """The store at a URI: a folder of this machine, or a place that fsspec knows.

    Raises AddressInvalid if fsspec doesn't know it, what it needs is not installed, or it names no bucket or host.
    """
    protocol, _, place = uri.partition(":")
    if protocol in available_protocols() and protocol not in ("file", "local", "memory") and not place.strip("/"):
        raise AddressInvalid(f"{uri} names no bucket or host")
    return LocalStore(uri) if is_local(uri) else FsspecStore(uri)


def is_exclusive(store: Store) -> bool:
    """Find out whether of several who put under one key exactly one succeeds; leaves nothing behind.

    Also False where what was put isn't listed or read at once. A store that is found not to be looks first from then
    on, so that one process alone never puts over what is there. Raises StorageError.
    """
    if isinstance(store, FsspecStore) and store.looks_first:
        return False
    folder = f"probe-{secrets.token_hex(16)}"
    key, bodies = f"{folder}/once", [secrets.token_bytes(16) for _ in range(2)]
    try:
        won = [store.put_if_absent(key, body) for body in bodies]
        seen = store.names(folder), store.get(key)
    finally:
        store.delete_folder(folder)
    # The first put may have found out that the condition is unknown here.
    looks_first = isinstance(store, FsspecStore) and store.looks_first
    exclusive = won == [True, False] and seen == (["once"], bodies[0]) and not looks_first
    if isinstance(store, FsspecStore) and not exclusive:
        store.looks_first = True
    return exclusive
