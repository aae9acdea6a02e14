"""The end of a job: from segments to the output and the report. Over interfaces only."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from xbatch import crash
from xbatch.display import counted
from xbatch.errors import StorageError
from xbatch.masking import masked_all
from xbatch.report.totals import make_report
from xbatch.sinks import Claim, OutputRow, Sink
from xbatch.sinks.answers import is_all_reasoning
from xbatch.state.folder import JobFile, StateFolder
from xbatch.state.passes import Passes
from xbatch.state.reasons import JOB_REASONS, Reasons
from xbatch.state.records import Counts, Kind


def finish_job(
    job: JobFile,
    passes: Passes,
    sink: Sink,
    claim: Claim,
    folder: StateFolder,
    this_run: Counts,
    *,
    began_s: float,
    **facts: Any,
) -> dict[str, Any]:
    """Publish every row's last response, then the report, and return the report.

    The output is a pure function of the segments: whenever and by whomever this is done, the bytes are the same, so a
    crash in between or a second process changes nothing. `claim` notes which files are the job's own. `began_s` is when
    this run began, by the monotonic clock; `facts` go into the report. Raises StorageError, also if a row has no
    response.
    """
    crash.here("all-done")
    counts, rows = passes.counts(), sum(shard.rows for shard in passes.shards)
    if counts.total != rows:
        raise StorageError(
            f"{counted(counts.total, 'row is', 'rows are')} settled, but the job has {rows:,}: its state is damaged"
        )
    all_reasoning, reasons = _AllReasoning(), Reasons()
    published = sink.publish(all_reasoning.counted(_output_rows(passes, reasons)), claim)
    crash.here("output-published")
    facts["all_reasoning"] = all_reasoning.rows
    facts |= {"outputs": [asdict(output) for output in published], "elapsed_s": time.monotonic() - began_s}
    facts |= reasons.told(passes.shards, [each["uri"] for each in job.identity["inputs"]])
    facts = masked_all(facts)
    report = make_report(job.job, job.identity["model"], counts, this_run, rounds=passes.rounds, **facts)
    folder.write_report(report)
    return report


class _AllReasoning:
    """A count of the answers that are all reasoning, taken while they are written."""

    def __init__(self) -> None:
        self.rows = 0

    def counted(self, rows: Iterator[OutputRow]) -> Iterator[OutputRow]:
        """Yield the same rows, and count them as they come by."""
        for row in rows:
            self.rows += row.completed and is_all_reasoning(row.line)
            yield row


def _output_rows(passes: Passes, reasons: Reasons) -> Iterator[OutputRow]:
    """Return every row's last response in order, and count in `reasons` why rows failed."""
    for shard in passes.shards:
        index = shard.first_row
        for row in passes.rows(shard):
            if row.row != index:
                break
            if row.kind is not Kind.COMPLETED:
                reasons.take(*row, most=JOB_REASONS)
            yield OutputRow(shard.file, row.kind is Kind.COMPLETED, row.line)
            index += 1
        if index != shard.first_row + shard.rows:
            raise StorageError(f"row {index} of shard {shard.name} is in none of its segments: the state is damaged")
