"""Whether this run goes on with the job that has begun here."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xbatch import storage
from xbatch.assemble.starting import model_place
from xbatch.engines.build import engine_version
from xbatch.errors import UsageError, XbatchError
from xbatch.job.fingerprint import model_version
from xbatch.job.identity import Change, agree, changes, identify, merged
from xbatch.job.pairing import pair_inputs, pair_uris
from xbatch.job.places import STDIN, Places
from xbatch.job.spec import JobSpec
from xbatch.sources import DIGEST_BYTES
from xbatch.state.folder import JobFile, Plan, StateFolder
from xbatch.state.standing import any_completed


class NothingAnswered(UsageError):
    """The run differs from the job that has begun here, and that one has answered no row: nothing is lost with it."""

    def __init__(self, job: JobFile, changed: list[Change], text: str) -> None:
        super().__init__(text)
        self.told = f"no row of the job begun {job.created} was answered, so it begins anew with what has changed: "
        self.told += ", ".join(each.field for each in changed if not each.harmless)


class Continuing:
    """A comparison of this run with the job whose state lies in a folder.

    `files` holds, for each input by the user's name for it, the file to read. What the user should know of inputs
    that are accepted as they are goes to `tell`.
    """

    def __init__(
        self, spec: JobSpec, state: StateFolder, files: Mapping[str, str], tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._spec = spec
        self._state = state
        self._files = files
        self._uris = list(files)
        self._tell = tell
        self._told: set[str] = set()
        self._digests: dict[tuple[str, storage.Stat], str] = {}
        self._copies: dict[str, storage.Stat] = {}
        """The versions of inputs that this run has copied, which don't change any more."""

    def begun(self) -> JobFile | None:
        """The job that this run goes on with, None if it begins one."""
        return self._state.job() if not self._spec.restart and self._state.exists else None

    def identity(self, model: str | None) -> dict[str, Any]:
        """Everything that must not change between two runs of one job."""
        version = None if model is None else model_version(model_place(model), self._spec.engine_args.get("revision"))
        versions = {"engine": engine_version(self._spec.engine_name), "model_version": version}
        with storage.translated("the inputs"):
            return identify(self._spec, self._input_versions(), model, versions)

    def agree(self, job: JobFile) -> list[str]:
        """Return the names of the fields in which this run differs from what the job is, all accepted by the user.

        Raises UsageError with a table of the others, as NothingAnswered if nothing is lost by beginning anew.
        """
        changed = changes(job.identity, self._now(job), self._same_bytes)
        name = f"{self._state.uri} belongs to job {job.job[:8]}, begun {job.created},"
        try:
            fields = agree(name, changed, self._spec.accept_change, extend=self._spec.extend)
        except UsageError as e:
            if has_answers(self._state):
                raise
            raise NothingAnswered(job, changed, str(e)) from None
        for hint in (each.hint for each in changed if each.harmless):
            if hint not in self._told:
                self._told.add(hint)
                self._tell(hint)
        return fields

    def finished(self, output_settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the report of the job, if it is complete and was written with these settings.

        Raises UsageError if the job that has begun here is another one, and has answers.
        """
        try:
            job = self.begun()
            if job is None or self.agree(job):
                return None
        except NothingAnswered:
            return None
        report = self._state.report()
        if report is None or self._spec.wants_retry(report["request_counts"]):
            return None
        return report if report["output_settings"] == output_settings else None

    def accept(self, job: JobFile, tell: Callable[[str], None]) -> JobFile:
        """Keep what has changed and was accepted as what the job is from here on."""
        if not (fields := self.agree(job)):
            return job
        now = self._now(job)
        self._state.accept(fields, merged(job.identity, now))
        self._accept_bytes(fields, pair_inputs(job.identity["inputs"], now["inputs"]), now["inputs"])
        tell(f"going on with what has changed: {', '.join(fields)}")
        return self._state.job()

    def learn_model(self, job: JobFile, model: str | None) -> JobFile:
        """Keep the model of a job that began without one, because none of its rows could be sent."""
        if model is None or job.identity["model"] is not None:
            return job
        self._state.accept(["model"], merged(job.identity, self.identity(model)))
        return self._state.job()

    def _accept_bytes(self, fields: list[str], pairs: list[int | None], now: list[dict[str, Any]]) -> None:
        """Keep what accepted inputs of this machine hold now as what the job has read."""
        if (plan := self._state.plan()) is None:
            return
        # Digests are known by position: their names there are those of the inputs when they were read.
        read, changed = list(plan.facts["inputs"]), {}
        for uri, i, found in zip(self._uris, pairs, now, strict=True):
            if i is not None and i < len(read) and found.get("edges") and f"inputs.{found['uri']}" in fields:
                changed[read[i]] = self._digest(uri)
        if changed:
            self._state.write_plan(Plan(plan.shards, {**plan.facts, "inputs": {**plan.facts["inputs"], **changed}}))

    def _digest(self, uri: str) -> str:
        key = (uri, self._input_version(uri))
        if key not in self._digests:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            with storage.translated(uri), storage.open_read(self._files[uri]) as file:
                while data := file.read(storage.READ_BUFFER_BYTES):
                    digest.update(data)
            self._digests[key] = digest.hexdigest()
        return self._digests[key]

    def _now(self, job: JobFile) -> dict[str, Any]:
        return self.identity(self._spec.model or job.identity["model"])

    def _input_versions(self) -> dict[str, storage.Stat]:
        return {uri: self._input_version(uri) for uri in self._uris}

    def _input_version(self, uri: str) -> storage.Stat:
        file = self._files[uri]
        # Standard input and pipes are known by what they held: they have neither size nor time.
        if uri != STDIN and (file == uri or not storage.is_local(uri)):
            return storage.stat(uri)
        if uri not in self._copies:
            self._copies[uri] = storage.content_stat(Path(file))
        return self._copies[uri]

    def _same_bytes(self, before: int, now: int) -> bool:
        """Tell whether an input holds what the index pass has read of the job's input that it may be."""
        if (plan := self._state.plan()) is None:
            return True  # nothing was read yet
        read = list(plan.facts["inputs"].values())
        return before < len(read) and bool(read[before] == self._digest(self._uris[now]))


def has_answers(state: StateFolder) -> bool:
    """Tell whether any row of a job has got an answer; also true if that can't be told."""
    with suppress(XbatchError):
        return any_completed(state)
    return True


def in_job_order(state: StateFolder, places: Places) -> Places:
    """Return places with the inputs in the order of the job that has begun, further ones behind them."""
    if places.inputs == [STDIN]:
        return places
    pairs = pair_uris(state.job().identity["inputs"], places.inputs)
    order = sorted(range(len(pairs)), key=lambda j: (pairs[j] is None, pairs[j] or 0))
    return places.in_order(order)
