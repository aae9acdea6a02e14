"""`xbatch watch`: every file that lands under a prefix is answered once, whoever watches and whatever is killed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import object_store
import pytest
from servers import Place
from test_cli_run import ENV, chat, ids, wait_for, write


def words(folder: Path, *more: str) -> list[str]:
    fake = ["--engine", "fake", "--engine-arg", f"log={folder / 'log'}"]
    return [
        sys.executable,
        "-m",
        "xbatch",
        "watch",
        "in",
        "-o",
        "out",
        "--settle",
        "0.3s",
        "--every",
        "0.2s",
        *fake,
        *more,
    ]


def once(folder: Path, *more: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        words(folder, "--once", *more), cwd=folder, env=ENV, capture_output=True, check=False, timeout=60
    )


def start(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(words(folder, *more), cwd=folder, env=ENV, stderr=subprocess.PIPE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three files under the prefix `in`."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        write(tmp_path / f"in/{number}.jsonl", [chat(i) for i in range(100 * number, 100 * number + 20)])
    return tmp_path


def answered(folder: Path, number: int) -> list[str]:
    return ids(folder / f"out/{number}.responses.jsonl")


def expected(number: int) -> list[str]:
    return [f"id-{i}" for i in range(100 * number, 100 * number + 20)]


def test_every_file_once(folder: Path) -> None:
    """Every file has its output, one engine answers all, and another look finds nothing to do."""
    assert once(folder).returncode == 0
    for number in range(3):
        assert answered(folder, number) == expected(number)
    log = (folder / "log").read_text().splitlines()
    assert log.count("start") == 1
    again = once(folder)
    assert (again.returncode, again.stderr) == (0, b"")
    assert (folder / "log").read_text().splitlines() == log


def test_files_that_land_later(folder: Path) -> None:
    """A watcher finds files that land while it runs, and stops with exit code 75 when asked."""
    process = start(folder)
    wait_for(process, lambda: (folder / "out/2.responses.jsonl").exists())
    write(folder / "in/3.jsonl", [chat(300)])
    wait_for(process, lambda: (folder / "out/3.responses.jsonl").exists())
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert ids(folder / "out/3.responses.jsonl") == ["id-300"]


def test_file_that_grows_is_left_alone(folder: Path) -> None:
    """A file that is still being written is not taken before it has stopped growing."""
    process = start(folder, "--settle", "1.5s")
    path = folder / "in/9.jsonl"
    rows = [chat(i) for i in range(900, 912)]
    for count in range(1, 13):
        write(path, rows[:count])
        time.sleep(0.25)
        assert not (folder / "out/9.responses.jsonl").exists()
    wait_for(process, lambda: (folder / "out/9.responses.jsonl").exists())
    process.kill()
    process.communicate()
    assert ids(folder / "out/9.responses.jsonl") == [f"id-{i}" for i in range(900, 912)]


def test_overwritten_file_is_answered_beside(folder: Path) -> None:
    """A file that is overwritten is answered again under another name; what was answered before stays."""
    assert once(folder).returncode == 0
    write(folder / "in/0.jsonl", [chat(7)])
    assert once(folder).returncode == 0
    assert answered(folder, 0) == expected(0)
    (newer,) = set(os.listdir(folder / "out")) - {".xbatch", *(f"{n}.responses.jsonl" for n in range(3))}
    assert newer.startswith("0.")
    assert ids(folder / "out" / newer) == ["id-7"]
    assert once(folder).stderr == b""


def test_unusable_file(folder: Path) -> None:
    """A file that can't be used is told and left; the others are answered, and the exit code is 2."""
    (folder / "in/1.jsonl").write_bytes("\ufeff".encode("utf-16") + "no".encode("utf-16"))
    done = once(folder)
    assert done.returncode == 2
    assert b"in/1.jsonl" in done.stderr
    assert answered(folder, 0) == expected(0)
    assert answered(folder, 2) == expected(2)


def test_outputs_below_the_inputs(folder: Path) -> None:
    """Outputs under the watched prefix would become inputs, and are refused."""
    done = once(folder, "-o", "in/out")
    assert done.returncode == 2
    assert b"lies under" in done.stderr


def test_outputs_beside_the_inputs_under_a_longer_name(folder: Path) -> None:
    """A folder whose name only begins like the prefix does not lie under it."""
    done = once(folder, "-o", "in-out/")
    assert done.returncode == 0, done.stderr


def test_killed_anywhere_and_shared(folder: Path) -> None:
    """Two watchers share the work; killed at any moment and run again, every file is answered, and no row twice."""
    for number in range(3, 8):
        write(folder / f"in/{number}.jsonl", [chat(i) for i in range(100 * number, 100 * number + 20)])
    slow = ("--engine-arg", "delay_s=0.02", "--engine-arg", "max_in_flight=2")
    for seconds in (0.9, 1.3, 1.7):
        both = [start(folder, *slow, "--once") for _ in range(2)]
        time.sleep(seconds)
        for process in both:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    both = [start(folder, *slow, "--once") for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
    assert once(folder).returncode == 0
    for number in range(8):
        assert answered(folder, number) == expected(number)
    asked = Counter(line for line in (folder / "log").read_text().splitlines() if line != "start")
    # The fake engine logs positions in the file: each of the 20 runs once in 8 files, and again where it was in flight.
    assert sum(asked.values()) <= 20 * 8 + 3 * 2 * 2


def test_prefixes_in_a_store(tmp_path: Path) -> None:
    """Objects of a bucket are answered into another prefix of it."""
    with object_store.running() as served:
        own = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": served.address}
        env = {**ENV, **own, "XDG_STATE_HOME": str(tmp_path / "home")}
        rows = write(tmp_path / "a", [chat(i) for i in range(5)])
        put = f"fs.mkdir('box'); fs.put_file({str(rows)!r}, 'box/in/a.jsonl')"
        script = f"import fsspec; fs = fsspec.filesystem('s3'); {put}"
        subprocess.run([sys.executable, "-c", script], env=env, check=True)
        watch = [
            sys.executable,
            "-m",
            "xbatch",
            "watch",
            "s3://box/in",
            "-o",
            "s3://box/out",
            "--once",
            "--engine",
            "fake",
        ]
        done = subprocess.run(watch, env=env, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        read = "import fsspec; print(fsspec.filesystem('s3').cat_file('box/out/a.responses.jsonl').decode(), end='')"
        shown = subprocess.run([sys.executable, "-c", read], env=env, capture_output=True, check=True).stdout
        assert len(shown.splitlines()) == 5


@pytest.mark.parametrize("place", ["rclone"], indirect=True)
def test_store_that_ignores_conditions(place: Place, tmp_path: Path) -> None:
    """Where several watchers could not be kept apart, none may watch."""
    words = ["watch", f"{place.uri}/in", "-o", f"{place.uri}/out", "--once", "--engine", "fake"]
    env = {**ENV, **place.env, "XDG_STATE_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "xbatch", *words], env=env, cwd=tmp_path, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert b"does not keep several writers apart" in done.stderr


def test_job_file_says_what_is_done(folder: Path) -> None:
    """A job file in front of the prefix says how each file is answered."""
    (folder / "job.yaml").write_text("inputs: nothing.jsonl\noutput: nowhere\nmodel: m\noutput_format: jsonl.gz\n")
    command = words(folder, "--once")
    done = subprocess.run(
        [*command[:4], "job.yaml", *command[4:]], cwd=folder, env=ENV, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {name for name in os.listdir(folder / "out") if name != ".xbatch"} == {
        f"{number}.responses.jsonl.gz" for number in range(3)
    }


def test_files_of_one_stem(folder: Path) -> None:
    """Files whose names differ in their extension only have outputs of their own."""
    write(folder / "in/0.ndjson", [chat(990)])
    (folder / "in/0.jsonl.gz").write_bytes(gzip.compress(json.dumps(chat(991)).encode()))
    assert once(folder).returncode == 0
    found = sorted(ids(path) for path in (folder / "out").glob("0.*responses.jsonl"))
    assert found == sorted([expected(0), ["id-990"], ["id-991"]])
    assert once(folder).stderr == b""


def test_too_many_failed_stays_so(folder: Path) -> None:
    """The exit code tells of files that were answered before, too; --retry-failed tries their rows again."""
    failing = ("--engine-arg", "fail_on=3")
    assert once(folder, *failing).returncode == 1
    assert once(folder).returncode == 1
    assert once(folder, "--retry-failed").returncode == 0
    assert once(folder).returncode == 0


def test_fields_of_one_job(folder: Path) -> None:
    """A job file that says where one job's errors or state go is refused, for the files would share them."""
    (folder / "job.yaml").write_text("inputs: x.jsonl\noutput: y\nmodel: m\nerrors: errors.jsonl\n")
    command = words(folder, "--once")
    done = subprocess.run(
        [*command[:4], "job.yaml", *command[4:]], cwd=folder, env=ENV, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert b"errors is of one job only" in done.stderr


def test_file_that_vanishes_or_is_damaged(folder: Path) -> None:
    """What can't be read does not keep the other files from being answered, and the exit code tells."""
    (folder / "in/0.parquet").write_bytes(b"no table")
    (folder / "in/1.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:-30])
    done = once(folder)
    assert done.returncode == 2
    assert b"in/0.parquet is no Parquet file" in done.stderr
    assert b"in/1.jsonl.gz is damaged" in done.stderr
    assert answered(folder, 2) == expected(2)


def test_no_such_prefix(tmp_path: Path) -> None:
    """A prefix that is no folder is a mistake."""
    assert once(tmp_path).returncode == 2


def test_watched_from_elsewhere(folder: Path) -> None:
    """Files that were answered are known from another working directory, and when their folder has moved."""
    assert once(folder).returncode == 0
    (folder / "elsewhere").mkdir()
    prefixes = {"in": "../in", "out": "../out"}
    again = [prefixes.get(word, word) for word in words(folder, "--once")]
    before = (folder / "log").read_text()
    done = subprocess.run(again, cwd=folder / "elsewhere", env=ENV, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (folder / "log").read_text() == before
    moved = folder.rename(folder.parent / "moved")
    assert once(moved).returncode == 0
    assert (moved / "log").read_text() == before
    assert len(list((moved / "out").glob("*.jsonl"))) == 3


def test_retry_in_a_moved_folder(folder: Path) -> None:
    """Outputs that have moved together with their states are still the watcher's own."""
    assert once(folder, "--engine-arg", "fail_on=7").returncode == 1
    moved = folder.rename(folder.parent / "moved-too")
    done = once(moved, "--retry-failed=all")
    assert done.returncode == 0, done.stderr
    assert [answered(moved, number) for number in range(3)] == [expected(number) for number in range(3)]
