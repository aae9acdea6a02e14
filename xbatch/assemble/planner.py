"""What plans the rows of a job, from its specification."""

from xbatch.engines import Engine
from xbatch.flight import Respond
from xbatch.job.spec import JobSpec
from xbatch.planning.dedupe import Dedupe
from xbatch.planning.scheduler import Scheduler
from xbatch.rows.outcome import Outcome
from xbatch.rows.response import repeated, response_line


def make_scheduler(spec: JobSpec, engine: Engine) -> Scheduler:
    """What decides which rows an engine is given, and when."""
    return Scheduler(engine.max_in_flight, spec.look_ahead, spec.order, engine.max_running)


def make_dedupe(spec: JobSpec, job_id: str) -> Dedupe | None:
    """What has the same asked once, unless the job wants it asked time and again."""
    return Dedupe(lambda index, outcome: repeated(job_id, index, outcome)) if spec.dedupe else None


def make_respond(spec: JobSpec, job_id: str) -> Respond:
    """What writes the response of a row."""

    def respond(index: int, custom_id: str, outcome: Outcome) -> bytes:
        return response_line(job_id, index, custom_id, outcome, spec.format)

    return respond
