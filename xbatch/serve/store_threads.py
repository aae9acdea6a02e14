"""Threads in which requests wait for a store, so that the event loop does not."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from xbatch.errors import StorageError
from xbatch.serve.errors import ApiProblem
from xbatch.threads import Executor

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 16
PATIENCE_S = 30.0
"""A request does not wait longer for a store; what it has begun goes on without it."""
_RETRY_AFTER_S = 10


class StoreThreads:
    """Runs what waits for a store, and answers for one that is in trouble.

    `tell` is called with what the trouble is, which clients are not told.
    """

    def __init__(self, tell: Callable[[str], None], patience_s: float = PATIENCE_S) -> None:
        self._tell = tell
        self._patience_s = patience_s
        self._threads = Executor(THREADS, "store")

    async def __call__(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """Do `work` in a thread.

        Raises what it raises; for a StorageError, and after PATIENCE_S, ApiProblem with status 503.
        """
        return await self.within(self._patience_s, partial(work, *args, **more))

    async def within(self, seconds: float, work: Callable[[], T]) -> T:
        """As when called, with another patience."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (StorageError, TimeoutError, OSError) as e:
            self._tell(str(e) or f"the store of files has not answered within {seconds:g} s")
            text = "the store of files does not answer: try again in a moment"
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            raise ApiProblem(503, text, code="store_unavailable", headers=headers) from e

    def later(self, work: Callable[[], object]) -> None:
        """Have `work` done by a thread, and wait for nothing."""
        with suppress(RuntimeError):  # everything ends
            self._threads.submit(work)

    def close(self) -> None:
        """Begin nothing further."""
        self._threads.shutdown(wait=False)
