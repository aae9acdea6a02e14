"""How a running job is asked to stop: by signals, or by its deadline."""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from xbatch.assemble.job import LEAVE_S
from xbatch.run import Stop
from xbatch.threads import Timer


class Stoppable(Protocol):
    """What is stopped: a job, or a watcher."""

    @property
    def draining_helps(self) -> bool:
        """Rows are in flight, so stopping means to drain."""

    def leave(self) -> None:
        """End at once, keeping what is settled."""


class Stopping:
    """Stops a job: when asked once by a drain, when asked again at once.

    `ask` may be called from any thread, and works also while the event loop is held up. `job` is set once there is one.
    `leave` ends the process and is told what to say.
    """

    def __init__(self, stop: Stop, tell: Callable[[str], None], leave: Callable[[str], None], go_on: str) -> None:
        self.job: Stoppable | None = None
        self._stop = stop
        self._tell = tell
        self._leave = leave
        self._go_on = go_on
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        self._asking = threading.Lock()

    def ask(self, why: str) -> None:
        """Ask once more."""
        with self._asking:
            self._asked += 1
            text = f"stopped ({why}); {self._go_on}"
            if self._asked > 1 or self.job is None or not self.job.draining_helps:
                self._leave(text)
            self._loop.call_soon_threadsafe(self._stop.request)
            # Should something hold the loop up, such as a store that hangs, nothing finished is lost by leaving.
            self._after(self._stop.drain_s + LEAVE_S + 1, lambda: self._leave(text))
            drain = f"waiting up to {self._stop.drain_s:g} s for rows in flight"
            self._tell(f"stopping ({why}): {drain}; once more to leave at once")

    def ask_after(self, seconds: float, why: str) -> None:
        """Ask when so much time has passed."""
        self._after(seconds, lambda: self.ask(why))

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        timer = Timer(min(seconds, threading.TIMEOUT_MAX), act)
        timer.daemon = True
        timer.start()
