"""Outputs that go to streams: made as files, then copied out."""

import os
import select
from collections.abc import Callable, Mapping

from xbatch import storage
from xbatch.errors import StorageError

_PIECE_BYTES = 1 << 16


class Streams:
    """The streams of a job, each with the file that is copied to it in the end.

    Descriptors of this process are kept from the beginning, for what is printed later goes to a log instead; where
    that has begun already, `kept` has the user's own by name.
    """

    def __init__(self, streams: Mapping[str, str], kept: Mapping[str, int]) -> None:
        self._streams = streams
        self._kept = {
            name: os.dup(kept[name]) if name in kept else storage.open_stream(name)
            for name in streams.values()
            if storage.is_descriptor(name)
        }

    def send(self, tell: Callable[[str], None]) -> None:
        """Copy every file to its stream, which may wait for a reader. Raises StorageError."""
        for path, name in self._streams.items():
            try:
                if (descriptor := self._kept.get(name)) is None:
                    tell(f"writing to {name}")
                    descriptor = storage.open_stream(name)
                _copy(path, descriptor)
                os.close(descriptor)
            except BrokenPipeError:
                continue  # whoever reads has read enough
            except OSError as e:
                raise StorageError(f"{name}: {e.strerror or e}") from e


def _copy(path: str, descriptor: int) -> None:
    with open(path, "rb") as file:
        while data := memoryview(file.read(_PIECE_BYTES)):
            while data:
                try:
                    data = data[os.write(descriptor, data) :]
                except BlockingIOError:  # a pipe that somebody else has set so
                    select.select([], [descriptor], [])
