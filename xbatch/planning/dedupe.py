"""Requests that are sure to get the same answer, of which one is run."""

from collections import OrderedDict, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeAlias

import msgspec

from xbatch.planning.waiting import waiting_bytes
from xbatch.rows.outcome import Outcome
from xbatch.rows.request import Request

KEPT_BYTES = 16 << 20
"""Outcomes that are kept for repeats still to come."""
_OUTCOME_BYTES = 400
"""An outcome costs so much by itself."""

Renamed: TypeAlias = Callable[[int, Outcome], Outcome]
"""Makes of an outcome that of another row, by its index."""


def answer_key(request: Request) -> bytes | None:
    """Names the answer to a request; None if the same request may be answered otherwise the next time.

    It is the same each time at temperature 0, or with a seed.
    """
    temperature, seed = request.body.get("temperature"), request.body.get("seed")
    if not (type(temperature) in (int, float) and temperature == 0) and type(seed) is not int:
        return None
    try:
        body = msgspec.json.encode(request.body)
    except (OverflowError, msgspec.MsgspecError):  # a number too large for it
        return None
    return blake2b(body, digest_size=16, key=f"{request.endpoint} {request.to_context_end}".encode()).digest()


class Dedupe:
    """Has each answer asked for once: the first request for it leads, those that come meanwhile follow.

    `renamed` makes of an outcome that of a follower. The outcomes asked for last are kept, in `kept_bytes`.
    """

    def __init__(self, renamed: Renamed, kept_bytes: int = KEPT_BYTES) -> None:
        self.renamed = renamed
        self.repeated = 0
        """Rows that got another row's outcome."""
        self.num_bytes = 0
        """What followers cost in memory, about."""
        self._kept_bytes = kept_bytes
        self._leading: dict[bytes, deque[Request]] = {}
        self._keys: dict[int, bytes] = {}
        self._outcomes: OrderedDict[bytes, Outcome] = OrderedDict()
        self._size = 0

    def knows(self, key: bytes) -> bool:
        """A request with this key would not be run; may be asked from any thread."""
        return key in self._outcomes or key in self._leading

    def join(self, request: Request, key: bytes) -> Outcome | bool:
        """The outcome of a request that is known; else whether it is to be run, not only to follow."""
        if (outcome := self._outcomes.get(key)) is not None:
            self._outcomes.move_to_end(key)
            self.repeated += 1
            return self.renamed(request.index, outcome)
        if (followers := self._leading.get(key)) is not None:
            followers.append(request)
            self.num_bytes += waiting_bytes(request)
            return False
        self._leading[key] = deque()
        self._keys[request.index] = key
        return True

    def settle(self, request: Request, outcome: Outcome) -> list[tuple[Request, Outcome]]:
        """Take in the outcome of a request that was run; return its followers with theirs.

        Of an outcome that could be another one the next time they get none: `next_leader` must follow.
        """
        if (key := self._keys.get(request.index)) is None or _may_change(outcome):
            return []
        del self._keys[request.index]
        self._keep(key, outcome)
        followers = self._leading.pop(key)
        self.num_bytes -= sum(map(waiting_bytes, followers))
        self.repeated += len(followers)
        return [(follower, self.renamed(follower.index, outcome)) for follower in followers]

    def next_leader(self, request: Request) -> Request | None:
        """The request that is to be run in place of one that got no outcome of worth to others, if any is."""
        if (key := self._keys.pop(request.index, None)) is None:
            return None
        if not (followers := self._leading[key]):
            del self._leading[key]
            return None
        leader = followers.popleft()
        self.num_bytes -= waiting_bytes(leader)
        self._keys[leader.index] = key
        return leader

    def _keep(self, key: bytes, outcome: Outcome) -> None:
        self._outcomes[key] = outcome
        self._size += _size(outcome)
        while self._size > self._kept_bytes:
            self._size -= _size(self._outcomes.popitem(last=False)[1])


def _may_change(outcome: Outcome) -> bool:
    return getattr(outcome, "retryable", False)


def _size(outcome: Outcome) -> int:
    return _OUTCOME_BYTES + len(outcome.body or b"")
