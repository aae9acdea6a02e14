"""What a job's rows are: found out by an index pass, or read from the plan that an earlier one has made."""

import asyncio
import functools
from collections.abc import Iterator, Mapping

from xbatch.job.models import check_names, choose_model
from xbatch.job.spec import JobSpec
from xbatch.planning.index import Index
from xbatch.planning.index_pass import IndexPass
from xbatch.planning.repeats import LinePlace
from xbatch.rows.request import ParsedRow, Request, parse
from xbatch.rows.row import Row
from xbatch.rows.shard import Shard
from xbatch.rows.sizes import Expectation
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source
from xbatch.state.folder import Plan
from xbatch.state.journal import Journal

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

    def choose_model(self, journal: Journal | None) -> str | None:
        """Begin to look at every row, unless that was done before, and tell the model as soon as it is known.

        If no row could be sent when that was done, the rows that `journal` has not settled are looked at again: an
        input may have changed since. Raises UsageError.
        """
        if not self.index.shards:
            self._pass = IndexPass(self._scans(), self.index, self._place, self._shard_rows, self.parse)
            self._pass.start()
            if self._pass.wait(INDEX_FIRST_S):
                self._check_names()
            while not self.index.models and not self._pass.wait(0.1):
                pass
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

    async def complete(self) -> None:
        """Wait until every row was looked at.

        Raises UsageError if none of them can be answered by the model.
        """
        if self._pass is not None:
            await asyncio.to_thread(self._pass.wait)
            self.blank_lines = sum(source.blank_lines for source in self._sources.values())
        self._check_names()

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
