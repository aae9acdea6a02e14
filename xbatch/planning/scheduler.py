"""Which requests wait and which are in flight."""

from collections import deque

from xbatch.rows.request import Request

WAITING_BYTES = 32 << 20


class Scheduler:
    """Admits requests to an engine in the order in which they were offered.

    Two containers: `waiting` is bounded by bytes, `in flight` by the engine's own limit.
    """

    def __init__(self, max_in_flight: int, max_waiting_bytes: int = WAITING_BYTES) -> None:
        self._max_in_flight = max_in_flight
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Request] = deque()
        self._waiting_bytes = 0
        self._in_flight: set[int] = set()

    @property
    def in_flight(self) -> int:
        """Requests that the engine has and has not answered."""
        return len(self._in_flight)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._waiting and not self._in_flight

    @property
    def hungry(self) -> bool:
        """More rows should be read: fewer wait than the engine could take at once, and memory allows."""
        return len(self._waiting) < self._max_in_flight and self._waiting_bytes < self._max_waiting_bytes

    def offer(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)
        self._waiting_bytes += request.num_bytes

    def admit(self) -> list[Request]:
        """Take the requests out that should be submitted now; they are in flight from here on."""
        admitted = []
        while self._waiting and len(self._in_flight) < self._max_in_flight:
            request = self._waiting.popleft()
            self._waiting_bytes -= request.num_bytes
            self._in_flight.add(request.index)
            admitted.append(request)
        return admitted

    def settle(self, request: Request) -> None:
        """Note that a request in flight has its outcome."""
        self._in_flight.remove(request.index)
