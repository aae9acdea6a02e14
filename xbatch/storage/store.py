"""What a job asks of the place that holds its state."""

from typing import Protocol

from xbatch.errors import StorageError

MAX_BODY_BYTES = 100 << 20
"""What is put if absent must be smaller: s3fs sends more in parts, and not every store looks at the condition then."""


class Store(Protocol):
    """Objects by key, in one place that several processes may share.

    A key is relative and has parts between slashes. Whatever a method raises is a StorageError that names the object;
    a remote store raises StorageUnavailable once it has not answered for as long as it was waited for.
    """

    @property
    def uri(self) -> str:
        """Where the store is."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put `data` under a key that is still free; False if it is taken.

        Whole or not at all, and durable on return. `data` is not empty and smaller than MAX_BODY_BYTES. Where the
        answer to a request can be lost on its way, a key that holds exactly `data` counts as put by this call: a
        writer who must know that it was itself, and no other, puts something of its own into `data`.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Put `data` under a key, in place of what was there. Whole or not at all, durable on return."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return what lies under a key, None if nothing does."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the last parts of the keys and folders directly below a folder, sorted; the whole store's for "".

        What is half written is never among them. A folder that has become empty may be.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove what lies under a key, if anything does."""
        ...

    def delete_folder(self, folder: str) -> None:
        """Remove everything below a folder, if there is anything."""
        ...


def check_body(place: str, data: bytes) -> None:
    """Raise StorageError for a body that not every store puts exclusively."""
    if not 0 < len(data) < MAX_BODY_BYTES:
        raise StorageError(f"{place}: {len(data)} bytes can't be put if absent, only 1 to {MAX_BODY_BYTES - 1} can")
