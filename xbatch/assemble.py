"""From a job specification to the parts that run it: the only file that knows the implementations."""

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xbatch import storage
from xbatch.demo import BUNDLED, MODEL_PATH
from xbatch.engines import Engine
from xbatch.engines.build import build_fake, build_vllm
from xbatch.errors import EngineError, Interrupted, UsageError, XbatchError
from xbatch.job.identity import changes, identify
from xbatch.job.models import check_names, choose_model
from xbatch.job.places import STDIN, Places, find_places
from xbatch.job.spec import JobSpec
from xbatch.planning.index import Index
from xbatch.planning.index_pass import IndexPass
from xbatch.planning.repeats import LinePlace
from xbatch.planning.scheduler import Scheduler
from xbatch.report.progress import Snapshot
from xbatch.report.totals import make_report
from xbatch.rows.request import ParsedRow, parse
from xbatch.rows.response import response_line
from xbatch.rows.shard import Shard
from xbatch.run import Stop, run_job
from xbatch.sinks import OutputRow
from xbatch.sinks.jsonl import JsonlSink
from xbatch.sources.jsonl import JsonlSource
from xbatch.state.folder import StateFolder
from xbatch.state.journal import Journal
from xbatch.state.records import Counts

INDEX_FIRST_S = 1.0
"""The index pass gets this head start, so that most mistakes are found before anything is loaded."""


class Job:
    """One run of one job, from its specification to its report.

    `tell` is called with every sentence that the user should see; `before_engine` with the path of the engine's log,
    before anything that writes to it is imported.
    """

    def __init__(
        self,
        spec: JobSpec,
        scratch: Path,
        stop: Stop,
        tell: Callable[[str], None],
        before_engine: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._spec = spec
        self._stop = stop
        self._tell = tell
        self._before_engine = before_engine
        self._phase = "indexing"
        self._index = Index()
        self._shards: list[Shard] | None = None
        self._journal: Journal | None = None
        self._scheduler: Scheduler | None = None
        self._engine: Engine | None = None
        self._began_s = time.monotonic()
        self._running_began_s: float | None = None
        self._earlier = Counts()
        self.places: Places = find_places(spec, scratch)
        self.state = StateFolder(self.places.state)
        self._inputs = self.places.inputs
        if self._inputs == [STDIN]:
            self._inputs = [storage.spool(sys.stdin.buffer, scratch / "stdin.jsonl")]
        shown = ["stdin"] if self.places.inputs == [STDIN] else self._inputs
        self._sources = [JsonlSource(u, spec.max_line_bytes, s) for u, s in zip(self._inputs, shown, strict=True)]
        self._index_pass = IndexPass(_scan_all(self._sources, self._index), self._index, self._place)
        self._sink = JsonlSink(self.places.targets, self.places.errors, self.state.spool)

    def snapshot(self) -> Snapshot:
        """The job at this moment."""
        total = sum(s.rows for s in self._shards) if self._shards is not None else self._index.rows
        counts = self._journal.counts if self._journal else Counts()
        in_flight = self._scheduler.in_flight if self._scheduler else 0
        return Snapshot(self._phase, total, counts, self._earlier, self._running_s, in_flight)

    @property
    def _running_s(self) -> float:
        return time.monotonic() - self._running_began_s if self._running_began_s is not None else 0.0

    @property
    def answering(self) -> bool:
        """Rows are in flight, so stopping means to drain."""
        return self._phase in ("running", "draining")

    async def run(self) -> dict[str, Any]:
        """Do what is left of the job and return its report.

        Raises UsageError, EngineError, StorageError, Interrupted.
        """
        self._check()
        resuming = self.state.exists and not self._spec.restart
        if resuming and (report := self._finished_before()) is not None:
            return report
        made = not self.state.path.exists()
        try:
            self.state.lock()
            return await self._run_locked(resuming=resuming)
        except UsageError:
            if made:
                shutil.rmtree(self.state.path, ignore_errors=True)
            raise
        except EngineError as e:
            raise EngineError(f"{e} (the engine's log is {self.state.engine_log})") from e

    async def _run_locked(self, *, resuming: bool) -> dict[str, Any]:
        if resuming and (report := self._finish_early()) is not None:
            return report
        model = self._choose_model()
        self._phase = "loading"
        self._engine = self._make_engine(model)
        await self._load()
        if self._spec.restart:
            self.state.clear()
        return await self._answer_all(model)

    def close(self) -> None:
        """End the engine's processes, if there are any."""
        if self._engine is not None:
            self._engine.close()

    def _check(self) -> None:
        for source in self._sources:
            source.check()
        self._sink.check()
        try:
            storage.check_writable(self.state.path / "lock")
        except OSError as e:
            raise UsageError(f"the state folder {self.state.path} can't be written: {e.strerror or e}") from e

    def _finished_before(self) -> dict[str, Any] | None:
        """The report, if the job is complete and its output is there.

        Raises UsageError if the job that has begun here is another one.
        """
        job = self.state.job()
        now = identify(self._spec, self._versions(), self._spec.model or job.identity["model"])
        if changed := changes(job.identity, now):
            rows = "\n".join(f"  {name}: {before} -> {after}" for name, before, after in changed)
            raise UsageError(
                f"{self.state.path} belongs to a job with other inputs or settings:\n{rows}\n"
                "Run it as it was, choose another output by -o, or throw away what it has done by --restart"
            )
        report = self.state.report() if self._sink.published else None
        if report is not None:
            self._tell("already complete: nothing was run, nothing rewritten")
        return report

    def _finish_early(self) -> dict[str, Any] | None:
        """Publish the output if no row needs an engine any more, and return the report."""
        job, self._shards = self.state.job(), self.state.plan()
        if self._shards is None or not self._read_back(job.job):
            return None
        self._tell("every row is settled: writing the output")
        return self._finalize(job.job, job.identity["model"], 0.0)

    def _read_back(self, job_id: str) -> bool:
        """Open the journal with what earlier runs have settled; True if that is every row."""
        assert self._shards is not None
        self._journal = Journal(self.state.path, job_id)
        self._journal.resume(self._shards)
        self._earlier.add(self._journal.counts)
        if self._earlier.total < sum(shard.rows for shard in self._shards):
            return False
        self._journal.close()
        return True

    def _choose_model(self) -> str | None:
        """Begin to look at every row, and tell the model as soon as it is known."""
        self._index_pass.start()
        if self._index_pass.wait(INDEX_FIRST_S):
            self._check_names()
        while not self._index.models and not self._index_pass.wait(0.1):
            pass
        return choose_model(self._spec.model, dict(self._index.models))

    def _check_names(self) -> None:
        model = choose_model(self._spec.model, self._index.models)
        check_names({model or "", *self._spec.served_model_name, *self._spec.lora_modules}, self._index.models)

    def _make_engine(self, model: str | None) -> Engine | None:
        if model is None or not (self._index.models):
            return None
        if self._spec.engine == "fake":
            return build_fake(self._spec.engine_args)
        self._before_engine(self.state.engine_log)
        path = str(MODEL_PATH) if model == BUNDLED else model
        names = [model, *self._spec.served_model_name]
        return build_vllm(path, names, self._spec.lora_modules, self._spec.engine_args)

    async def _load(self) -> None:
        """Get the engine ready while the rest of the rows is looked at."""
        if self._engine is not None:
            self._engine.check()
            self._tell(self._engine.description)
            await self._engine.start()
        await asyncio.to_thread(self._index_pass.wait)
        self._check_names()
        if not self._index.rows:
            self._tell("the input holds no rows")
        if (first := self._index.first_rejected) is not None:
            self._tell(f"{self._index.rejected:,} rows can't be sent; the first: {first.failure.message}")

    async def _answer_all(self, model: str | None) -> dict[str, Any]:
        job = self.state.create(identify(self._spec, self._versions(), model))
        if self._shards is None:
            self._shards = self._index.shards
            self.state.write_plan(self._shards)
        if self._journal is None:
            self._read_back(job.job)
        assert self._journal is not None
        if before := self._earlier.total:
            self._tell(f"going on: {before:,} of {self._index.rows:,} rows are settled already")
        form = self._spec.format
        engine = self._engine or build_fake({})
        self._scheduler = Scheduler(engine.max_in_flight)
        self._phase, self._running_began_s = "running", time.monotonic()
        self._stop.listen(lambda: setattr(self, "_phase", "draining"))
        try:
            complete = await run_job(
                self._feed(),
                self._scheduler,
                engine,
                self._journal,
                lambda index, custom_id, outcome: response_line(job.job, index, custom_id, outcome, form),
                self._stop,
            )
        finally:
            running_s = self._running_s
            self.close()
            self._journal.close()
        if not complete:
            left = self._index.rows - self._journal.counts.total
            raise Interrupted(f"stopped with {left:,} rows to go; run the same command again to finish")
        self._phase = "writing"
        return self._finalize(job.job, model, running_s)

    def _feed(self) -> Iterator[tuple[Shard, ParsedRow]]:
        assert self._shards is not None and self._journal is not None
        for shard in self._shards:
            if (settled := self._journal.settled(shard)) is None:
                continue
            for row in self._sources[shard.file].read(shard):
                if row.index not in settled:
                    yield shard, parse(row)

    def _finalize(self, job_id: str, model: str | None, running_s: float) -> dict[str, Any]:
        assert self._journal is not None
        counts = self._journal.counts
        if counts.total != (rows := sum(shard.rows for shard in self._shards or ())):
            raise XbatchError(f"{counts.total:,} rows are settled, but the input has {rows:,}")
        outputs = self._sink.publish(self._output_rows())
        report = make_report(
            job_id,
            model,
            counts,
            self._earlier,
            outputs=[asdict(output) for output in outputs],
            blank_lines=sum(source.blank_lines for source in self._sources),
            elapsed_s=time.monotonic() - self._began_s,
            running_s=running_s,
            state=str(self.state.path),
            engine=self._engine.description if self._engine else None,
            engine_log=str(self.state.engine_log) if self.state.engine_log.exists() else None,
        )
        self.state.write_report(report)
        return report

    def _versions(self) -> dict[str, storage.Stat]:
        """Each input by the user's name for it, with what tells its versions apart."""
        if self.places.inputs == [STDIN]:
            return {STDIN: storage.content_stat(Path(self._inputs[0]))}
        return {uri: storage.stat(uri) for uri in self._inputs}

    def _place(self, line: LinePlace) -> str:
        return f"{self._sources[line[0]].shown_as}:{line[1]}"

    def _output_rows(self) -> Iterator[OutputRow]:
        assert self._shards is not None and self._journal is not None
        for shard in self._shards:
            for row in self._journal.rows(shard):
                yield OutputRow(shard.file, row.completed, row.line)


def _scan_all(sources: list[JsonlSource], index: Index) -> Iterator[Iterator[Any]]:
    for source in sources:
        yield source.scan(index.rows)
