"""The index pass in a thread of its own, so that an engine can load meanwhile."""

from collections.abc import Callable, Iterable, Iterator

from xbatch.planning.index import Index, index_rows
from xbatch.planning.repeats import LinePlace
from xbatch.rows.request import ParsedRow
from xbatch.rows.row import Row
from xbatch.threads import Thread


class IndexPass:
    """Fills in an Index; how far it has come can be seen in the index at any time."""

    def __init__(
        self,
        scans: Iterable[Iterator[Row]],
        index: Index,
        places: Callable[[LinePlace], str],
        shard_rows: int,
        parse_row: Callable[[Row], ParsedRow],
    ) -> None:
        self._work = (scans, index, places)
        self._shard_rows = shard_rows
        self._parse_row = parse_row
        self._trouble: Exception | None = None
        self._thread = Thread(target=self._run, name="index", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; True if it is reached.

        Raises what went wrong in the thread.
        """
        self._thread.join(timeout_s)
        if self._trouble is not None:
            raise self._trouble
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            index_rows(*self._work, shard_rows=self._shard_rows, parse_row=self._parse_row)
        except Exception as e:  # noqa: BLE001 - carried over to the caller's thread
            self._trouble = e
