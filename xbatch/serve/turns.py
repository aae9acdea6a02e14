"""Who may be in the engine beside whom: everybody, unless somebody has to be in it alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

EMPTY_S = 30.0
"""Whoever has to be alone waits so long for the others to leave."""


class Turns:
    """Lets requests into the engine together, or one of them alone."""

    def __init__(self) -> None:
        self._inside = 0
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._one = asyncio.Lock()

    async def join(self) -> None:
        """Wait until nobody has to be alone; `part` must follow."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()

    def part(self) -> None:
        """Leave the engine."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be in the engine alone; who takes longer than EMPTY_S to leave is not waited for."""
        async with self._one:
            self._open.clear()
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._empty.wait(), EMPTY_S)
                yield
            finally:
                self._open.set()
