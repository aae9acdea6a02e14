"""An Airflow DAG that runs nightly-s3.yaml over the files of the day before and acts on xbatch's exit codes.

0 is success. 75 (interrupted), or the end by a signal, is tried again: the same command finishes the job. Every other
code needs somebody to look, so the task fails at once, whatever tries are left. BashOperator with its
`skip_on_exit_code` is not used: a job that is not complete is no job to skip.
"""

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import dag, task

JOB = os.environ.get("XBATCH_JOB", "/srv/xbatch/jobs/nightly-s3.yaml")
DRAIN_S = 90
HOPELESS = {
    1: "complete, but more rows failed than allowed: look at them, then --retry-failed",
    2: "the command, the job file or an input can't be used",
    3: "the engine can't be started or keeps dying; progress is kept",
    4: "storage failed for good; progress is kept",
    70: "a bug in xbatch; progress is kept",
}


@dag(
    schedule="0 1 * * *",
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=True,
    max_active_runs=1,
    default_args={"retries": 20, "retry_delay": timedelta(minutes=2)},
)
def xbatch_nightly() -> None:
    """Answer every row of one day's files."""

    @task(execution_timeout=timedelta(hours=8))
    def answer(data_interval_end: datetime | None = None) -> None:
        """Run xbatch and turn its exit code into Airflow's words."""
        assert data_interval_end is not None
        day = f"{data_interval_end - timedelta(days=1):%Y-%m-%d}"
        environment = {**os.environ, "IN": f"s3://in/{day}/", "OUT": f"s3://out/{day}/"}
        process = subprocess.Popen(["xbatch", "run", JOB], env=environment)  # noqa: S603, S607 - the job is ours
        try:
            code = process.wait()
        except BaseException:  # the task is killed or its time is over: rows in flight may finish
            process.send_signal(signal.SIGTERM)
            process.wait(DRAIN_S)
            raise
        if code in HOPELESS:
            raise AirflowFailException(HOPELESS[code])
        if code:
            raise AirflowException(f"interrupted (exit code {code}); the next try goes on")

    answer()


xbatch_nightly()
