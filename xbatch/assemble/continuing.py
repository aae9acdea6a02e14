"""Whether this run goes on with the job that has begun here."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from xbatch import storage
from xbatch.assemble.starting import model_place
from xbatch.engines.build import engine_version
from xbatch.job.fingerprint import model_version
from xbatch.job.identity import agree, changes, identify, merged
from xbatch.job.places import STDIN
from xbatch.job.spec import JobSpec
from xbatch.sources import DIGEST_BYTES
from xbatch.state.folder import JobFile, Plan, StateFolder


class Continuing:
    """Compares this run with the job whose state lies in a folder.

    `files` holds, for each input by the user's name for it, the file to read.
    """

    def __init__(self, spec: JobSpec, state: StateFolder, files: Mapping[str, str]) -> None:
        self._spec = spec
        self._state = state
        self._files = files

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
        """Names of the fields in which this run differs from what the job is, all of them accepted by the user.

        Raises UsageError with a table of the others.
        """
        changed = changes(job.identity, self._now(job), self._same_bytes)
        name = f"{self._state.uri} belongs to job {job.job[:8]}, begun {job.created},"
        return agree(name, changed, self._spec.accept_change, extend=self._spec.extend)

    def accept(self, job: JobFile, tell: Callable[[str], None]) -> JobFile:
        """Keep what has changed and was accepted as what the job is from here on."""
        if not (fields := self.agree(job)):
            return job
        self._state.accept(fields, merged(job.identity, self._now(job)))
        self._accept_bytes(uri for uri in self._files if f"inputs.{uri}" in fields)
        tell(f"going on with what has changed: {', '.join(fields)}")
        return self._state.job()

    def learn_model(self, job: JobFile, model: str | None) -> JobFile:
        """Keep the model of a job that began without one, because none of its rows could be sent."""
        if model is None or job.identity["model"] is not None:
            return job
        self._state.accept(["model"], merged(job.identity, self.identity(model)))
        return self._state.job()

    def _accept_bytes(self, uris: Iterable[str]) -> None:
        """Keep what accepted inputs hold now as what the job has read."""
        if (plan := self._state.plan()) is not None:
            read = plan.facts["inputs"]
            changed = {uri: self._digest(uri) for uri in uris if uri in read}
            if changed:
                self._state.write_plan(Plan(plan.shards, {**plan.facts, "inputs": {**read, **changed}}))

    def _digest(self, uri: str) -> str:
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        with storage.translated(uri), storage.open_read(self._files[uri]) as file:
            while data := file.read(storage.READ_BUFFER_BYTES):
                digest.update(data)
        return digest.hexdigest()

    def _now(self, job: JobFile) -> dict[str, Any]:
        return self.identity(self._spec.model or job.identity["model"])

    def _input_versions(self) -> dict[str, storage.Stat]:
        if STDIN in self._files:
            return {STDIN: storage.content_stat(Path(self._files[STDIN]))}
        return {uri: storage.stat(uri) for uri in self._files}

    def _same_bytes(self, uri: str) -> bool:
        """An input whose time has changed still holds what the index pass has read."""
        if (plan := self._state.plan()) is None:
            return True  # nothing was read yet
        return bool(plan.facts["inputs"].get(uri) == self._digest(uri))
