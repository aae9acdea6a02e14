"""Everything that is wrong with a job's rows, found without an engine."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from xbatch import storage
from xbatch.assemble.input import input_files, open_input
from xbatch.assemble.starting import model_place
from xbatch.engines.build import build_judge, vllm_name
from xbatch.engines.judging import Judge, Rendered, Verdict
from xbatch.errors import UsageError
from xbatch.job.body_notes import allowed_by, check_needs, ignored_sentence
from xbatch.job.models import check_names, choose_model
from xbatch.job.places import inputs_of, storage_of
from xbatch.job.spec import JobSpec
from xbatch.planning.body_notes import BodyNotes
from xbatch.planning.index import shared_ids_note
from xbatch.planning.survey import Survey
from xbatch.planning.tokens import TokenCounts
from xbatch.rows.problem import Problem, Refusal
from xbatch.rows.request import ParsedRow, Request, parse
from xbatch.rows.row import Row
from xbatch.rows.template import RequestTemplate
from xbatch.sources import Source

TICK_ROWS = 2048
"""Rows between two looks at the clock."""
_JUDGED_ROWS = 256
_JUDGED_BYTES = 8 << 20


class Validation:
    """One look at every row of a job.

    `tell` is called with every sentence that the user should see, `tick` often. With `tokens`, requests are judged as
    the engine would judge them; `before` is called with a log in `scratch` before anything that writes to it is
    imported.
    """

    def __init__(
        self,
        spec: JobSpec,
        scratch: Path,
        tell: Callable[[str], None],
        tick: Callable[[], None],
        before: Callable[[Path], None],
        *,
        tokens: bool,
    ) -> None:
        self.refused: list[str] = []
        """Why the job as a whole can't be run."""
        self._spec = spec
        self._tell = tell
        self._tick = tick
        storage.use_settings(storage_of(spec, tell))
        inputs, notes = inputs_of(spec)
        for note in notes:
            tell(note)
        self._files = input_files(inputs, scratch)
        self._sources = self._open()
        template = RequestTemplate(spec.request) if spec.request else None
        self._parse: Callable[[Row], ParsedRow] = (lambda row: parse(row, template)) if template else parse
        names = None if spec.model is None else {spec.model, *spec.served_model_name, *spec.lora_modules}
        self.survey = Survey(names, self._place, scratch)
        self.survey.index.notes = BodyNotes(allowed_by(spec))
        self._blank_lines = 0
        self._tokens = TokenCounts() if tokens else None
        self._judge = self._build_judge(scratch, before) if tokens else None

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with rows: with each row in turn, then which of them repeat a `custom_id`."""
        for file, source in enumerate(self._sources):
            if source is None:
                continue
            try:
                yield from self._problems_of(file, source)
            except UsageError as e:
                self.refused.append(str(e))
            self._blank_lines += source.blank_lines
        yield from self.survey.repeats()
        if self._spec.output is not None and not self._spec.output.endswith("/"):
            for note in shared_ids_note(*self.survey.shared_ids):
                self._tell(note)
        self._check_rows()

    def totals(self) -> dict[str, Any]:
        """Return the counts as JSON; to be called when the problems are at their end."""
        survey, index = self.survey, self.survey.index
        return {
            "rows": index.rows,
            "failed": survey.failed,
            "problems": dict(survey.codes.most_common()),
            "models": [{"name": name, "rows": named.rows} for name, named in index.models.items()],
            "endpoints": dict(survey.endpoints),
            "repeated_requests": survey.repeated_requests(),
            "files": len(self._files),
            "num_bytes": index.num_bytes,
            "blank_lines": self._blank_lines,
            "ignored_fields": index.notes.facts(),
            "tokens": None if self._tokens is None else self._tokens.facts(),
            "refused": self.refused,
        }

    def close(self) -> None:
        """Close the inputs."""
        for source in filter(None, self._sources):
            source.close()
        self.survey.close()

    def _open(self) -> list[Source | None]:
        """Open the sources, and return None in the place of one that can't be read."""
        sources: list[Source | None] = []
        for uri, file in self._files.items():
            try:
                source = open_input(self._spec, uri, file, digests=False)
                source.check()
                sources.append(source)
            except UsageError as e:
                self.refused.append(str(e))
                sources.append(None)
        for note in dict.fromkeys(note for source in filter(None, sources) for note in source.notes):
            self._tell(note)
        return sources

    def _place(self, file: int, line: int) -> tuple[str, str]:
        source = self._sources[file]
        assert source is not None
        return source.shown_as, source.place(line)

    def _problems_of(self, file: int, source: Source) -> Iterator[Problem]:
        rows, parse_row, take = source.scan(self.survey.index.rows), self._parse, self.survey.take
        with closing(rows):  # type: ignore[type-var]
            if self._judge is not None:
                yield from self._judged(file, rows, self._judge)
                return
            for number, row in enumerate(rows):
                if (problem := take(file, row, parse_row(row))) is not None:
                    yield problem
                if not number % TICK_ROWS:
                    self._tick()

    def _judged(self, file: int, rows: Iterator[Row], judge: Judge) -> Iterator[Problem]:
        while chunk := list(self._chunk(rows)):
            requests = [parsed for _, parsed in chunk if isinstance(parsed, Request)]
            verdicts: Iterator[Verdict] = iter(judge.judge(requests))
            for row, parsed in chunk:
                verdict = next(verdicts) if isinstance(parsed, Request) else None
                refusal = verdict if isinstance(verdict, Refusal) else None
                if (problem := self.survey.take(file, row, parsed, refusal, judged=True)) is not None:
                    yield problem
                elif isinstance(verdict, Rendered):
                    assert self._tokens is not None
                    self._tokens.add(verdict.prompts, verdict.max_tokens)
            self._tick()

    def _chunk(self, rows: Iterator[Row]) -> Iterator[tuple[Row, ParsedRow]]:
        num_bytes = 0
        for row in islice(rows, _JUDGED_ROWS):
            yield row, self._parse(row)
            num_bytes += row.num_bytes
            if num_bytes >= _JUDGED_BYTES:
                return

    def _build_judge(self, scratch: Path, before: Callable[[Path], None]) -> Judge | None:
        spec = self._spec
        model = spec.model or self._first_model()
        if model is None:
            return None  # no row could be sent, or that none names a model is told at the end
        self._tell(f"getting ready to count the tokens of {model}")
        if spec.engine_name != "fake":
            before(scratch / "engine.log")
        names = [*spec.served_model_name, model]
        return build_judge(spec.engine_name, model_place(model), names, spec.lora_modules, spec.engine_args)

    def _first_model(self) -> str | None:
        for source in filter(None, self._sources):
            with closing(source.scan(0)) as rows:  # type: ignore[type-var]
                for row in rows:
                    parsed = self._parse(row)
                    if isinstance(parsed, Request) and isinstance(parsed.model, str):
                        return parsed.model
        return None

    def _check_rows(self) -> None:
        """Find out whether the rows taken together can be answered, and tell what engines ignore in them."""
        spec, index = self._spec, self.survey.index
        if index.notes.ignored_rows:
            self._tell(ignored_sentence(index.notes.ignored.items(), index.notes.ignored_rows, vllm_name()))
        try:
            model = choose_model(spec.model, index.models)
            check_names({model or "", *spec.served_model_name, *spec.lora_modules}, index.models)
            sendable = index.rows - index.rejected
            if model is not None and (
                refused := check_needs(index.notes, sendable, model_place(model), spec.engine_args)
            ):
                self._tell(refused)
        except UsageError as e:
            self.refused.append(str(e))
