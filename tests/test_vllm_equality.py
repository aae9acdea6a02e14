"""What `xbatch run` writes is what `vllm serve` of the same version answers, for every sort of request."""

import json
import re
from typing import Any

import pytest
from conftest import Mixed
from serving import Body, mixed_requests, seeded_requests

# Names that both make up anew for every request, and times.
MADE_UP = {"id", "created", "tool_call_id"}
TOLERANCE = 1e-3
MISSING = "(nothing)"


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two bodies differ, made-up names and rounding of floats left out."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        found = [differences(ours.get(k, MISSING), theirs.get(k, MISSING), f"{where}.{k}") for k in keys]
        return [
            line for lines, key in zip(found, keys, strict=True) if not _made_up(key, ours, theirs) for line in lines
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    if isinstance(ours, float) and isinstance(theirs, float) and abs(ours - theirs) <= TOLERANCE:
        return []
    same = ours == theirs and type(ours) is type(theirs)
    return [] if same else [f"{where}: xbatch {_short(ours)} -- server {_short(theirs)}"]


def _made_up(key: str, ours: Body, theirs: Body) -> bool:
    return key in MADE_UP and type(ours.get(key)) is type(theirs.get(key))


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:600]


@pytest.mark.parametrize("name", [*mixed_requests(), *seeded_requests()])
def test_the_same_status_and_body(name: str, mixed_job: Mixed, server_answers: dict[str, tuple[int, Body]]) -> None:
    """A row's response has the status code and, field by field, the body that `vllm serve` answers."""
    line = mixed_job.run.responses()[name]
    assert line["error"] is None, line
    status, body = server_answers[name]
    request = json.dumps(mixed_job.requests[name][1])[:300]
    assert line["response"]["status_code"] == status, (request, line["response"]["body"], body)
    assert not differences(line["response"]["body"], body), request


def test_names_made_up_by_vllm_have_its_form(mixed_job: Mixed, server_answers: dict[str, tuple[int, Body]]) -> None:
    """Ids of completions and tool calls are of the server's form, and no two responses share one."""
    ids = []
    for name, line in mixed_job.run.responses().items():
        status, body = server_answers[name]
        if status == 200:
            ids.append(line["response"]["body"]["id"])
            assert re.sub(r"[0-9a-f]{8,}", "x", ids[-1]) == re.sub(r"[0-9a-f]{8,}", "x", body["id"]), name
    assert len(set(ids)) == len(ids)


def test_the_requests_are_of_every_sort(server_answers: dict[str, tuple[int, Body]]) -> None:
    """The comparison covers answers and refusals in numbers, tool calls, adapters and log probabilities."""
    codes = [status for status, _ in server_answers.values()]
    assert len(codes) >= 300
    assert codes.count(200) >= 150
    assert codes.count(400) >= 60
    assert codes.count(404) >= 4
    assert any(_calls(body) for _, body in server_answers.values())
    assert server_answers["chat adapter"][1]["model"] == "styled"


def _calls(body: Body) -> bool:
    return any((choice.get("message") or {}).get("tool_calls") for choice in body.get("choices", []))
