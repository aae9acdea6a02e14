"""Where bytes lie: the only part that knows fsspec, and the only one that publishes."""

from xbatch.storage.local import (
    check_writable,
    is_disk_trouble,
    make_folder,
    publish_file,
    put,
    put_if_absent,
    sweep_beside,
    sync_file,
    sync_folder,
    translated,
)
from xbatch.storage.local_store import LocalStore
from xbatch.storage.naming import is_local, local_path
from xbatch.storage.opening import is_exclusive, open_store
from xbatch.storage.reading import READ_BUFFER_BYTES, Stat, content_stat, expand, open_read, spool, stat
from xbatch.storage.remote import FsspecStore
from xbatch.storage.store import MAX_BODY_BYTES, Store

__all__ = [
    "MAX_BODY_BYTES",
    "READ_BUFFER_BYTES",
    "FsspecStore",
    "LocalStore",
    "Stat",
    "Store",
    "check_writable",
    "content_stat",
    "expand",
    "is_disk_trouble",
    "is_exclusive",
    "is_local",
    "local_path",
    "make_folder",
    "open_read",
    "open_store",
    "publish_file",
    "put",
    "put_if_absent",
    "spool",
    "stat",
    "sweep_beside",
    "sync_file",
    "sync_folder",
    "translated",
]
