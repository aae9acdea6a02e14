"""A process that imports vLLM while this one does, and then is the engine's where vLLM would spawn one.

Two thirds of what vLLM needs to start on a CPU are imports, of one process after the other: each begins the next when
it has imported all itself. What runs in the process is in `standing_by`.
"""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator, Mapping
from multiprocessing import popen_spawn_posix, reduction, resource_tracker, spawn
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess, set_spawning_popen
from multiprocessing.process import BaseProcess
from typing import Any

_EXECUTABLE = spawn.get_executable()
_CODE = "from xbatch.engines.vllm.standing_by import main; main({}, {}, {})"


class Standby:
    """A process with vLLM imported that waits to be told what it is.

    `environment` is its own until then. It ends by itself if this process does, and when it is closed.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        work, to_work = os.pipe()
        self.sentinel, alive = os.pipe()
        """Readable once the process has ended."""
        tracker = resource_tracker.getfd()
        assert tracker is not None
        fds = (work, alive, tracker)
        *start, _, mark = spawn.get_command_line()  # by the mark multiprocessing knows its own processes
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
                [*start, _CODE.format(*fds), mark],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
            )
        except BaseException:
            os.close(to_work)
            os.close(self.sentinel)
            raise
        finally:
            os.close(work)
            os.close(alive)
        self._to_work = Connection(to_work, readable=False)
        self._is_told = False

    @property
    def is_waiting(self) -> bool:
        """It lives, and was told nothing yet."""
        return not self._is_told and self.process.poll() is None

    @contextlib.contextmanager
    def taken_for(self, module: Any, *, forks: bool) -> Iterator[None]:
        """Whatever `module`, one of vLLM's, would spawn inside is the process that stands by, if it still does.

        With `forks` it forks in its turn what it would spawn.
        """
        original = module.get_mp_context

        def get_mp_context() -> Any:
            context = original()
            return _Context(self, forks=forks) if context.get_start_method() == "spawn" else context

        module.get_mp_context = get_mp_context
        try:
            yield
        finally:
            module.get_mp_context = original

    def tell(self, payload: bytes, *, forks: bool) -> bool:
        """Have it go on as multiprocessing's own would with `payload`, in the environment of now.

        False if it doesn't wait any more.
        """
        # It was started as any interpreter of ours; vLLM may want another one, such as one bound to cores.
        if not self.is_waiting or spawn.get_executable() != _EXECUTABLE:
            return False
        self._is_told = True
        try:
            self._to_work.send((dict(os.environ), forks))
            while payload:
                payload = payload[os.write(self._to_work.fileno(), payload) :]
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of it: it ends if it was told nothing."""
        if not self._to_work.closed:
            self._to_work.close()
            os.close(self.sentinel)
        self.process.poll()


class _Context(SpawnContext):
    def __init__(self, standby: Standby, *, forks: bool) -> None:
        self._given = standby, forks

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        process = _Process(*args, **kwargs)
        process.given = self._given
        return process


class _Process(SpawnProcess):
    given: tuple[Standby, bool] | None = None

    def _Popen(self, process_obj: BaseProcess) -> Any:  # type: ignore[override]  # noqa: N802
        assert self.given is not None
        return _Popen(process_obj, *self.given)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"given": None}


class _Popen(popen_spawn_posix.Popen):
    """What multiprocessing knows of a process that it has started."""

    _fds: list[int]

    def __init__(self, process_obj: BaseProcess, standby: Standby, forks: bool) -> None:  # noqa: FBT001
        self._standby: Standby | None = standby
        self._forks = forks
        super().__init__(process_obj)

    def _launch(self, process_obj: BaseProcess) -> None:
        standby = self._standby
        assert standby is not None
        payload = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj.name), payload)
            reduction.dump(process_obj, payload)
        finally:
            set_spawning_popen(None)
        # What a process inherits can be given to it at its start only.
        if not self._fds and standby.tell(payload.getvalue(), forks=self._forks):
            self.pid, self.sentinel = standby.process.pid, standby.sentinel
            return
        self._standby, self._fds = None, []
        super()._launch(process_obj)  # type: ignore[misc] # it has no public name

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self._standby is None:
            return super().poll(flag)
        if self.returncode is None:
            process = self._standby.process
            self.returncode = process.poll() if flag == os.WNOHANG else process.wait()
        return self.returncode
