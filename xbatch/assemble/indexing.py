"""What a job's rows are: found out by an index pass, or read from the plan that an earlier one has made."""

import asyncio
import functools
from collections.abc import Callable, Collection, Iterator, Mapping

from xbatch.assemble.starting import model_place
from xbatch.display import counted
from xbatch.engines.build import vllm_name
from xbatch.errors import StorageError
from xbatch.job.body_notes import allowed_by, check_abilities, check_needs, ignored_sentence
from xbatch.job.models import check_names, choose_model
from xbatch.job.pairing import name_of
from xbatch.job.spec import JobSpec
from xbatch.planning.body_notes import BodyNotes
from xbatch.planning.index import Index, shared_ids_note
from xbatch.planning.index_pass import IndexPass
from xbatch.planning.repeats import LinePlace
from xbatch.rows.reason import place_of
from xbatch.rows.request import ParsedRow, Request, parse
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.rows.sizes import Expectation
from xbatch.rows.suggest import listed
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.state.folder import Plan
from xbatch.state.journal import Journal

INDEX_FIRST_S = 1.0
"""The index pass gets this head start, so that most mistakes are found before anything is loaded."""


class Indexing:
    """The index of a job's inputs, which come as sources by the user's names for them.

    `tell` is called with what users should know about their rows before these are answered. The run that looks at the
    rows tells it; one that goes on with a plan does not tell it again. Without `refuses`, rows are left to the engine
    even if it is sure to refuse every one of them.
    """

    def __init__(
        self, spec: JobSpec, sources: Mapping[str, Source], tell: Callable[[str], None], *, refuses: bool = True
    ) -> None:
        self.index = Index(notes=BodyNotes(allowed_by(spec) if refuses else None))
        self.blank_lines = 0
        """Of all inputs; known once the index is complete."""
        self._tell = tell
        self._refuses = refuses
        self._told: set[str] = set()
        """Names of ignored fields that the user has been told."""
        self._told_rows = 0
        """Rows with ignored fields when the user was told last."""
        self._needs_told = False
        self._spec = spec
        self._sources = sources
        self._shard_rows = spec.shard_rows
        self._pass: IndexPass | None = None
        template = RequestTemplate(spec.request) if spec.request else None
        self.parse = functools.partial(parse, template=template)
        """From a row of the job to its request."""

    def expect(self) -> Expectation | None:
        """Return what the rows need that were looked at up to now."""
        return self.index.sizes.expect()

    def use(self, plan: Plan) -> bool:
        """Take the index from a plan; False if inputs have come since, so that it must be made anew."""
        self._shard_rows = plan.facts["shard_rows"]
        if len(plan.facts["inputs"]) < len(self._sources):
            return False
        self.index = Index.of(plan.shards, plan.facts)
        self.blank_lines = plan.facts["blank_lines"]
        return True

    def choose_model(self, journal: Journal | None) -> str | None:
        """Begin to look at every row, unless that was done before, and tell the model as soon as it is known.

        If no row could be sent when that was done, the rows that `journal` has not settled are looked at again: an
        input may have changed since. Raises UsageError.
        """
        if not self.index.shards:
            self._pass = IndexPass(self._scans(), self.index, self._place, self._shard_rows, self.parse)
            self._pass.start()
            if self._pass.wait(INDEX_FIRST_S):
                self._check_rows()
            while not self.index.models and not self._pass.wait(0.1):
                pass
            self._tell_ignored("so far, ")
        elif not self.index.models and journal is not None:
            for _, row in self.feed(journal):
                if isinstance(row, Request):
                    self.index.name_model(row, f"row {row.index + 1:,}")
        return choose_model(self._spec.model, dict(self.index.models))

    def feed(self, journal: Journal) -> Iterator[tuple[Shard, ParsedRow]]:
        """Yield the rows that a journal has not settled, each with its shard."""
        sources = list(self._sources.values())
        for shard in self.index.shards:
            if (settled := journal.settled(shard)) is None:
                continue
            for row in sources[shard.file].read(shard):
                if row.index not in settled:
                    yield shard, self.parse(row)

    async def complete(self, unable: Collection[str] = ()) -> None:
        """Wait until every row was looked at; `unable` names what the model refuses.

        Raises UsageError if none of them can be answered by the model.
        """
        if self._pass is not None:
            await asyncio.to_thread(self._pass.wait)
            self.blank_lines = sum(source.blank_lines for source in self._sources.values())
        self._check_rows()
        told = check_abilities(self.index.notes, self._sendable, unable if self._refuses else ())
        if told is not None:
            self._tell(told)

    def keep(self, before: list[Shard]) -> list[str]:
        """Keep the shards that the job had before it was extended, with the ids that their rows have been given.

        Returns sentences for the user about rows of new inputs that give one of these ids. Raises StorageError if the
        shards hold other rows now.
        """
        shards = self.index.shards
        if len(shards) < len(before) or not all(map(Shard.has_rows_of, shards, before)):
            raise StorageError("inputs that the job has read before have changed")
        self.index.shards = before + shards[len(before) :]
        taken = [
            f"row-{row}"
            for new, old in zip(shards, before, strict=False)
            for row in new.fallback_ids.keys() - old.fallback_ids
        ]
        if not taken:
            return []
        return [f"new rows give custom_ids that the job has made before for rows without one: {listed(sorted(taken))}"]

    def notes(self, *, joint: bool, resumed: bool) -> list[str]:
        """Return sentences about the rows for the user.

        `joint` says that inputs share an output, `resumed` that some rows were settled by earlier runs.
        """
        index, found = self.index, [] if self.index.rows else ["the input holds no rows"]
        if index.first_rejected is not None and not resumed:
            where = f"can't be sent, first in {place_of(index.first_rejected)}"
            found.append(f"{counted(index.rejected, 'row')} {where}; the end of this run tells why")
        return found + (shared_ids_note(index.shared_ids, index.first_shared) if joint else [])

    def plan(self) -> Plan:
        """Return the plan, once the index is complete."""
        facts = {
            **self.index.facts(),
            "shard_rows": self._shard_rows,
            "inputs": {name_of(uri): source.digest for uri, source in self._sources.items()},
            "blank_lines": self.blank_lines,
        }
        return Plan(self.index.shards, facts)

    @property
    def _sendable(self) -> int:
        """Rows that can be sent."""
        return self.index.rows - self.index.rejected

    def _check_rows(self) -> None:
        """Tell what is to be said about the rows, once all were looked at.

        Raises UsageError if none of them can be answered.
        """
        spec, notes = self._spec, self.index.notes
        model = choose_model(spec.model, self.index.models)
        check_names({model or "", *spec.served_model_name, *spec.lora_modules}, self.index.models)
        self._tell_ignored("in all, " if self._told else "")
        if model is not None and not self._needs_told:
            refused = check_needs(notes, self._sendable, model_place(model), spec.engine_args)
            if refused is not None:
                self._tell(refused)
                self._needs_told = True

    def _tell_ignored(self, since: str) -> None:
        """Tell the ignored fields that have not been told yet, in a sentence that begins with `since`."""
        notes = self.index.notes
        new = [(name, noted) for name, noted in list(notes.ignored.items()) if name not in self._told]
        if self._pass is not None and (new or notes.ignored_rows != self._told_rows):
            self._told.update(name for name, _ in new)
            self._told_rows = notes.ignored_rows
            self._tell(since + ignored_sentence(new, self._told_rows, vllm_name()))

    def _scans(self) -> Iterator[Iterator[Row]]:
        for source in self._sources.values():
            yield source.scan(self.index.rows)

    def _place(self, line: LinePlace) -> str:
        return list(self._sources.values())[line[0]].place(line[1])
