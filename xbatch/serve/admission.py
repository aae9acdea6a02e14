"""How many online requests there may be at a time."""

from xbatch.display import counted
from xbatch.serve.errors import ApiProblem
from xbatch.serve.keeper import EngineKeeper
from xbatch.serve.turns import Turns


class Admission:
    """Lets in as many requests as the engine works on, and `max_waiting` more."""

    def __init__(self, keeper: EngineKeeper, max_waiting: int) -> None:
        self._keeper = keeper
        self._max_waiting = max_waiting
        self._inside = 0

    @property
    def running(self) -> int:
        """Requests that the engine has a place for."""
        return min(self._inside, self._places)

    @property
    def waiting(self) -> int:
        """Requests beyond those."""
        return self._inside - self.running

    def enter(self) -> "Place":
        """Take a place. Raises ApiProblem if there is none, or no engine."""
        _ = self._keeper.engine
        if self._inside >= self._places + self._max_waiting:
            text = f"{counted(self.waiting, 'request is', 'requests are')} waiting already: try again in a moment"
            raise ApiProblem(429, text, code="too_many_requests", headers={"Retry-After": "1"})
        self._inside += 1
        return Place(self, self._keeper.turns)

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1

    @property
    def _places(self) -> int:
        engine = self._keeper.known
        return 0 if engine is None else engine.max_running


class Place:
    """A request's place, to be given back once."""

    def __init__(self, admission: Admission, turns: Turns) -> None:
        self._admission: Admission | None = admission
        self._turns = turns
        self._joined = False

    async def begin(self) -> None:
        """Wait for the turn to ask the engine."""
        await self._turns.join()
        self._joined = True

    def leave(self) -> None:
        """Give it back; harmless when called twice."""
        if self._admission is not None:
            self._admission.leave()
            self._admission = None
            if self._joined:
                self._turns.part()
