"""Which requests wait and which are in flight."""

from collections import deque

from xbatch.planning.waiting import Order, Waiting
from xbatch.rows.request import Request

LOOK_AHEAD = 32 << 20
"""Memory for requests that wait."""
SUSPECT_AT = 2
"""A row that was in flight at so many deaths of the engine is run apart from the others."""
GUILTY_AT = 2
"""A row that was in flight alone at so many deaths of the engine is not run again."""


class Scheduler:
    """Admits requests to an engine, in the order that is best for it.

    `waiting` is bounded by the memory that it takes, `in flight` by the engine's own limit. Rows in flight when the
    engine died wait again; those to which it happens a second time are suspects. Suspects run after all others, one
    group at a time, and a group at which the engine dies is halved, until the row that kills it is alone.
    """

    def __init__(
        self,
        max_in_flight: int,
        look_ahead: int = LOOK_AHEAD,
        order: Order = "auto",
        max_running: int | None = None,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._look_ahead = look_ahead
        self._waiting = Waiting(order, max_running or max_in_flight)
        self._in_flight: dict[int, Request] = {}
        self._strikes: dict[int, int] = {}
        self._alone: dict[int, int] = {}
        self._suspects: list[Request] = []
        self._groups: deque[list[Request]] = deque()
        self._isolating = False

    @property
    def in_flight(self) -> int:
        """Requests that the engine has and has not answered."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Requests that may run beside others and are not submitted."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not (self._waiting or self._in_flight or self._suspects or self._groups)

    def hungry(self, held_bytes: int = 0) -> bool:
        """More rows should be read: memory allows, `held_bytes` of which is taken by other rows that wait."""
        return self._waiting.num_bytes + held_bytes < self._look_ahead

    @property
    def alone(self) -> bool:
        """What is in flight is one suspect by itself."""
        return self._isolating and len(self._in_flight) == 1

    def allow(self, max_in_flight: int) -> None:
        """Have no more than so many requests in flight from here on."""
        self._max_in_flight = max_in_flight

    def know_cache(self, tokens: int, block: int) -> None:
        """Take in how many tokens of prompts the engine can keep, and in what blocks."""
        self._waiting.know_cache(tokens, block)

    def offer(self, request: Request, strikes: int = 0, alone: int = 0) -> bool:
        """Let a request wait for its turn; False if it must not run, for it has killed the engine alone.

        `strikes` counts the deaths at which it was in flight before, `alone` those of them at which it was alone.
        """
        if alone >= GUILTY_AT:
            return False
        if strikes:
            self._strikes[request.index] = strikes
            self._alone[request.index] = alone
        if strikes >= SUSPECT_AT:
            self._suspects.append(request)
        else:
            self._waiting.add(request)
        return True

    def admit(self, *, more: bool = False) -> list[Request]:
        """Take the requests out that should be submitted now; they are in flight from here on.

        With `more`, rows are being read that may run before the suspects.
        """
        if self._isolating and self._in_flight:
            return []
        admitted = []
        while self._waiting and len(self._in_flight) < self._max_in_flight:
            request = self._waiting.take()
            self._in_flight[request.index] = request
            admitted.append(request)
        self._isolating = not self._in_flight and not more
        return admitted or (self._next_group() if self._isolating else [])

    def settle(self, request: Request, answer_tokens: int | None = None) -> None:
        """Note that a request in flight has its outcome, an answer of so many tokens if it is one."""
        del self._in_flight[request.index]
        if answer_tokens is not None:
            self._waiting.lengths.learn(request, answer_tokens)
        self._strikes.pop(request.index, None)
        self._alone.pop(request.index, None)

    def engine_died(self) -> list[Request]:
        """Take everything back that was in flight; return the requests that are to blame and get no other try."""
        lost = list(self._in_flight.values())
        self._in_flight.clear()
        for request in lost:
            self._strikes[request.index] = self._strikes.get(request.index, 0) + 1
        if not self._isolating:
            self._suspects += [r for r in lost if self._strikes[r.index] >= SUSPECT_AT]
            for request in lost:
                if self._strikes[request.index] < SUSPECT_AT:
                    self._waiting.add(request)
            return []
        if len(lost) > 1:
            self._groups.extendleft(reversed(_halves(lost)))
            return []
        for request in lost:
            self._alone[request.index] = self._alone.get(request.index, 0) + 1
            if self._alone[request.index] >= GUILTY_AT:
                return lost
        self._groups.extendleft([lost] if lost else [])
        return []

    def _next_group(self) -> list[Request]:
        if not self._groups:
            self._groups.extend(self._first_groups())
            self._suspects = []
        group = self._groups.popleft() if self._groups else []
        self._in_flight = {request.index: request for request in group}
        return group

    def _first_groups(self) -> list[list[Request]]:
        """Halves of the suspects, the least suspicious first; those that died together stay together."""
        groups: list[list[Request]] = []
        for strikes in sorted({self._strikes[r.index] for r in self._suspects}):
            alike = [r for r in self._suspects if self._strikes[r.index] == strikes]
            for start in range(0, len(alike), self._max_in_flight):
                groups += _halves(alike[start : start + self._max_in_flight])
        return groups


def _halves(requests: list[Request]) -> list[list[Request]]:
    middle = (len(requests) + 1) // 2
    return [half for half in (requests[:middle], requests[middle:]) if half]
