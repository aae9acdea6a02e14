"""Power cuts: a job on a file system in a file, of which a copy at a random instant is what a disk would hold.

The journal of the file system is committed once a minute, so nothing gets to the disk that was not synced. Needs root
and loop devices. `python tests/test_power_cut.py --cuts 50 [--seed N]` does the same for as many cuts as one likes.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from durability import Trial, durable, end, segment_rows, segments

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)
IMAGE_BYTES = 48 << 20
ACKNOWLEDGED_S = 1.0
"""What is this old must have been synced: logs are, twice a second."""
ROWS, DELAY_S, IN_FLIGHT = 440, 0.06, 8
"""About three seconds of work."""
NO_SYNC = "import os\nos.fsync = os.fdatasync = os.sync = lambda *_: None\n"


@dataclass
class Totals:
    """What a number of cuts have shown."""

    cuts: int = 0
    rows: int = 0
    segments: int = 0
    """Acknowledged before a cut, as are the rows."""
    lost_rows: int = 0
    lost_segments: int = 0
    torn: int = 0
    recovered: int = 0
    faults: list[str] = field(default_factory=list)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-o", "loop,commit=60", image, folder], check=True)
    try:
        yield
    finally:
        unmount(folder)


def unmount(folder: Path) -> None:
    """Unmount; at once if it can be, else as soon as nobody uses it."""
    done = subprocess.run(["umount", folder], capture_output=True, check=False)
    if done.returncode != 0:
        subprocess.run(["umount", "-l", folder], check=True)


def make_image(path: Path, size_bytes: int = IMAGE_BYTES) -> Path:
    with path.open("xb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


@dataclass(frozen=True)
class Look:
    """What could be seen of a job at an instant."""

    at_s: float
    rows: set[int]
    segments: set[str]


def look(trial: Trial) -> Look:
    at_s = time.monotonic()
    names = {str(path.relative_to(trial.work)) for path in segments(trial.state)}
    return Look(at_s, durable(trial.state), names)


def job(base: Path) -> Trial:
    # A copy of a disk does not tell that the process of which it holds the lease is dead.
    return Trial(
        base,
        ROWS,
        lease_s=0.5,
        name="disk",
        shard_rows=32,
        delay_s=DELAY_S,
        in_flight=IN_FLIGHT,
        commit_s=0.4,
        padding=200,
    )


def cut_a_job(base: Path, random: Random, before: str, cuts: int) -> Totals:
    """Run one job and cut the power of copies of its disk; recover each of them."""
    base.mkdir()
    image, totals, copies = make_image(base / "image"), Totals(), []
    with mounted(image, base / "disk"):
        trial = job(base)
        os.sync()
        process = trial.running(before=before)
        try:
            looks, next_s = [], time.monotonic() + random.uniform(1.6, 2.0)
            while process.poll() is None and len(copies) < cuts:
                if time.monotonic() < next_s:
                    looks.append(look(trial))
                    time.sleep(0.02)
                    continue
                os.kill(process.pid, signal.SIGSTOP)
                cut_s, copy = time.monotonic(), base / f"copy-{len(copies)}"
                subprocess.run(["cp", "--sparse=always", image, copy], check=True)
                os.kill(process.pid, signal.SIGCONT)
                copies.append((copy, [seen for seen in looks if seen.at_s < cut_s - ACKNOWLEDGED_S][-1]))
                next_s = time.monotonic() + random.uniform(0.1, 0.6)
            process.kill()
        finally:
            process.kill()
            end(process)
    for copy, acknowledged in copies:
        _recover(copy, acknowledged, totals)
        copy.unlink()
    return totals


def _recover(copy: Path, acknowledged: Look, totals: Totals) -> None:
    """Start the machine again: what was acknowledged is there, nothing is torn, and the job can be finished."""
    base = copy.parent / f"after-{copy.name}"
    name = f"{copy.parent.name}/{copy.name}"
    with mounted(copy, base / "disk"):
        trial = job(base)
        totals.cuts += 1
        totals.rows += len(acknowledged.rows)
        totals.segments += len(acknowledged.segments)
        totals.torn += len(torn := trial.torn())
        totals.faults += torn
        there = {str(path.relative_to(trial.work)) for path in segments(trial.state) if _whole(path)}
        totals.lost_segments += len(gone := acknowledged.segments - there)
        kept = _kept(trial)
        totals.lost_rows += len(lost := acknowledged.rows - kept)
        if gone or lost:
            totals.faults.append(f"{name}: lost {sorted(gone)} and rows {sorted(lost)}")
        if torn:
            return
        trial.kept = kept
        time.sleep(0.5)
        try:
            trial.finish()
            totals.recovered += 1
        except AssertionError as e:
            totals.faults.append(f"{name}: {e}")


def _whole(path: Path) -> bool:
    with suppress(ValueError):
        return bool(segment_rows(path))
    return False


def _kept(trial: Trial) -> set[int]:
    with suppress(ValueError):
        return durable(trial.state)
    return set()


def cut_jobs(base: Path, seed: int, cuts: int, before: str = "") -> Totals:
    """Cut as often as asked, up to four times a job."""
    random, totals, jobs = Random(seed), Totals(), 0
    while totals.cuts < cuts:
        found = cut_a_job(base / f"job-{jobs}", random, before, min(4, cuts - totals.cuts))
        for name, value in vars(found).items():
            setattr(totals, name, getattr(totals, name) + value)
        jobs += 1
    return totals


def test_power_cut(tmp_path: Path) -> None:
    """What is older than a second survives a power cut, no object is torn, and the job ends exactly."""
    seed = int(time.time())
    totals = cut_jobs(tmp_path, seed, 4)
    print(f"\nseed {seed}: {totals}")
    assert totals.faults == [], f"seed {seed}"
    assert totals.rows > 0
    assert totals.segments > 0
    assert totals.recovered == totals.cuts


def test_without_sync_the_cuts_are_seen(tmp_path: Path) -> None:
    """The same cuts lose acknowledged segments of a writer whose syncs do nothing: this test is not blind."""
    totals = cut_jobs(tmp_path, int(time.time()), 2, NO_SYNC)
    print(f"\nwithout sync: {totals.lost_segments} of {totals.segments} segments lost, {totals.lost_rows} rows")
    assert totals.lost_segments > 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xbatch-cuts-") as folder:
        result = cut_jobs(Path(folder), given.seed, given.cuts)
        (Path(folder) / "control").mkdir()
        control = cut_jobs(Path(folder) / "control", given.seed, 2, NO_SYNC)
    print(f"seed {given.seed}: {result}\nwithout sync: {control.lost_segments} of {control.segments} segments lost")
    raise SystemExit(bool(result.faults))
