"""Threads that work for whoever started them: each runs in a copy of its starter's context.

What belongs to one job of several in a process, such as the options of its stores, is bound to a context (contextvars).
`asyncio.to_thread` carries it along by itself, but a plain thread begins with an empty one.
"""

import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Thread(threading.Thread):
    """A thread that runs in a copy of the context in which it is started."""

    def start(self) -> None:
        """Start the thread."""
        self._starter_context = contextvars.copy_context()
        super().start()

    def run(self) -> None:
        """Do the thread's work."""
        self._starter_context.run(super().run)


class Timer(Thread, threading.Timer):
    """A timer whose function runs in a copy of the context in which the timer is started."""


class Executor(ThreadPoolExecutor):
    """A pool of threads in which each call runs in a copy of the context in which it was submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread of the pool make a call."""
        inside = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
        return super().submit(inside)
