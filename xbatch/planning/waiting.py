"""The requests that wait, and which of them is next."""

from heapq import heapify, heappop, heappush
from itertools import chain
from statistics import median_low
from typing import Literal, TypeAlias

from xbatch.planning.lengths import Lengths, length_class
from xbatch.planning.prefixes import SAMPLE, sharing
from xbatch.rows.request import Request

Order: TypeAlias = Literal["auto", "input", "prefix"]
"""`input`: that of the input. `prefix`: prompts that begin alike run together. `auto`: whichever costs less."""
WAITING_BYTES = 1200
"""A waiting request costs so much by itself; its body is about twice as large in memory as in its input."""
WORTH_IT = 0.1
"""Less than this share of all prompts' tokens is not worth another order."""
_FEW = 64
_LOOK_AGAIN = 256

_Entry: TypeAlias = tuple[int, bytes, int, Request]
"""How far it stands out (negative: first), the prompt where it decides, the number in which it came."""


def waiting_bytes(request: Request) -> int:
    """About what a request costs in memory while it waits."""
    return WAITING_BYTES + 2 * request.num_bytes + (len(request.prompt.tokens) if request.prompt else 0)


class Waiting:
    """Requests in the order in which they should run.

    Prompts that share their beginning stand together in the order of their tokens, which is how a tree of prefixes is
    walked through in depth. It is walked through in rounds: next is the first behind the one taken last, so that
    requests which come meanwhile keep nobody waiting. Requests whose answers will be much longer than the others' run
    first; where prompts decide, only those which would still run when all others have ended.

    With the order `auto` prompts decide if they share enough, and if what they share is more than the engine's cache
    can hold beside `max_running` requests.
    """

    def __init__(self, order: Order = "auto", max_running: int = 1) -> None:
        self.num_bytes = 0
        """What they cost in memory, about."""
        self.by_prefix = order == "prefix"
        """Prompts decide."""
        self.lengths = Lengths()
        self._order = order
        self._max_running = max_running
        self._cache = (0, 1)
        self._long: list[_Entry] = []
        self._round: list[_Entry] = []
        self._next_round: list[_Entry] = []
        self._last: tuple[bytes, int] = (b"", -1)
        self._came = 0
        self._count = self._taken = 0
        self._few = self._many = self._looked = 0
        self._median = 0
        self._work = 0.0

    def __len__(self) -> int:
        """The number of requests."""
        return self._count

    def know_cache(self, tokens: int, block: int) -> None:
        """Take in how many tokens of prompts the engine can keep, and in what blocks."""
        self._cache, self._many = (tokens, max(block, 1)), 0

    def add(self, request: Request) -> None:
        """Let a request wait."""
        self.num_bytes += waiting_bytes(request)
        self._came += 1
        self._count += 1
        self._put(self._entry(request, self._came))

    def take(self) -> Request:
        """Take out the request that is next; there must be one."""
        if self._order != "input" and (not self._few < self._count < self._many or self._taken >= self._looked):
            self._plan()
        self._taken += 1
        self._count -= 1
        if self._long:
            request = heappop(self._long)[3]
        else:
            if not self._round:
                self._round, self._next_round = self._next_round, self._round
            _, tokens, number, request = heappop(self._round)
            self._last = (tokens, number)
        self.num_bytes -= waiting_bytes(request)
        return request

    def _plan(self) -> None:
        """Think the order over, as is due whenever much has come or gone."""
        entries = list(chain(self._long, self._round, self._next_round))
        self._few = self._count // 2 if self._count > _FEW else 0
        self._many, self._looked, self._taken = max(2 * self._count, _FEW), max(self._count, _LOOK_AGAIN), 0
        sample = [entry[3] for entry in entries[:: len(entries) // SAMPLE + 1]]
        expected = [self.lengths.expected(request) for request in sample]
        mean = sum(expected) / len(sample)
        before = (self.by_prefix, self._median)
        self._median = median_low(expected)
        self._work = mean * len(entries)
        if self._order == "auto":
            self.by_prefix = self._pays([entry[3] for entry in entries], mean)
        if len(entries) <= SAMPLE or before != (self.by_prefix, self._median):
            self._put_all([self._entry(request, number) for _, _, number, request in entries])

    def _pays(self, requests: list[Request], answer_tokens: float) -> bool:
        """An order by prompts is cheaper than that of the input."""
        tokens, block = self._cache
        prompts = [request.prompt.tokens for request in requests if request.prompt is not None]
        if not tokens or not prompts:
            return False
        found = sharing(prompts, block)
        running = min(self._max_running, len(requests)) * (found.tokens / len(prompts) + answer_tokens)
        too_many = self.by_prefix or found.distinct > tokens - running  # the last ones fit, which is no reason to turn
        return found.shared >= WORTH_IT * found.tokens and too_many

    def _entry(self, request: Request, number: int) -> _Entry:
        tokens = request.prompt.tokens if self.by_prefix and request.prompt is not None else b""
        if not self._median or self._order == "input":
            return 0, tokens, number, request
        expected = self.lengths.expected(request)
        far = length_class(expected, self._median)
        if self.by_prefix and expected * (self._max_running + 1) < self._work:
            far = 0  # others will still run when it has ended
        return -far, tokens, number, request

    def _put(self, entry: _Entry) -> None:
        if entry[0]:
            heappush(self._long, entry)
        else:
            heappush(self._round if entry[1:3] >= self._last else self._next_round, entry)

    def _put_all(self, entries: list[_Entry]) -> None:
        self._long = [entry for entry in entries if entry[0]]
        self._round = [entry for entry in entries if not entry[0] and entry[1:3] >= self._last]
        self._next_round = [entry for entry in entries if not entry[0] and entry[1:3] < self._last]
        for heap in (self._long, self._round, self._next_round):
            heapify(heap)
