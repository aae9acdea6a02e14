"""A process that has imported vLLM becomes the engine's, or is gone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from xbatch.assemble import starting
from xbatch.assemble.starting import EngineStarter
from xbatch.engines.fake import FakeEngine
from xbatch.engines.vllm import watchdog
from xbatch.engines.vllm.process import mark_of
from xbatch.engines.vllm.standby import Standby
from xbatch.errors import UsageError
from xbatch.job.spec import JobSpec

_WAIT_S = 30.0
_VARIABLE = "XBATCH_TEST_VARIABLE"


def spawner() -> Any:
    """As vLLM's module has it."""
    return SimpleNamespace(get_mp_context=lambda: get_context("spawn"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which vLLM is not found, for importing it takes its time."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def standby(environment: dict[str, str]) -> Iterator[Standby]:
    made = Standby(environment)
    yield made
    made.close()
    made.process.kill()
    made.process.wait()


def tell(place: str) -> None:
    """Runs in the process: say who it is, and end in its own way."""
    write(place, {"pid": os.getpid(), "variable": os.environ.get(_VARIABLE)})
    sys.exit(3)


def answer(to: Connection) -> None:
    to.send(os.getpid())


def write(place: str, seen: dict[str, Any]) -> None:
    Path(f"{place}.part").write_text(json.dumps(seen))
    Path(f"{place}.part").rename(place)


def read(place: Path) -> Any:
    until_s = time.monotonic() + _WAIT_S
    while not place.exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    return json.loads(place.read_text())


def is_gone(pid: int) -> bool:
    """A process ends in time."""
    with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(pid).wait(_WAIT_S)
    return not psutil.pid_exists(pid)


def test_what_is_spawned_stood_by(standby: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process is the one that stands by, in the environment of now; the next one is another."""
    monkeypatch.setenv(_VARIABLE, "now")
    module = spawner()
    with standby.taken_for(module, forks=False):
        context = module.get_mp_context()
    processes = [context.Process(target=tell, args=(str(tmp_path / name),)) for name in "ab"]
    for process in processes:
        process.start()
    assert processes[0].pid == standby.process.pid != processes[1].pid
    for name, process in zip("ab", processes, strict=True):
        process.join(_WAIT_S)
        assert (process.is_alive(), process.exitcode) == (False, 3)
        assert read(tmp_path / name) == {"pid": process.pid, "variable": "now"}


def test_only_inside(standby: Standby, tmp_path: Path) -> None:
    """The module spawns as ever when it is over, and where it forks."""
    module = spawner()
    with standby.taken_for(module, forks=False):
        pass
    process = module.get_mp_context().Process(target=tell, args=(str(tmp_path / "a"),))
    process.start()
    process.join(_WAIT_S)
    assert process.pid != standby.process.pid
    forking = SimpleNamespace(get_mp_context=lambda: get_context("fork"))
    with standby.taken_for(forking, forks=False):
        assert forking.get_mp_context() is get_context("fork")
    assert standby.is_waiting


def test_one_that_has_died_is_not_missed(standby: Standby, tmp_path: Path) -> None:
    """Where nothing stands by any more, a process is spawned."""
    standby.process.kill()
    standby.process.wait()
    module = spawner()
    with standby.taken_for(module, forks=False):
        process = module.get_mp_context().Process(target=tell, args=(str(tmp_path / "a"),))
        process.start()
    process.join(_WAIT_S)
    assert read(tmp_path / "a")["pid"] == process.pid != standby.process.pid


def test_what_must_inherit_is_spawned(standby: Standby) -> None:
    """A process that is given a pipe can't be one that runs already."""
    mine, its = Pipe()
    module = spawner()
    with standby.taken_for(module, forks=False):
        process = module.get_mp_context().Process(target=answer, args=(its,))
        process.start()
    assert mine.poll(_WAIT_S)
    assert mine.recv() == process.pid != standby.process.pid
    process.join(_WAIT_S)
    assert process.exitcode == 0
    assert standby.is_waiting


def bear(place: str) -> None:
    """Runs in the process: start one as vLLM starts its worker, and wait to be killed."""
    os.environ["OMP_NUM_THREADS"] = str(len(cores()))
    os.environ["GOMP_CPU_AFFINITY"] = " ".join(map(str, cores()))
    get_context(os.environ["VLLM_WORKER_MULTIPROC_METHOD"]).Process(target=look, args=(place,)).start()
    time.sleep(_WAIT_S)


def look(place: str) -> None:
    import torch

    tasks = Path("/proc/self/task")
    bound = {task.name: sorted(os.sched_getaffinity(int(task.name))) for task in tasks.iterdir()}
    mine = bound.pop(str(os.getpid()))
    torch.ones(1 << 20).sum()
    write(place, {"pid": os.getpid(), "threads": torch.get_num_threads(), "mine": mine, "others": [*bound.values()]})
    time.sleep(_WAIT_S)


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))[:2]


def test_what_it_forks_computes_where_it_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    """What vLLM tells a spawned process by variables holds for a forked one, and that is not taken for its parent."""
    standby = Standby({**environment, "XBATCH_ENGINE_OWNER": "mark"})
    module = spawner()
    with standby.taken_for(module, forks=True):
        process = module.get_mp_context().Process(target=bear, args=(str(tmp_path / "a"),))
        process.start()
    seen = read(tmp_path / "a")
    assert seen["pid"] in watchdog.find("mark")
    assert seen["threads"] == len(cores())
    assert seen["mine"] == cores()[:1]
    assert all([core] in seen["others"] for core in cores()[1:])
    process.kill()
    assert wait([process.sentinel], _WAIT_S / 2)  # while what it has forked lives
    process.join(_WAIT_S / 2)
    assert process.exitcode == -signal.SIGKILL
    assert psutil.pid_exists(seen["pid"])
    watchdog.kill("mark")
    standby.close()


def test_closing_ends_it(standby: Standby) -> None:
    """One that is not needed after all goes."""
    standby.close()
    assert standby.process.wait(_WAIT_S) == 0
    assert not standby.is_waiting


def test_it_ends_with_its_parent(environment: dict[str, str]) -> None:
    """One that nobody can tell anything any more goes."""
    code = "import os; from xbatch.engines.vllm.standby import Standby; print(Standby(os.environ).process.pid)"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert is_gone(int(told.stdout))


class _Refusing(FakeEngine):
    is_closed = False

    def check(self) -> None:
        raise UsageError("no")

    def close(self) -> None:
        self.is_closed = True


def test_an_engine_that_is_refused_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun to start for settings that are no good ends."""
    engine = _Refusing()
    monkeypatch.setattr(starting, "build_vllm", lambda *_, **__: engine)
    starter = EngineStarter(
        JobSpec(inputs=["in.jsonl"], model="m"), tmp_path, tmp_path / "log", lambda _: None, lambda _: None
    )
    with pytest.raises(UsageError):
        asyncio.run(starter.check("m"))
    assert engine.is_closed
    assert starter.engine is None


def importing(folder: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """A job whose first process has just begun to import vLLM, and that process."""
    body = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 4}
    (folder / "in.jsonl").write_text(json.dumps(body) + "\n")
    command = ["run", str(folder / "in.jsonl"), "--model", "demo", "-o", str(folder / "out.jsonl")]
    process = subprocess.Popen(
        [sys.executable, "-m", "xbatch", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    mark, until_s = mark_of(str((folder / "out.jsonl.xbatch").resolve())), time.monotonic() + _WAIT_S
    while not (found := watchdog.find(mark)) and time.monotonic() < until_s:
        time.sleep(0.05)
    (early,) = found
    return process, early


def test_a_command_killed_while_it_imports(tmp_path: Path) -> None:
    """What imports vLLM for a job goes with it."""
    process, early = importing(tmp_path)
    process.kill()
    process.wait()
    assert is_gone(early)


def test_a_jobs_engine_stood_by(tmp_path: Path) -> None:
    """What imports vLLM from the first is the job's EngineCore, and has forked the worker."""
    process, early = importing(tmp_path)
    assert process.wait() == 0
    log = (tmp_path / "out.jsonl.xbatch" / "vllm.log").read_text()
    assert f"EngineCore pid={early}" in log
    assert log.count("Triton not available") <= 2  # each process that imports vLLM says so once
