"""Disks that are full, that fail, and folders that go away under a running job: all of it for real. Needs root."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from durability import Ended, Trial, durable, end
from test_power_cut import make_image, mounted, unmount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
needs_loops = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)

# Counts every call that may need a block or an inode of the file system of the working folder, one byte each in
# ../notes/calls, and takes all that is left of both right before one of them.
FILL = """
import builtins, io, os
device, full_at = os.stat(".").st_dev, int(os.environ["FULL_AT"])
calls = os.open("../notes/calls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
write, opened, count = os.write, os.open, 0

def fill():
    make("ballast")
    ballast = opened("ballast/blocks", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            write(ballast, bytes(1 << 16))
    except OSError:
        pass
    try:
        for number in range(1 << 20):
            os.close(opened(f"ballast/{number}", os.O_WRONLY | os.O_CREAT))
    except OSError:
        pass

def about_to_write(found):
    global count
    if found.st_dev == device:
        count += 1
        if count == full_at:
            fill()
        write(calls, b".")

def on_fd(call):
    def counted(fd, *more):
        about_to_write(os.fstat(fd))
        return call(fd, *more)
    return counted

def on_path(call, place):
    def counted(*words, **more):
        about_to_write(os.stat(os.path.dirname(os.path.abspath(words[place]))))
        return call(*words, **more)
    return counted

def open_fd(path, flags, *words, **more):
    if flags & os.O_CREAT:
        about_to_write(os.stat(os.path.dirname(os.path.abspath(path))))
    return opened(path, flags, *words, **more)

class Raw(io.FileIO):
    def write(self, data):
        about_to_write(os.fstat(self.fileno()))
        return super().write(data)

def open_file(file, mode="r", buffering=-1, *words, open=io.open, **more):
    if isinstance(file, int) or "b" not in mode or not set(mode) & set("wxa+"):
        return open(file, mode, buffering, *words, **more)
    about_to_write(os.stat(os.path.dirname(os.path.abspath(file))))
    raw = Raw(file, mode.replace("b", ""))
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    return raw if buffering == 0 else (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)

make = os.mkdir
os.mkdir = on_path(os.mkdir, 0)
os.link, os.open = on_path(os.link, 1), open_fd
os.write, os.pwrite = on_fd(os.write), on_fd(os.pwrite)
builtins.open = io.open = open_file
"""


@contextmanager
def tmpfs(folder: Path, size_bytes: int, inodes: int = 0) -> Iterator[None]:
    folder.mkdir(parents=True)
    words = f"size={size_bytes},nr_inodes={inodes}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", words, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        unmount(folder)


def take_the_rest(path: Path) -> None:
    """Fill the file system under `path`."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def trouble_told(ended: Ended, *names: str) -> list[str]:
    """What is wrong about how a run has told of a failing disk."""
    wrong = []
    if ended.code not in {4, 75}:
        wrong.append(f"exit code {ended.code}")
    if "Traceback" in ended.told or len(ended.told.strip().splitlines()) != 1:
        wrong.append("not one sentence")
    if not any(name in ended.told for name in names):
        wrong.append("no path is named")
    return [f"{each}: {ended.told}" for each in wrong]


def small_job(base: Path) -> Trial:
    # A response is longer than a page, so that no write finds room in what the file has already.
    trial = Trial(base, 7, name="disk", shard_rows=4, in_flight=2, delay_s=0.0, commit_s=60, padding=5000)
    trial.words.append("--quiet")
    return trial


def full_at(base: Path, call: int) -> tuple[int, list[str]]:
    """Have the disk full right before a call, then free it and run again: exit code and what is wrong."""
    with tmpfs(base / "disk", 2 << 20, 200):
        trial = small_job(base)
        ended = trial.run(before=FILL, env={"FULL_AT": str(call)})
        # What was not needed for the result, a last heartbeat perhaps, may fail without a word.
        wrong = trouble_told(ended, "out.jsonl") if ended.code else []
        try:
            trial.stopped()
            shutil.rmtree(trial.work / "ballast")
            trial.finish()
        except AssertionError as e:
            wrong.append(f"then: {e}")
    return ended.code, [f"call {call}: {each}" for each in wrong]


@needs_root
def test_disk_full_at_every_write(tmp_path: Path) -> None:
    """Whichever write finds the disk full, one sentence names the place; with room again the job ends exactly."""
    with tmpfs(tmp_path / "count/disk", 2 << 20, 200):
        trial = small_job(tmp_path / "count")
        assert trial.run(before=FILL, env={"FULL_AT": "0"}).code == 0
        calls = (tmp_path / "count/notes/calls").stat().st_size
    assert calls > 20
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda n: full_at(tmp_path / str(n), n), range(1, calls + 1)))
    codes = [code for code, _ in outcomes]
    print(f"\n{calls} calls: {json.dumps({str(code): codes.count(code) for code in set(codes)})}")
    assert [each for _, wrong in outcomes for each in wrong] == []
    assert sum(code != 0 for code in codes) > 0.8 * calls, "the disk was not really full"


@needs_loops
def test_failing_sync(tmp_path: Path) -> None:
    """A disk that fails ends the job; when it is mended, what had been synced is kept and the job ends exactly."""
    with tmpfs(tmp_path / "outer", 24 << 20):
        image = make_image(tmp_path / "outer/image", 64 << 20)
        with mounted(image, tmp_path / "disk"):
            trial = Trial(tmp_path, 300, name="disk", shard_rows=64, delay_s=0.05, commit_s=0.3, padding=200, lease_s=1)
            trial.words.append("--quiet")
            os.sync()
            process = trial.running()
            time.sleep(0.2)
            acknowledged = durable(trial.state)
            time.sleep(1)
            take_the_rest(tmp_path / "outer/ballast")
            ended = end(process)
            assert trouble_told(ended, "out.jsonl") == []
            trial.read_log()
        (tmp_path / "outer/ballast").unlink()
        mended = subprocess.run(["fsck.ext4", "-fy", image], capture_output=True, check=False)
        assert mended.returncode in {0, 1}, mended
        (tmp_path / "disk").rmdir()
        with mounted(image, tmp_path / "disk"):
            trial.kept = durable(trial.state)
            assert acknowledged <= trial.kept
            assert len(trial.kept) < trial.rows
            trial.finish()


@pytest.mark.parametrize("comes_back", [True, False])
def test_output_folder_goes_away(tmp_path: Path, comes_back: bool) -> None:
    """When the folder of output and state goes away, the job ends and says so; with a folder again it ends exactly."""
    (tmp_path / "work/out").mkdir(parents=True)
    trial = Trial(tmp_path, 100, output="out/out.jsonl", delay_s=0.05)
    trial.words.append("--quiet")
    process = trial.running()
    (tmp_path / "work/out").rename(tmp_path / "elsewhere")
    if not comes_back:
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    assert trouble_told(end(process), "out.jsonl") == []
    assert not trial.output.exists()
    trial.read_log()
    shutil.rmtree(tmp_path / "work/out", ignore_errors=True)
    if comes_back:
        (tmp_path / "elsewhere").rename(tmp_path / "work/out")
        trial.kept = durable(trial.state)
        assert trial.kept
    else:
        (tmp_path / "work/out").mkdir()
    trial.finish()
