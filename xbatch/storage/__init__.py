"""Where bytes lie: the only part that knows fsspec, and the only one that publishes."""

from xbatch.masking import MASK, masked, masked_all, replace_secrets, without_secrets
from xbatch.storage.filesystems import parse_options, protocol_of, same_place
from xbatch.storage.finding import expand, file_key, files_below, glob_root, is_folder
from xbatch.storage.local import (
    check_writable,
    is_disk_trouble,
    make_folder,
    publish_file,
    put,
    put_if_absent,
    sync_file,
    sync_folder,
    translated,
)
from xbatch.storage.local_store import LocalStore
from xbatch.storage.naming import as_text, is_local, local_path, shown_name
from xbatch.storage.opening import is_exclusive, open_store
from xbatch.storage.pipes import is_special, spool_special, spool_stdin
from xbatch.storage.publishing import (
    check_uri_writable,
    existing,
    exists,
    names_beside,
    publish_to,
    remove,
    sweep_beside,
)
from xbatch.storage.reading import (
    READ_BUFFER_BYTES,
    content_stat,
    open_read,
    size_of,
    spool,
    stat,
)
from xbatch.storage.remote import FsspecStore
from xbatch.storage.remote_reader import Stat
from xbatch.storage.settings import StorageSettings, current_settings, own_context, use_settings, using
from xbatch.storage.store import MAX_BODY_BYTES, Store
from xbatch.storage.streams import is_descriptor, open_stream, stream_of

__all__ = [
    "MASK",
    "MAX_BODY_BYTES",
    "READ_BUFFER_BYTES",
    "FsspecStore",
    "LocalStore",
    "Stat",
    "StorageSettings",
    "Store",
    "as_text",
    "check_uri_writable",
    "check_writable",
    "content_stat",
    "current_settings",
    "existing",
    "exists",
    "expand",
    "file_key",
    "files_below",
    "glob_root",
    "is_descriptor",
    "is_disk_trouble",
    "is_exclusive",
    "is_folder",
    "is_local",
    "is_special",
    "local_path",
    "make_folder",
    "masked",
    "masked_all",
    "names_beside",
    "open_read",
    "open_store",
    "open_stream",
    "own_context",
    "parse_options",
    "protocol_of",
    "publish_file",
    "publish_to",
    "put",
    "put_if_absent",
    "remove",
    "replace_secrets",
    "same_place",
    "shown_name",
    "size_of",
    "spool",
    "spool_special",
    "spool_stdin",
    "stat",
    "stream_of",
    "sweep_beside",
    "sync_file",
    "sync_folder",
    "translated",
    "use_settings",
    "using",
    "without_secrets",
]
