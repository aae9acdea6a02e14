"""The engine of a job is built as its specification says."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from xbatch.assemble import starting
from xbatch.assemble.describing import describe
from xbatch.assemble.starting import EngineStarter
from xbatch.engines.fake import FakeEngine
from xbatch.job.spec import JobSpec
from xbatch.rows.sizes import Expectation


def test_answers_carry_the_first_served_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with vLLM's server, a served name stands in the answers, and the model's own name can still be asked for."""
    built: list[tuple[Any, ...]] = []

    def build(*args: Any, **_: Any) -> FakeEngine:
        built.append(args)
        return FakeEngine()

    monkeypatch.setattr(starting, "build_vllm", build)
    expected = Expectation(1, 2, 3)
    spec = JobSpec(inputs=["in.jsonl"], model="some/model", served_model_name=["base", "other"])
    EngineStarter(spec, tmp_path, tmp_path / "log", lambda _: None, lambda _: None, lambda: expected).build(
        "some/model"
    )
    ((place, names, _, _, _, told),) = built
    assert (place, names, told) == ("some/model", ["base", "other", "some/model"], expected)


def test_only_what_is_to_start_begins_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is only asked what it is, as `xbatch models` does, starts no process."""
    begun: list[bool] = []

    def build(*_: Any, starts: bool) -> FakeEngine:
        begun.append(starts)
        return FakeEngine()

    monkeypatch.setattr(starting, "build_vllm", build)
    spec = JobSpec(inputs=["in.jsonl"], model="m")
    describe(spec, "m", tmp_path, lambda _: None)
    asyncio.run(EngineStarter(spec, tmp_path, tmp_path / "log", lambda _: None, lambda _: None).check("m"))
    assert begun == [False, True]
