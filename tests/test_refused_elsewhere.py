"""A run that is refused on one machine leaves alone what others have done."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from test_cli_run import chat, write

from xbatch.assemble.job import Job
from xbatch.assemble.starting import Starter
from xbatch.errors import UsageError
from xbatch.job.spec import JobSpec
from xbatch.run import Stop
from xbatch.state.folder import StateFolder
from xbatch.state.lease import Lease

STATE = "memory://refused-elsewhere/state"
FAKE = {"name": "fake"}


class Refusing:
    """A starter whose engine does not take its settings."""

    engine = None

    async def check(self, model: str) -> None:
        """Refuse the settings."""
        raise UsageError("a setting is wrong")

    async def start(self) -> None:
        """Never reached."""

    async def revive(self) -> None:
        """Never reached."""

    def close(self) -> None:
        """Nothing was started."""

    def kill(self) -> None:
        """Nothing was started."""


def run(folder: Path, starter: Starter | None = None, **fields: Any) -> dict[str, Any]:
    """One run of the job, whose state lies in a store, on a machine whose own part of the state is in `folder`."""
    folder.mkdir(exist_ok=True)
    inputs, output = str(folder.parent / "in.jsonl"), str(folder.parent / "o.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        job = Job(
            JobSpec(inputs=[inputs], output=output, state=STATE, **fields), folder, Stop(), print, starter=starter
        )
        try:
            return asyncio.run(job.run())
        finally:
            job.close()


def test_refusal_on_another_machine(tmp_path: Path) -> None:
    """Settings that this machine's engine does not take cost the job nothing of what another one has settled."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    assert run(tmp_path / "a", engine=FAKE | {"fail_on": "1"})["request_counts"]["completed"] == 2
    before = StateFolder(STATE).job()
    with pytest.raises(UsageError, match="a setting is wrong"):
        run(tmp_path / "b", Refusing(), engine=FAKE, retry_failed="all")
    assert StateFolder(STATE).job() == before
    report = run(tmp_path / "c", engine=FAKE, retry_failed="all")
    assert report["request_counts"]["completed"] == 3
    assert report["this_run"]["rows"] == 1


def test_refusal_while_another_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has seen no job, and is refused because one has begun since, leaves that job alone."""
    write(tmp_path / "in.jsonl", [chat(i) for i in range(3)])
    StateFolder(STATE).store.delete_folder("")
    claim = Lease.claim

    def last(lease: Lease) -> None:
        monkeypatch.setattr(Lease, "claim", claim)
        run(tmp_path / "a", engine=FAKE)
        claim(lease)

    monkeypatch.setattr(Lease, "claim", last)
    with pytest.raises(UsageError, match="max_line_bytes"):
        run(tmp_path / "b", engine=FAKE, max_line_bytes=1 << 20)
    report = run(tmp_path / "c", engine=FAKE)
    assert report["this_run"]["rows"] == 3, "the answers of the other run are gone"
    assert StateFolder(STATE).report() == report
