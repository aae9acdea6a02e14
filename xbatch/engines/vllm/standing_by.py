"""What runs in a process that stands by, until it is told what it is.

It has vLLM imported, as a forked process would. Nothing computes in it, so a fork of it loses no thread.
"""

import contextlib
import importlib
import os
import re
from multiprocessing import spawn
from multiprocessing.connection import Connection
from pathlib import Path

_THREADS = "OMP_NUM_THREADS"
_CORES = "GOMP_CPU_AFFINITY"
_FORKS = {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}
_MANY = 1 << 16
"""Numbers for each thread: with fewer PyTorch leaves some without work."""


def main(work: int, alive: int, tracker: int) -> None:
    """Import vLLM, wait for an environment and for what to do in it, and do that; end if nothing comes.

    All are file descriptors: where the work comes from, what is open as long as this process lives, and that of
    multiprocessing's tracker of shared memory.
    """
    _import_vllm()
    given = {name: os.environ.get(name) for name in (_THREADS, _CORES)}
    with Connection(os.dup(work), writable=False) as pipe:
        try:
            environment, forks = pipe.recv()
        except (EOFError, OSError):
            return
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    # Only what differs: whoever names the process looks for its arguments beside what it was started with.
    os.environ.update(environment.items() - os.environ.items())
    # OpenMP has read its variables when it was loaded, so what vLLM has added since is done by hand.
    if (threads := os.environ.get(_THREADS, "")) != given[_THREADS] and threads.isdigit():
        _set_threads(int(threads))
    if forks:
        os.environ.update(_FORKS)
        os.register_at_fork(after_in_child=lambda: _settle(alive, given[_CORES]))
    spawn.spawn_main(pipe_handle=work, tracker_fd=tracker)


def _import_vllm() -> None:
    """Import what an engine's first process will; what fails is for the engine's start to say."""
    with contextlib.suppress(Exception):
        from vllm.platforms import current_platform

        # The CPU's worker wants to be imported before all others.
        modules = ["executor.multiproc_executor", "engine.core"]
        if current_platform.is_cpu():
            modules.insert(0, "worker.cpu_worker")
        elif current_platform.is_cuda_alike():
            modules.append("worker.gpu_worker")
        for module in modules:
            importlib.import_module(f"vllm.v1.{module}")


def _settle(alive: int, given_cores: str | None) -> None:
    """In a process just forked: not stand for its parent's life, and compute on the cores that vLLM has named."""
    with contextlib.suppress(OSError):
        os.close(alive)
    cores = os.environ.get(_CORES, "")
    if cores != given_cores and re.fullmatch(r"\d+( \d+)*", cores):
        _bind_threads([int(core) for core in cores.split()])


def _bind_threads(cores: list[int]) -> None:
    """Have OpenMP compute with one thread on each of the cores, this one on the first."""
    import torch

    _set_threads(len(cores))
    before = _threads()
    torch.ones(len(cores) * _MANY).sum()  # OpenMP starts its threads when there is work for them
    others = sorted(_threads() - before)
    for thread, core in zip([0, *others], cores, strict=False):
        os.sched_setaffinity(thread, {core})


def _threads() -> set[int]:
    return {int(folder.name) for folder in Path("/proc/self/task").iterdir()}


def _set_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)
