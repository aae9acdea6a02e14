"""The beginning of a run: the state of its job is taken up, or made."""

from collections.abc import Callable
from dataclasses import replace

from xbatch import crash, storage
from xbatch.assemble.continuing import Continuing, NothingAnswered
from xbatch.assemble.course import Course
from xbatch.assemble.indexing import Indexing
from xbatch.errors import XbatchError
from xbatch.job.spec import JobSpec
from xbatch.state.folder import JobFile, StateFolder
from xbatch.state.journal import Journal
from xbatch.state.lease import Lease
from xbatch.state.passes import JournalMaker, Passes


class Beginning:
    """The first steps of a run: its state is taken up or made, and its journal opened for `course`.

    They are for the holder of the lease only. `fail` is called with what other threads find out later.
    """

    def __init__(
        self,
        spec: JobSpec,
        state: StateFolder,
        continuing: Continuing,
        indexing: Indexing,
        lease: Lease,
        course: Course,
        tell: Callable[[str], None],
        fail: Callable[[XbatchError], None],
    ) -> None:
        self._spec = spec
        self._state = state
        self._continuing = continuing
        self._indexing = indexing
        self._lease = lease
        self._course = course
        self._tell = tell
        self._fail = fail
        self._anew = False

    def resume(self) -> JobFile | None:
        """Take up what earlier runs have left; return None if this run begins the job.

        It also does if the job here is another one that has answered nothing; what is left of that goes in `begin`.
        """
        self._state.clean()
        if not storage.is_local(self._state.uri) and not storage.is_exclusive(self._state.store):
            self._tell(f"{self._state.uri} does not keep two writers apart: run one process at a time")
        job = self._continuing.begun()
        if job is not None:
            try:
                job = self._continuing.accept(job, self._tell)
            except NothingAnswered as e:
                self._anew = True
                self._tell(e.told)
                return None
            if (plan := self._state.plan()) is not None and self._indexing.use(plan):
                self._open_passes(job)
        return job

    def _open_passes(self, job: JobFile) -> None:
        def opened(journal: Journal) -> None:
            self._course.earlier = replace(journal.counts)

        make = JournalMaker(
            self._state, job.job, self._lease.epoch, self._spec.commit_interval_s, self._lease.check, self._fail, opened
        )
        self._course.passes = Passes(self._indexing.index.shards, make)

    def begin(self, model: str | None) -> JobFile:
        """Make the state of a new job, or complete that of one which was interrupted early."""
        if self._spec.restart or self._anew or self._state.clearing:
            self._state.clear()
        job = self._state.create(self._continuing.identity(model))
        self._continuing.agree(job)
        job = self._continuing.learn_model(job, model)
        if self._course.passes is None:
            before = self._state.plan()
            if before is not None:
                for note in self._indexing.keep(before.shards):
                    self._tell(note)
            self._state.write_plan(self._indexing.plan())
            if before is not None:
                crash.here("extend-planned")
            self._open_passes(job)
        return job
