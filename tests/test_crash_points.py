"""Killed at every named point, damaged by hand, run twice at once: what must hold then, by the durability protocol."""

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from durability import Trial, durable, end, frames, log_rows, segment_rows, segments

SHARDS = 4
"""Of a trial with 60 rows."""
CRASHES = {
    "job-before": (1,),
    "job-written": (1,),
    "lease-taken": (1,),
    "plan-written": (1,),
    "row-submitted": (1, 50),
    "wal-half": (1, 2, 33),
    "wal-appended": (1, 33, 60),
    "wal-synced": (1, 2),
    "wal-rotated": (1,),
    "put-half": (1, 3, 5, 8),
    "put-written": (1, 3, 5, 8),
    "put-linked": (1, 3, 5, 8),
    "segment-published": (1, SHARDS),
    "wal-reset": (1, SHARDS),
    "shard-covered": (1, 2, SHARDS),
    "done-written": (1, 2, SHARDS),
    "all-done": (1,),
    "output-half": (1, 30),
    "output-built": (1,),
    "output-published": (1,),
    "report-written": (1,),
}
SYNCED: dict[str, Any] = {"delay_s": 0.2, "commit_s": 60}
"""Long enough for logs to be synced, which they are twice a second."""
ALL_SETTLED = {"all-done:1", "output-half:1", "output-half:30", "output-built:1", "output-published:1"}
ALL_SETTLED |= {f"shard-covered:{SHARDS}", f"done-written:{SHARDS}", "report-written:1", "wal-appended:60"}


def _has(*patterns: str) -> Callable[[Trial], bool]:
    return lambda trial: all(any(trial.state.glob(pattern)) for pattern in patterns)


def _lacks(*patterns: str) -> Callable[[Trial], bool]:
    return lambda trial: not any(any(trial.state.glob(pattern)) for pattern in patterns)


def _torn_frame(trial: Trial) -> bool:
    """Some log does not end where its last whole frame ends."""
    for path in trial.state.rglob("*.wal"):
        data = path.read_bytes()
        start, payload = list(frames(data))[-1] if any(frames(data)) else (0, b"")
        if len(data) != (start + 10 + len(payload) if payload else 0):
            return True
    return False


def _logged_and_sealed(trial: Trial) -> bool:
    """Some row stands in a log and in a segment."""
    logged = {row for path in trial.state.rglob("*.wal") for _, row, _ in log_rows(path)}
    return any(logged & set(segment_rows(path)) for path in segments(trial.state))


# What tells that a point is where its name says.
HOLDS: dict[str, Callable[[Trial], bool]] = {
    "job-before": _lacks("job.json"),
    "job-written": _has("job.json"),
    "lease-taken": lambda trial: _has("lease/*")(trial) and not durable(trial.state),
    "plan-written": _has("job.json", "plan.jsonl.zst"),
    "wal-half": _torn_frame,
    "put-half": _has("**/.*.tmp"),
    "put-written": _has("**/.*.tmp"),
    "segment-published": _logged_and_sealed,
    "done-written": _has("done/*.json"),
    "all-done": lambda trial: len(list(trial.state.glob("done/*.json"))) == SHARDS and not trial.output.exists(),
    "output-half": lambda trial: not trial.output.exists(),
    "output-built": lambda trial: not trial.output.exists(),
    "output-published": lambda trial: trial.output.exists() and _lacks("report.json")(trial),
    "report-written": lambda trial: trial.output.exists() and _has("report.json")(trial),
}


def killed(trial: Trial, crash: str, *words: str) -> None:
    ended = trial.run(*words, crash=crash)
    assert ended.code == -signal.SIGKILL, f"{crash} was not reached: {ended}"


@pytest.mark.parametrize("crash", [f"{point}:{n}" for point, numbers in CRASHES.items() for n in numbers])
def test_killed_at(tmp_path: Path, crash: str) -> None:
    """Killed anywhere, at most what was in flight is lost, and the same command ends exactly, at once."""
    point = crash.partition(":")[0]
    trial = Trial(tmp_path, **SYNCED if point == "wal-synced" else {})
    killed(trial, crash)
    assert HOLDS.get(point, lambda _: True)(trial), f"this is not {point}"
    seen = trial.stopped()
    assert len(set(seen.started) - seen.durable) <= trial.in_flight
    assert len(seen.durable) == trial.rows or crash not in ALL_SETTLED
    job = trial.job if (trial.state / "job.json").exists() else None
    before = trial.listing()
    again = trial.finish()
    assert job in {None, trial.job}
    if len(seen.durable) == trial.rows:
        assert (again.started, again.engine_starts) == ([], 0), "no row needs an engine"
    if point == "report-written":
        assert trial.listing() == before, "a complete job is rewritten"


@pytest.mark.parametrize(
    "crash",
    [
        "lease-taken:1",
        "row-submitted:9",
        "wal-half:4",
        "wal-appended:5",
        "wal-synced:1",
        "put-written:3",
        "segment-published:1",
        "output-half:7",
        "output-published:1",
    ],
)
def test_killed_there_again_and_again(tmp_path: Path, crash: str) -> None:
    """However often it is killed at the same point, a job goes on from where it was and ends exactly."""
    trial = Trial(tmp_path, **SYNCED if crash.startswith("wal-synced") else {})
    for _ in range(3):
        killed(trial, crash)
        trial.stopped()
    trial.finish()


@pytest.mark.parametrize("crash", ["put-half:3", "put-written:5"])
def test_half_made_objects_are_swept(tmp_path: Path, crash: str) -> None:
    """What a killed process was about to publish does not stay for ever."""
    trial = Trial(tmp_path)
    killed(trial, crash)
    assert list(trial.state.rglob(".*.tmp"))
    trial.finish()
    assert list(trial.state.rglob(".*.tmp")) == []


# In a run that begins with this, three rows fail; a run without it is the same command.
FAILING = """
from xbatch.engines.fake import FakeEngine
make = FakeEngine.__init__
FakeEngine.__init__ = lambda self, **more: make(self, **{**more, "fail_on": frozenset({3, 20, 41})})
"""


@pytest.mark.parametrize("crash", ["round-begun:1", "round-done:1", "wal-appended:2", "output-published:1"])
def test_killed_in_a_retry_round(tmp_path: Path, crash: str) -> None:
    """Killed while failed rows are tried again, the job keeps every other row, and the round can be finished."""
    trial = Trial(tmp_path)
    assert trial.run(before=FAILING).code == 0
    assert {3, 20, 41} & durable(trial.state) == set()
    trial.kept = durable(trial.state)
    trial.read_log()
    killed(trial, crash, "--retry-failed")
    trial.kept -= {3, 20, 41}
    assert set(trial.read_log()[0]) <= {3, 20, 41}
    assert trial.torn() == []
    again = trial.finish("--retry-failed")
    assert set(again.started) <= {3, 20, 41}


def test_killed_while_a_change_is_accepted(tmp_path: Path) -> None:
    """Killed when an accepted change has been written down, the job goes on with it and without being told again."""
    trial = Trial(tmp_path)
    killed(trial, "wal-appended:20")
    trial.stopped()
    trial.words += ["--seed", "7"]
    refused = trial.run()
    assert (refused.code, "seed" in refused.told) == (2, True)
    killed(trial, "accept-written:1", "--accept-change", "engine_args.seed")
    trial.stopped()
    trial.finish()


@pytest.mark.parametrize("words", [["--restart"], []], ids=["restart again", "run plainly"])
def test_killed_while_restarting(tmp_path: Path, words: list[str]) -> None:
    """Killed while the old job is thrown away, neither command ever mixes what is left of it with a new one."""
    trial = Trial(tmp_path)
    assert trial.run().code == 0
    killed(trial, "restart-clearing:1", "--restart")
    assert trial.run(*words).code == 0
    trial.check_exact()


@pytest.mark.parametrize(
    "crash", [*(f"restart-clearing:{n}" for n in range(1, 5)), "job-before:1", "job-written:1", "plan-written:1"]
)
def test_killed_while_beginning_anew(tmp_path: Path, crash: str) -> None:
    """Killed while a job that has answered nothing makes room for a mended one, the same command ends exactly."""
    trial = Trial(tmp_path)
    (trial.work / "in.jsonl").write_text("nonsense\n", "utf-8")
    assert trial.run().code == 0
    trial.write_input("in.jsonl", range(trial.rows))
    killed(trial, crash)
    assert trial.run().code == 0
    trial.check_exact()


@pytest.mark.parametrize("crash", ["accept-written:1", "extend-planned:1"])
def test_killed_while_extending(tmp_path: Path, crash: str) -> None:
    """Killed when the plan has been extended by another input, the job goes on to both, from where it was."""
    trial = Trial(tmp_path)
    trial.finish()
    trial.write_input("more.jsonl", range(60, 90))
    trial.words.insert(1, "more.jsonl")
    killed(trial, crash, "--extend")
    trial.stopped()
    trial.rows = 90
    assert set(trial.finish("--extend").started) <= set(range(60, 90))


@pytest.mark.parametrize("place", ["magic", "length", "crc", "row", "response"])
def test_bit_flip_in_the_log(tmp_path: Path, place: str) -> None:
    """A flipped bit in the log costs the rows from there on, which run again; those before it are kept."""
    trial = Trial(tmp_path, shard_rows=100, commit_s=60)
    killed(trial, "wal-appended:30")
    [path] = trial.state.rglob("*.wal")
    rows = log_rows(path)
    start, middle, _ = rows[15]
    data = bytearray(path.read_bytes())
    data[start + {"magic": 0, "length": 2, "crc": 6, "row": 11, "response": 40}[place]] ^= 1 << 3
    path.write_bytes(data)
    kept, lost = {row for _, row, _ in rows[:15]}, {row for _, row, _ in rows[15:]}
    assert durable(trial.state) == kept
    trial.read_log()
    trial.kept = kept
    again = trial.finish()
    assert middle in lost
    # Rows that are no requests need no engine to be settled again.
    assert {row for row in lost if row % 13 not in {5, 9}} <= set(again.started)


@pytest.fixture(scope="module")
def stopped_jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    """Jobs that were killed: in the middle, with several segments; and when all rows had been sealed."""
    jobs = {}
    for name, crash in {"half": "segment-published:3", "sealed": "all-done:1"}.items():
        jobs[name] = Trial(tmp_path_factory.mktemp(name), commit_s=0.02, lease_s=0.5)
        killed(jobs[name], crash)
    return jobs


def _copied(trial: Trial, base: Path) -> Trial:
    shutil.copytree(trial.work, base / "work")
    copy = Trial(base, lease_s=0.5)
    copy.words = trial.words
    copy.kept = durable(copy.state)
    return copy


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _garble(path: Path) -> None:
    path.write_bytes(b"\0" * 40)


@pytest.mark.parametrize(
    ("job", "pattern", "damage", "codes"),
    [
        *[("half", "job.json", damage, {4}) for damage in (_cut, _garble, Path.unlink)],
        *[("sealed", "seg/*/*.zst", damage, {4}) for damage in (_cut, _flip, _garble, Path.unlink)],
        *[("half", "seg/*/*.zst", damage, {4}) for damage in (_cut, _flip, _garble)],
        *[("sealed", "done/*.json", damage, {4}) for damage in (_cut, _garble)],
        ("sealed", "done/*.json", Path.unlink, {0}),
        ("half", "plan.jsonl.zst", _cut, {4}),
        ("half", "plan.jsonl.zst", Path.unlink, {0, 4}),
        ("half", "seg/*/000000.jsonl.zst", Path.unlink, {0, 4}),
    ],
)
def test_damaged_by_hand(
    tmp_path: Path,
    stopped_jobs: dict[str, Trial],
    job: str,
    pattern: str,
    damage: Callable[[Path], None],
    codes: set[int],
) -> None:
    """State that was damaged or deleted by hand is named and ends the job, or is made anew; never is a row missing."""
    trial = _copied(stopped_jobs[job], tmp_path)
    path = min(trial.state.glob(pattern))
    damage(path)
    ended = trial.run()
    assert ended.code in codes, ended
    assert "Traceback" not in ended.told
    if ended.code == 0:
        trial.check_exact()
    else:
        assert path.name in ended.told or path.parent.name in ended.told
        assert not trial.output.exists()


def test_finalizing_is_a_pure_function(tmp_path: Path, stopped_jobs: dict[str, Trial]) -> None:
    """Whoever writes the output from the same state writes the same bytes."""
    copies = [_copied(stopped_jobs["sealed"], tmp_path / name) for name in "ab"]
    assert [end(process).code for process in [copy.start() for copy in copies]] == [0, 0]
    assert copies[0].output.read_bytes() == copies[1].output.read_bytes()
    copies[0].check_exact()


def test_second_process(tmp_path: Path) -> None:
    """A second process for the same job exits 75 at once, names host, process and heartbeat, and disturbs nothing."""
    trial = Trial(tmp_path, delay_s=0.5)
    process = trial.running()
    os.kill(process.pid, signal.SIGSTOP)  # so that it can't end before the second one has looked
    second = trial.run()
    os.kill(process.pid, signal.SIGCONT)
    assert second.code == 75, second
    assert socket.gethostname() in second.told
    assert str(process.pid) in second.told
    assert re.search(r"\d+(\.\d+)? ?s(econds?)? ago", second.told)
    assert end(process).code == 0
    trial.stopped()
    trial.check_exact()


OTHER = {"XBATCH_HOST": "other", "XBATCH_LEASE_S": "2"}


def test_living_process_keeps_its_job(tmp_path: Path) -> None:
    """A process on another host never takes a job from one that lives, however short the lease's term is."""
    trial = Trial(tmp_path, delay_s=2)  # it lives longer than the other takes to give up
    process = trial.running(env={"XBATCH_LEASE_S": "2"})
    second = trial.run(env=OTHER)
    assert second.code == 75, second
    assert end(process).code == 0
    trial.stopped()
    trial.check_exact()


def test_zombie(tmp_path: Path) -> None:
    """A process that slept beyond its lease's term finds its job taken: it exits 75 and changes nothing."""
    trial = Trial(tmp_path, rows=120, delay_s=0.05)
    process = trial.running(rows=20, env={"XBATCH_LEASE_S": "2"})
    try:
        os.kill(process.pid, signal.SIGSTOP)
        asleep_s = time.monotonic()
        while (second := trial.run(env=OTHER)).code == 75 and time.monotonic() < asleep_s + 30:
            time.sleep(0.2)
        assert second.code == 0, second
        assert time.monotonic() - asleep_s > 1.5
        trial.check_exact()
        output, report = trial.output.read_bytes(), json.loads((trial.state / "report.json").read_bytes())
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert end(process).code == 75
    assert trial.output.read_bytes() == output
    assert json.loads((trial.state / "report.json").read_bytes()) == report
    assert trial.run(env=OTHER).code == 0
    trial.check_exact()
