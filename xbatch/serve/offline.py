"""What a server answers later: files and batches, in one store."""

from collections.abc import Callable, Collection
from pathlib import Path

from xbatch import storage
from xbatch.assemble.starting import Starter
from xbatch.errors import UsageError
from xbatch.job.places import storage_of
from xbatch.job.spec import JobSpec
from xbatch.serve.batches import Batches
from xbatch.serve.batching import batches_router
from xbatch.serve.files import Files
from xbatch.serve.filing import files_router
from xbatch.serve.running import BatchRunner
from xbatch.serve.settings import ServeSettings
from xbatch.serve.store_threads import StoreThreads


class Offline:
    """Files and batches at the URI that the settings name.

    `starter` gives the starter of each job, whose engine outlives it; `models` tells the names under which the model is
    served. Raises StorageError, and UsageError if an option of the store is wrong.
    """

    def __init__(
        self,
        spec: JobSpec,
        settings: ServeSettings,
        starter: Callable[[], Starter],
        models: Callable[[], Collection[str]],
        scratch: Path,
        tell: Callable[[str], None],
    ) -> None:
        storage.use_settings(storage_of(spec, tell))
        if storage.is_local(settings.files):
            place = storage.local_path(settings.files.rstrip("/"))
            if place.exists() and not place.is_dir():
                raise UsageError(f"--files {settings.files} is no folder")
        store = storage.open_store(settings.files)
        self._threads = StoreThreads(tell)
        batches = Batches(store)
        files = Files(store, batches.inputs_in_use)
        self.runner = BatchRunner(
            batches,
            files,
            spec,
            starter,
            models,
            scratch,
            tell,
            max_rows=settings.max_batch_rows,
            max_running=settings.max_running_batches,
        )
        self.routers = [
            files_router(files, self._threads, scratch, settings.max_file),
            batches_router(batches, files, self.runner, self._threads),
        ]

    async def run(self) -> None:
        """Bring batches to their ends until cancelled."""
        await self.runner.run()

    async def stop(self) -> None:
        """Let rows in flight finish; batches go on when a server is started again."""
        await self.runner.stop()
        self._threads.close()
