"""How a running job is asked to stop: by signals, or by its deadline."""

import asyncio
import threading
from collections.abc import Callable

from xbatch.assemble.job import Job
from xbatch.run import Stop


class Stopping:
    """Stops a job: when asked once by a drain, when asked again at once.

    `ask` may be called from any thread. `leave` ends the process and is told what to say.
    """

    def __init__(self, job: Job, stop: Stop, tell: Callable[[str], None], leave: Callable[[str], None]) -> None:
        self._job = job
        self._stop = stop
        self._tell = tell
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        self._asking = threading.Lock()

    def ask(self, why: str) -> None:
        """Ask once more."""
        with self._asking:
            self._asked += 1
            if self._asked > 2 or not self._job.answering:
                self._leave(f"stopped ({why}); run the same command again to go on")
            elif self._asked == 1:
                self._tell(
                    f"stopping ({why}): waiting up to {self._stop.drain_s:g} s for rows in flight; "
                    "once more to leave at once"
                )
            self._loop.call_soon_threadsafe(self._stop.request)

    def ask_after(self, seconds: float, why: str) -> None:
        """Ask when so much time has passed."""
        timer = threading.Timer(seconds, self.ask, [why])
        timer.daemon = True
        timer.start()
