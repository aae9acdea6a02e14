"""Building an engine from plain settings; heavy imports happen here and only when asked for."""

from collections.abc import Mapping
from typing import Any

from xbatch.engines import Engine
from xbatch.engines.fake import FakeEngine
from xbatch.errors import UsageError


def build_vllm(model: str, names: list[str], lora_modules: Mapping[str, str], settings: Mapping[str, str]) -> Engine:
    """Build vLLM for a model that is called by `names`; `settings` are the arguments of `vllm serve` by name.

    Raises UsageError if vLLM is not installed.
    """
    from xbatch.engines.vllm.installed import missing_engine_sentence

    if (sentence := missing_engine_sentence()) is not None:
        raise UsageError(sentence)
    from xbatch.engines.vllm.engine import VllmEngine

    given: dict[str, Any] = dict(settings)
    if lora_modules:
        given |= {"enable_lora": "true", "lora_modules": [f"{n}={p}" for n, p in lora_modules.items()]}
    return VllmEngine(model, names, given)


def build_fake(settings: Mapping[str, str]) -> FakeEngine:
    """Build the fake engine; `settings` may give `delay_s`, `start_s` and `max_in_flight`."""
    return FakeEngine(
        delay_s=float(settings.get("delay_s", 0)),
        start_s=float(settings.get("start_s", 0)),
        max_in_flight=int(settings.get("max_in_flight", 64)),
    )
