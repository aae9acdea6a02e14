"""How many requests an engine should have at a time, learnt from its steps."""

_MOST_A_PLACE = 4
_LOOK_STEPS = 64
"""Steps between two looks at what waits."""
_GROWTH = 1.25


class Admission:
    """Keeps so many requests waiting in an engine that no step starves, and no more.

    An engine with `max_running` places begins with as many requests waiting as running, for all may end in one step.
    Where a step finds none waiting for a free place, more are handed over; where many wait all the time, fewer. When
    running requests are thrown out of the cache for others, only those that fit are left, and more are tried one by
    one.
    """

    def __init__(self, max_running: int) -> None:
        self.limit = 2 * max_running
        """Requests that the engine should have."""
        self._max_running = max_running
        self._most = _MOST_A_PLACE * max_running
        self._steps = 0
        self._least_waiting = self._most
        self._has_starved = False
        self._is_crowded = False

    def step(self, running: int, waiting: int, preempted: int) -> None:
        """Take in what an engine tells of a step: requests that run, that wait, and that lost their place to others."""
        if preempted:
            self.limit = max(1, min(self.limit, running))
            self._is_crowded = True
            self._start_over()
            return
        self._steps += 1
        self._least_waiting = min(self._least_waiting, waiting)
        self._has_starved |= waiting == 0 and running < self._max_running
        if self._steps >= _LOOK_STEPS:
            self._adapt()
            self._start_over()

    def _adapt(self) -> None:
        if self._is_crowded:
            self.limit += max(1, self.limit // 32)
            self._is_crowded = self.limit < self._max_running
        elif self._has_starved:
            self.limit = min(self._most, int(self.limit * _GROWTH) + 1)
        elif self._least_waiting > self._max_running // 2:
            self.limit = max(self._max_running + 1, self.limit - self._max_running // 8)

    def _start_over(self) -> None:
        self._steps, self._least_waiting, self._has_starved = 0, self._most, False
