"""Jobs that are stopped at random, again and again, in every way a process can be.

`python tests/test_soak.py --seconds 600 [--seed N]` does the same for as long as one likes.
"""

import argparse
import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random

from durability import Ended, Exactness, Seen, Trial, end

POINTS = ("lease-taken", "plan-written", "row-submitted", "wal-half", "wal-appended", "wal-rotated", "put-half")
POINTS += (
    "put-written",
    "put-linked",
    "segment-published",
    "wal-reset",
    "shard-covered",
    "done-written",
    "output-half",
)
START_S = 0.35
"""About what a process takes before it does anything."""


@dataclass
class Totals:
    """What a soak has seen; the last four are faults."""

    jobs: int = 0
    runs: int = 0
    kills: int = 0
    terms: int = 0
    rows: int = 0
    started: int = 0
    lost: int = 0
    twice: int = 0
    rerun_after_durable: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Totals") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def __str__(self) -> str:
        return ", ".join(f"{each.name.replace('_', ' ')} {getattr(self, each.name)}" for each in fields(self))


def soak(base: Path, seconds: float, seed: int) -> Totals:
    """Run jobs, two at a time, until the time is up; every job is finished."""
    until_s = time.monotonic() + seconds
    totals = Totals()

    def lane(number: int) -> None:
        jobs = 0
        while time.monotonic() < until_s:
            name = f"{seed}-{number}-{jobs}"
            totals.add(one_job(base / name, Random(name)))
            jobs += 1

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lane, range(2)))
    return totals


def one_job(base: Path, random: Random) -> Totals:
    trial = Trial(
        base,
        rows=random.choice([1, 17, 60, 150, 300]),
        shard_rows=random.choice([3, 16, 64, 1000]),
        delay_s=random.choice([0.0, 0.005, 0.02]),
        start_s=random.choice([0.0, 0.0, 0.2]),
        in_flight=random.choice([1, 4, 16, 64]),
        commit_s=random.choice([0.02, 0.1, 0.5, 15]),
    )
    totals = Totals(jobs=1, rows=trial.rows)
    try:
        for _ in range(random.randrange(6)):
            if _stop_once(trial, random, totals):
                break
        ended = trial.run()
        _look(trial, totals, ended)
        if ended.code != 0:
            totals.faults.append(f"{base.name}: did not complete: {ended}")
        else:
            _count(trial, totals)
    except AssertionError as e:
        totals.faults.append(f"{base.name}: {e}")
    return totals


def _stop_once(trial: Trial, random: Random, totals: Totals) -> bool:
    """Begin a run and stop it somehow; True if it was complete before that."""
    way = random.choice(["kill", "kill", "term", "twice", "freeze", "point"])
    point = f"{random.choice(POINTS)}:{1 + int(random.expovariate(0.1))}"
    process = trial.start(crash=point if way == "point" else "")
    answering_s = trial.rows * (0.002 + _delay_s(trial) / trial.in_flight)
    time.sleep(random.uniform(0, START_S + answering_s))
    if way in {"kill", "freeze"}:
        if way == "freeze":
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(random.uniform(0, 0.3))
        process.kill()
    elif way in {"term", "twice"}:
        process.terminate()
        if way == "twice":
            time.sleep(random.uniform(0, 0.05))
            process.terminate()
    ended = end(process)
    totals.kills += ended.code == -signal.SIGKILL
    totals.terms += way in {"term", "twice"} and ended.code == 75
    expected = {"term": {75, -signal.SIGTERM}, "twice": {75, -signal.SIGTERM}}.get(way, {-signal.SIGKILL})
    if ended.code not in {0, *expected}:
        totals.faults.append(f"{trial.work.parent.name}: {way} ended with {ended}")
    seen = _look(trial, totals, ended)
    if way == "term" and ended.code == 75 and not set(seen.started) <= seen.durable:
        totals.faults.append(f"{trial.work.parent.name}: not drained: {set(seen.started) - seen.durable}")
    return ended.code == 0


def _delay_s(trial: Trial) -> float:
    [word] = [word for word in trial.words if word.startswith("delay_s=")]
    return float(word.partition("=")[2])


def _look(trial: Trial, totals: Totals, ended: Ended) -> Seen:
    """Take down what a run has left."""
    seen = trial.look()
    totals.runs += 1
    totals.started += len(seen.started)
    totals.rerun_after_durable += len(seen.rerun)
    name = f"{trial.work.parent.name} after {ended.code}"
    if seen.rerun:
        totals.faults.append(f"{name}: started again: {seen.rerun}")
    if trial.kept - seen.durable:
        totals.faults.append(f"{name}: forgotten: {trial.kept - seen.durable}")
    if len(set(seen.started) - seen.durable) > trial.in_flight:
        totals.faults.append(f"{name}: more was lost than was in flight")
    totals.faults += trial.torn()
    trial.kept = seen.durable
    if "Traceback" in ended.told:
        totals.faults.append(f"{name}: {ended.told}")
    return seen


def _count(trial: Trial, totals: Totals) -> None:
    exactness = trial.exactness()
    totals.lost += exactness.lost
    totals.twice += exactness.twice
    if exactness != Exactness():
        totals.faults.append(f"{trial.work.parent.name}: {exactness}")
    else:
        trial.check_exact()


def test_soak(tmp_path: Path) -> None:
    """Stopped at random instants in random ways, jobs of all sizes end exactly, and run nothing durable again."""
    seed = int(os.environ.get("XBATCH_SOAK_SEED") or time.time())
    totals = soak(tmp_path, float(os.environ.get("XBATCH_SOAK_S") or 30), seed)
    print(f"\nseed {seed}: {totals}")
    assert (totals.lost, totals.twice, totals.rerun_after_durable, totals.faults) == (0, 0, 0, []), f"seed {seed}"
    assert totals.kills > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xbatch-soak-") as folder:
        found = soak(Path(folder), given.seconds, given.seed)
    print(f"seed {given.seed}: {found}")
    raise SystemExit(bool(found.faults))
