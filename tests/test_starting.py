"""The engine of a job is built as its specification says."""

from pathlib import Path
from typing import Any

import pytest

from xbatch.assemble import starting
from xbatch.assemble.starting import EngineStarter
from xbatch.engines.fake import FakeEngine
from xbatch.job.spec import JobSpec
from xbatch.rows.sizes import Expectation


def test_answers_carry_the_first_served_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with vLLM's server, a served name stands in the answers, and the model's own name can still be asked for."""
    built: list[tuple[Any, ...]] = []

    def build(*args: Any) -> FakeEngine:
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
