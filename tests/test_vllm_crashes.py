"""However vLLM's engine or xbatch itself ends, no call hangs, no process is left behind, and a restart works."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import serving
from serving import Body

from xbatch.engines.vllm import watchdog
from xbatch.engines.vllm.process import mark_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

GONE_S = 5.0
MIB = 1 << 20


@dataclass(frozen=True)
class Seen:
    """What a driver of the engine wrote before it was killed with the engine at work, and what came after."""

    answers: Body
    processes: int
    """The engine's, when the driver was killed."""
    left: list[int]
    """Those of them that were still there after `GONE_S`."""
    family: list[str]
    """The driver's other descendants that were."""


@contextmanager
def driven(way: str, owner: str, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """The driver at work, and the file in which it writes what it saw."""
    seen, log = folder / "seen.json", folder / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crashing.py")), way, owner, str(seen)],
            env=serving.environment(PYTHONPATH=f"{serving.REPOSITORY}{os.pathsep}{Path(__file__).parent}"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        until_s = time.monotonic() + 2 * serving.START_S
        while not seen.exists():
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            assert time.monotonic() < until_s, log.read_text(errors="replace")[-4000:]
            time.sleep(0.05)
        yield process, seen
    finally:
        process.kill()
        process.wait()


def kill(process: "subprocess.Popen[bytes]", owner: str, seen: Path) -> Seen:
    """SIGKILL for the driver alone."""
    mark = mark_of(owner)
    found = watchdog.find(mark)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    until_s = time.monotonic() + GONE_S
    while (left := watchdog.find(mark)) and time.monotonic() < until_s:
        time.sleep(0.05)
    _, alive = psutil.wait_procs(family, timeout=GONE_S)
    return Seen(json.loads(seen.read_text()), len(found), left, [str(each) for each in alive])


@contextmanager
def planted(owner: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that looks as if an engine of this owner had left it behind."""
    mark = {watchdog.VARIABLE: f"{mark_of(owner)}.0"}
    process = subprocess.Popen(["sleep", "900"], env={**os.environ, **mark})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Deaths:
    """The engine died in three ways, then its parent did; leftovers of its owner and of another were there before."""

    seen: Seen
    own_leftover: int | None
    other_leftover: int | None


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    """Four starts of one engine."""
    folder = tmp_path_factory.mktemp("deaths")
    owner = str(folder)
    with planted(owner) as own, planted(f"{owner} and another") as other:
        with driven("deaths", owner, folder) as (process, file):
            seen = kill(process, owner, file)
        return Deaths(seen, own.poll(), other.poll())


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """An engine that dies while it loads, and a parent that dies during the next try."""
    folder = tmp_path_factory.mktemp("loading")
    owner = str(folder)
    with driven("loading", owner, folder) as (process, file):
        until_s = time.monotonic() + serving.START_S
        while not watchdog.find(mark_of(owner)) and time.monotonic() < until_s:
            time.sleep(0.01)
        time.sleep(2)
        return kill(process, owner, file)


@pytest.mark.parametrize("way", ["core", "worker", "step"])
def test_every_call_hears_of_the_engines_death(way: str, deaths: Deaths) -> None:
    """EngineCore or a worker killed, or an exception in a step: all calls in flight, and later ones, get EngineError.

    None gets an outcome that would settle its row.
    """
    death = deaths.seen.answers[way]
    assert set(death["kinds"]) == ({"EngineError"})
    assert death["later"] == "EngineError"
    assert death["took_s"] < 10


def test_the_engine_can_be_started_again(deaths: Deaths) -> None:
    """After each death the engine is started again and answers as before."""
    assert deaths.seen.answers["answers"] == [True] * 4


@pytest.mark.parametrize("way", ["core", "worker", "step"])
def test_a_dead_engine_leaves_nothing(way: str, deaths: Deaths) -> None:
    """Closed, a dead engine has no process and no shared memory left, and its parent no more than after the first."""
    remains, first = deaths.seen.answers[way], deaths.seen.answers["core"]
    assert remains["processes"] == []
    assert remains["children"] == []
    assert remains["memory"] == []
    assert remains["threads"] <= first["threads"]
    assert remains["files"] <= first["files"]
    assert remains["rss_bytes"] < first["rss_bytes"] + 64 * MIB


def test_a_cancelled_request_frees_its_place(deaths: Deaths) -> None:
    """With one place, a request waits for as long as another runs, and no longer than until that is cancelled."""
    for cancel in deaths.seen.answers["cancels"]:
        assert cancel["cancelled"] == "CancelledError"
        assert cancel["waited"] is True
        assert cancel["next"] == "Completion"
        assert cancel["next_s"] < 1


def test_only_a_seeded_split_prompt_kills(deaths: Deaths) -> None:
    """Rows like the one that kills the engine are answered: as long without a seed, or seeded and shorter."""
    assert set(deaths.seen.answers["harmless"]) == {"Completion"}


def test_only_faults_of_the_engine_are_retryable(deaths: Deaths) -> None:
    """An error of the server (5xx) may pass; a mistake in the request (4xx) does not."""
    assert deaths.seen.answers["retryable"] == {"fault": True, "mistake": False}


def test_no_engine_outlives_a_killed_parent(deaths: Deaths) -> None:
    """SIGKILL for xbatch alone ends EngineCore and its workers too, and whatever watches over them."""
    assert deaths.seen.processes >= 2
    assert deaths.seen.left == []
    assert deaths.seen.family == []


def test_no_loading_engine_outlives_a_killed_parent(loading: Seen) -> None:
    """It is the same while the engine is still loading."""
    assert loading.processes >= 1
    assert loading.left == []
    assert loading.family == []


def test_death_while_loading_is_an_engine_error(loading: Seen) -> None:
    """An EngineCore that is killed while it loads makes `start` raise EngineError and leaves nothing behind."""
    assert "vLLM could not start" in loading.answers["error"]
    assert loading.answers["left"] == []


def test_leftovers_of_the_same_owner_are_ended(deaths: Deaths) -> None:
    """A start ends what an earlier process of the same owner has left, and nothing of other owners."""
    assert deaths.own_leftover == -signal.SIGKILL
    assert deaths.other_leftover is None


def test_the_mark_is_for_the_engine_only(deaths: Deaths) -> None:
    """Processes that are started once the engine runs don't look like the engine's."""
    assert deaths.seen.answers["variable"] is False
