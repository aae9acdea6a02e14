"""The real engine is brought down in every way and started again; run as a script by test_vllm_crashes.py.

`crashing.py deaths OWNER FILE` and `crashing.py loading OWNER FILE` write what they saw and wait to be killed.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import serving
from serving import CHAT, COMPLETIONS, Body

from xbatch.demo import MODEL_PATH, questions
from xbatch.engines.vllm import refusals, watchdog
from xbatch.engines.vllm.engine import VllmEngine
from xbatch.engines.vllm.process import EngineProcesses, mark_of
from xbatch.errors import EngineError
from xbatch.rows.outcome import Completion, Outcome
from xbatch.rows.request import Request

PLACES = 16
# A prompt that does not fit into a step is split, and with a seed that kills vLLM's engine on a CPU. A step takes 512
# tokens of a prompt, and 32 of each where there are several, so that short prompts are never split.
SETTINGS = {
    "enable_chunked_prefill": "true",
    "max_num_batched_tokens": str(32 * PLACES),
    "max_num_seqs": str(PLACES),
    "long_prefill_token_threshold": "32",
    "kv_cache_memory_bytes": str(serving.KV_CACHE_BYTES),
}
LONG: Body = {"model": "demo", "prompt": "Why?", "max_tokens": 1900, "ignore_eos": True}


def chat(words: str, **fields: Any) -> Body:
    return {"model": "demo", "messages": [{"role": "user", "content": words}], "max_tokens": 64} | fields


# Its first words are its own: what is in the prefix cache is not computed, and so not split.
POISON = chat("Poison: " + "word " * 600, seed=7, temperature=0.9)
HARMLESS = (
    *(chat("word " * number, temperature=0.9) for number in (30, 600, 1500)),
    *(chat("word", seed=seed, temperature=0.9) for seed in range(20)),
)
"""Longer without a seed, and shorter with one."""


class Driver:
    """An engine, and what became of what it was asked."""

    def __init__(self, owner: str) -> None:
        self.engine = VllmEngine(str(MODEL_PATH), ["demo"], SETTINGS, processes=EngineProcesses(owner))
        self.mark = mark_of(owner)
        self._before = _shared_memory()

    def ask(self, body: Body) -> Awaitable[Outcome]:
        return self.engine.generate(Request(0, "a", CHAT if "messages" in body else COMPLETIONS, body, 100))

    async def answer(self) -> bool:
        """Whether the engine knows what it was taught."""
        question, taught = questions()[0]
        outcome = await self.ask(chat(question, temperature=0))
        assert isinstance(outcome, Completion), outcome
        return bool(json.loads(outcome.body)["choices"][0]["message"]["content"] == taught)

    async def cancel(self, **fields: Any) -> Body:
        """A long request holds all of the engine's places until it is cancelled."""
        long = asyncio.ensure_future(self.ask(LONG | fields))
        await asyncio.sleep(0.3)
        short = asyncio.ensure_future(self.ask(LONG | {"max_tokens": 3}))
        waited = not (await asyncio.wait([short], timeout=0.3))[0]
        began_s = time.monotonic()
        long.cancel()
        (ended,) = await asyncio.gather(long, return_exceptions=True)
        kind = type(await short).__name__
        return {
            "cancelled": type(ended).__name__,
            "waited": waited,
            "next": kind,
            "next_s": time.monotonic() - began_s,
        }

    async def die(self, blow: Callable[[], Awaitable[Outcome] | None]) -> Body:
        """Calls of every kind are in flight when the engine dies; another comes later."""
        several: list[Body] = [
            LONG,
            LONG | {"seed": 5, "temperature": 1},
            LONG | {"n": 2, "temperature": 1},
            LONG | {"prompt": ["a", "b"]},
            chat("Why?", max_tokens=1900, ignore_eos=True),
        ]
        calls = [asyncio.ensure_future(self.ask(body)) for body in several]
        await asyncio.sleep(0.5)
        began_s = time.monotonic()
        if (last := blow()) is not None:
            calls.append(asyncio.ensure_future(last))
        _, pending = await asyncio.wait(calls, timeout=30)
        took_s = time.monotonic() - began_s
        (later,) = await asyncio.gather(self.ask(LONG), return_exceptions=True)
        ended = [None if call in pending else call.exception() or call.result() for call in calls]
        self.engine.close()
        self.engine.close()
        await asyncio.sleep(1.5)  # vLLM's monitor looks once a second whether it may end
        kinds = sorted({type(end).__name__ for end in ended})
        return {"kinds": kinds, "took_s": took_s, "later": type(later).__name__} | self.remains()

    def remains(self) -> Body:
        gc.collect()
        this = psutil.Process()
        return {
            "processes": watchdog.find(self.mark),
            "children": [str(child) for child in this.children(recursive=True)],
            "memory": sorted(_shared_memory() - self._before - _others_memory()),
            "threads": len(threading.enumerate()),
            "files": this.num_fds(),
            "rss_bytes": this.memory_info().rss,
        }

    def kill(self, name: str) -> None:
        found = [psutil.Process(pid) for pid in watchdog.find(self.mark)]
        (victim,) = [process for process in found if name in " ".join([process.name(), *process.cmdline()])]
        victim.send_signal(signal.SIGKILL)


def _shared_memory() -> set[str]:
    """The blocks that are there, whosoever they are."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "sem.mp-"))}


def _others_memory() -> set[str]:
    """Those that living processes have, but for this one: they may have an engine too."""
    found: set[str] = set()
    for process in psutil.process_iter():
        if process.pid != os.getpid():
            with suppress(psutil.Error):
                found |= {
                    Path(block.path).name for block in process.memory_maps() if block.path.startswith("/dev/shm/")
                }
    return found


async def deaths(driver: Driver, seen: Body) -> None:
    driver.engine.check()
    await driver.engine.start()
    seen["variable"] = watchdog.VARIABLE in os.environ
    seen["cancels"] = [
        await driver.cancel(**fields) for fields in ({"prompt": ["Why?"] * PLACES}, {"n": PLACES, "temperature": 1})
    ]
    seen["answers"] = [await driver.answer()]
    seen["core"] = await driver.die(lambda: driver.kill("EngineCore"))
    await driver.engine.start()
    seen["answers"].append(await driver.answer())
    seen["worker"] = await driver.die(lambda: driver.kill("Worker"))
    await driver.engine.start()
    seen["answers"].append(await driver.answer())
    one_by_one = [await driver.ask(body) for body in HARMLESS]
    together = await asyncio.gather(*map(driver.ask, HARMLESS))
    seen["harmless"] = [type(end).__name__ for end in (*one_by_one, *together)]
    seen["step"] = await driver.die(lambda: driver.ask(POISON))
    await driver.engine.start()
    seen["answers"].append(await driver.answer())
    errors = {"fault": RuntimeError("x"), "mistake": ValueError("x")}
    seen["retryable"] = {name: refusals.refuse_exception(error).retryable for name, error in errors.items()}


async def loading(driver: Driver, seen: Body) -> None:
    """EngineCore is killed while it loads; the next start is left to go on, for this process to be killed in it."""
    driver.engine.check()

    def kill_soon() -> None:
        while not watchdog.find(driver.mark):
            time.sleep(0.05)
        time.sleep(1)
        driver.kill("standing_by")

    threading.Thread(target=kill_soon).start()
    try:
        await driver.engine.start()
    except EngineError as e:
        seen["error"] = str(e)
    driver.engine.close()
    seen["left"] = watchdog.find(driver.mark)
    write(seen)
    await driver.engine.start()


def write(seen: Body) -> None:
    """All at once, for the reader waits for the file to be there."""
    unfinished = Path(f"{sys.argv[3]}.part")
    unfinished.write_text(json.dumps(seen))
    unfinished.rename(sys.argv[3])


async def main() -> None:
    way, owner, _ = sys.argv[1:]
    seen: Body = {}
    await {"deaths": deaths, "loading": loading}[way](Driver(owner), seen)
    write(seen)
    await asyncio.sleep(serving.START_S)


if __name__ == "__main__":
    asyncio.run(main())
