"""What a job's rows are: found out by an index pass, or read from the plan that an earlier one has made."""

import asyncio
import functools
from collections.abc import Iterator, Mapping

from xbatch.errors import StorageError
from xbatch.job.models import check_names, choose_model
from xbatch.job.spec import JobSpec
from xbatch.planning.index import Index, shared_ids_note
from xbatch.planning.index_pass import IndexPass
from xbatch.planning.repeats import LinePlace
from xbatch.rows.request import parse
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.rows.sizes import Expectation
from xbatch.rows.suggest import listed
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.state.folder import Plan

INDEX_FIRST_S = 1.0
"""The index pass gets this head start, so that most mistakes are found before anything is loaded."""


class Indexing:
    """The index of a job's inputs, which come as sources by the user's names for them."""

    def __init__(self, spec: JobSpec, sources: Mapping[str, Source]) -> None:
        self.index = Index()
        self.blank_lines = 0
        """Of all inputs; known once the index is complete."""
        self._spec = spec
        self._sources = sources
        self._shard_rows = spec.shard_rows
        self._pass: IndexPass | None = None
        template = RequestTemplate(spec.request) if spec.request else None
        self.parse = functools.partial(parse, template=template)
        """From a row of the job to its request."""

    def expect(self) -> Expectation | None:
        """What the rows need that were looked at up to now."""
        return self.index.sizes.expect()

    def use(self, plan: Plan) -> bool:
        """Take the index from a plan; False if inputs have come since, so that it must be made anew."""
        self._shard_rows = plan.facts["shard_rows"]
        if len(plan.facts["inputs"]) < len(self._sources):
            return False
        self.index = Index.of(plan.shards, plan.facts)
        self.blank_lines = plan.facts["blank_lines"]
        return True

    def choose_model(self) -> str | None:
        """Begin to look at every row, unless that was done before, and tell the model as soon as it is known.

        Raises UsageError.
        """
        if not self.index.shards:
            self._pass = IndexPass(self._scans(), self.index, self._place, self._shard_rows, self.parse)
            self._pass.start()
            if self._pass.wait(INDEX_FIRST_S):
                self._check_names()
            while not self.index.models and not self._pass.wait(0.1):
                pass
        return choose_model(self._spec.model, dict(self.index.models))

    async def complete(self) -> None:
        """Wait until every row was looked at.

        Raises UsageError if none of them can be answered by the model.
        """
        if self._pass is not None:
            await asyncio.to_thread(self._pass.wait)
            self.blank_lines = sum(source.blank_lines for source in self._sources.values())
        self._check_names()

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

    def notes(self, *, joint: bool) -> list[str]:
        """Sentences about ids for the user; `joint` says that inputs share an output."""
        return shared_ids_note(self.index.shared_ids, self.index.first_shared) if joint else []

    def plan(self) -> Plan:
        """The plan, once the index is complete."""
        facts = {
            **self.index.facts(),
            "shard_rows": self._shard_rows,
            "inputs": {uri: source.digest for uri, source in self._sources.items()},
            "blank_lines": self.blank_lines,
        }
        return Plan(self.index.shards, facts)

    def _check_names(self) -> None:
        model = choose_model(self._spec.model, self.index.models)
        check_names({model or "", *self._spec.served_model_name, *self._spec.lora_modules}, self.index.models)

    def _scans(self) -> Iterator[Iterator[Row]]:
        for source in self._sources.values():
            yield source.scan(self.index.rows)

    def _place(self, line: LinePlace) -> str:
        return list(self._sources.values())[line[0]].place(line[1])
