"""A server from its start to its end."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from xbatch.assemble.starting import EngineStarter
from xbatch.errors import UsageError
from xbatch.job.spec import JobSpec
from xbatch.run import Stop
from xbatch.serve.admission import Admission
from xbatch.serve.app import add_metrics, make_app
from xbatch.serve.keeper import EngineKeeper
from xbatch.serve.metrics import Figures
from xbatch.serve.models import Served
from xbatch.serve.offline import Offline
from xbatch.serve.openai import Online
from xbatch.serve.page import page_router
from xbatch.serve.settings import ServeSettings
from xbatch.serve.sharing import BatchShare
from xbatch.state.folder import own_home
from xbatch.threads import Executor

_BACKLOG = 2048
_THREADS = 32


class Server:
    """Serves one model until it is stopped.

    `spec` says which model and how; `tell` gets what the user should see, `write_log` the lines of the access log,
    `before_engine` the path of the engine's log before anything that writes to it is imported.
    """

    def __init__(
        self,
        spec: JobSpec,
        settings: ServeSettings,
        scratch: Path,
        stop: Stop,
        tell: Callable[[str], None],
        write_log: Callable[[str], None] | None,
        before_engine: Callable[[Path], None],
    ) -> None:
        assert spec.model is not None
        self._settings = settings
        self._stop = stop
        self._tell = tell
        self._socket = _bind(settings.host, settings.port)
        # Who listens at an address is the only living one to do so, so the engine's processes are known by it.
        folder = own_home() / f"serve-{settings.host}-{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        starter = EngineStarter(spec, folder, folder / "vllm.log", before_engine, tell)
        self._keeper = EngineKeeper(starter, spec.model, tell)
        names = [*spec.served_model_name, spec.model]
        served = Served(self._keeper, names, list(spec.lora_modules), int(time.time()))
        admission = Admission(self._keeper, settings.max_waiting)
        online = Online(self._keeper, served, admission, Figures(), spec.request_timeout)
        share = BatchShare(self._keeper, settings.batch_share)
        answerable = [*served.names, *served.adapters]
        self._offline = Offline(spec, settings, share.starter, lambda: answerable, scratch, tell)
        runner = self._offline.runner
        add_metrics(online.figures, online, lambda: runner.figures)
        routers = [*self._offline.routers, page_router()]
        app = make_app(settings, online, routers, lambda: runner.figures, write_log)
        self._http = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                backlog=_BACKLOG,
                timeout_graceful_shutdown=max(1, int(spec.drain_s)),
            )
        )

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self._socket.getsockname()[1])

    @property
    def draining_helps(self) -> bool:
        """Answers may be under way, so stopping means to drain."""
        return self._keeper.state == "ready"

    async def serve(self) -> None:
        """Serve until stopped, and drain then.

        Raises UsageError or EngineError if there is no engine.
        """
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        self._tell(f"listening at http://{host}:{self.port}")
        if self._settings.is_public and not self._settings.api_keys:
            self._tell(f"anybody who reaches {self._settings.host} may ask: give --api-key-file, or --host 127.0.0.1")
        self._stop.listen(self._leave)
        # Batches wait for stores in threads, and nobody else should have to wait for one of those.
        threads = _THREADS + 2 * self._settings.max_running_batches
        asyncio.get_running_loop().set_default_executor(Executor(threads))
        http = asyncio.create_task(self._http.serve([self._socket]))
        keeping = asyncio.create_task(self._keeper.keep())
        announcing = asyncio.create_task(self._announce())
        batches = asyncio.create_task(self._offline.run())
        try:
            await asyncio.wait((http, keeping, batches), return_when=asyncio.FIRST_COMPLETED)
            self._leave()
            await asyncio.gather(http, self._offline.stop())
            for task in (keeping, batches):
                if task.done():
                    task.result()
        finally:
            for task in (keeping, announcing, batches):
                task.cancel()
            await asyncio.gather(keeping, announcing, batches, return_exceptions=True)
            await asyncio.to_thread(self._keeper.close)

    def leave(self) -> None:
        """End at once, from any thread; batches go on when the server is started again."""
        self._keeper.kill()

    def _leave(self) -> None:
        self._http.should_exit = True

    async def _announce(self) -> None:
        await self._keeper.ready()
        self._tell("ready")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio knows it for TCP and turns Nagle's algorithm off, which would hold chunks back.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as e:
        listener.close()
        raise UsageError(f"can't listen at {host}:{port}: {getattr(e, 'strerror', None) or e}") from e
    return listener


# Redirects could lead from a public host to a private one.
os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
