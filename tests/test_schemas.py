"""The JSON Schemas: they are what the models say, real files fit them, and wrong ones do not."""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from xbatch.cli.schema import NAMES
from xbatch.schema.generate import MODELS, schema_of, text_of

ROOT = Path(__file__).resolve().parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
REQUESTS: list[Any] = [
    {
        "custom_id": "chat",
        "url": "/v1/chat/completions",
        "method": "POST",
        "body": {"model": "m", "messages": [{"role": "user", "content": "c"}]},
    },
    {"custom_id": "text", "model": "m", "prompt": "p", "temperature": 0.5, "stop": ["x"], "unknown": {"a": 1}},
    {"model": "m", "messages": [{"role": "user", "content": "c"}], "max_tokens": 5, "response_format": None},
    {"custom_id": "ids", "body": {"model": "m", "prompt": [1, 2, 3]}},
    {"custom_id": 17, "model": "m", "prompt": [{"role": "user", "content": "c"}]},
    {"url": "https://host/openai/v1/completions/?a=b", "body": {"model": "m", "prompt": "p"}},
]
WRONG_REQUESTS: list[Any] = [
    {},
    [],
    "text",
    {"custom_id": 5.5, "prompt": "p"},
    {"custom_id": "", "prompt": "p"},
    {"body": "{}"},
    {"body": {}},
    {"method": "GET", "body": {"prompt": "p"}},
    {"url": "/v1/embeddings", "body": {"prompt": "p"}},
    {"messages": "hello"},
    {"prompt": {}},
]
REJECTED: list[Any] = ["nonsense", "[]", *map(json.dumps, WRONG_REQUESTS[3:9]), '{"custom_id": "chat", "prompt": "p"}']


def xbatch(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "xbatch", *words]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, check=False)


def mistakes(name: str, value: Any) -> list[str]:
    found = Draft202012Validator(schema_of(name)).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of all sorts of rows: answered, refused before the engine, failed in it, and fatal to it."""
    folder = tmp_path_factory.mktemp("finished")
    good = [*map(json.dumps, REQUESTS), *(json.dumps({"model": "m", "prompt": f"p{i}"}) for i in range(8))]
    (folder / "in.jsonl").write_text("\n".join([*good, "", *REJECTED]) + "\n", "utf-8")
    words = ("--engine", "fake", "--engine-arg", "fail_on=5", "--engine-arg", "poison=7", "--max-failures", "100%")
    done = xbatch(folder, "run", "in.jsonl", *words)
    assert done.returncode == 0, done.stderr
    return folder


def responses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "in.responses.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_files_are_not_stale(name: str) -> None:
    """The files in `schemas/` are what the models say; `xbatch schema --write schemas` makes them so."""
    assert (ROOT / f"schemas/{name}.schema.json").read_text("utf-8") == text_of(name)


def test_no_schema_is_left_over() -> None:
    """Every schema has its file, and every file its model."""
    assert {path.name for path in (ROOT / "schemas").iterdir()} == {f"{name}.schema.json" for name in MODELS}
    assert tuple(MODELS) == NAMES


@pytest.mark.parametrize("name", MODELS)
def test_schemas_are_schemas(name: str) -> None:
    """They are JSON Schemas of draft 2020-12, and every object in them says what it is."""
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    assert schema["description"]
    assert all(each["description"] for each in schema.get("$defs", {}).values())


def test_command(tmp_path: Path) -> None:
    """`xbatch schema` lists, prints and writes them; a name that is none and a folder that can't be are refused."""
    assert xbatch(tmp_path, "schema").stdout.split() == list(NAMES)
    assert xbatch(tmp_path, "schema", "job").stdout == text_of("job")
    assert xbatch(tmp_path, "schema", "--write", "new").returncode == 0
    assert sorted(os.listdir(tmp_path / "new")) == sorted(f"{name}.schema.json" for name in NAMES)
    assert (tmp_path / "new/report.schema.json").read_text("utf-8") == text_of("report")
    assert xbatch(tmp_path, "schema", "nonsense").returncode == 2
    (tmp_path / "file").touch()
    assert xbatch(tmp_path, "schema", "--write", "file").returncode in (2, 4)


@pytest.mark.parametrize("value", REQUESTS, ids=str)
def test_requests(value: Any) -> None:
    """Lines that can be answered fit."""
    assert not mistakes("request", value)


@pytest.mark.parametrize("value", WRONG_REQUESTS, ids=str)
def test_wrong_requests(value: Any) -> None:
    """Lines that can't be answered do not fit."""
    assert mistakes("request", value)


def test_shipped_requests() -> None:
    """The demo's questions fit."""
    lines = (ROOT / "jobs/questions.jsonl").read_text("utf-8").splitlines()
    assert lines
    assert not [each for line in lines for each in mistakes("request", json.loads(line))]


def test_responses(finished: Path) -> None:
    """Every response fits, whatever became of its row."""
    found = responses(finished)
    assert len(found) == len(REQUESTS) + 8 + len(REJECTED)
    assert not [each for response in found for each in mistakes("response", response)]
    codes = {response["error"]["code"] for response in found if response["error"]}
    assert {"invalid_json_line", "body_not_object", "fake_failure", "engine_crashed", "duplicate_custom_id"} <= codes


@pytest.mark.parametrize("case", sorted((ROOT / "tests/cases").glob("*/expected*.jsonl")), ids=lambda p: p.parent.name)
def test_golden_responses(case: Path) -> None:
    """The expected outputs of the golden cases fit, but for bare bodies."""
    for line in case.read_text("utf-8").splitlines():
        response = json.loads(line)
        if "custom_id" in response:
            response["id"] = "batch_req_" + "0" * 24
            if response["response"]:
                response["response"]["request_id"] = "req_" + "0" * 24
                response["response"]["body"]["model"] = "m"
            assert not mistakes("response", response)


def test_refusals() -> None:
    """A response with the API's refusal fits."""
    error = {"message": "m", "type": "BadRequestError", "param": None, "code": 400}
    response = {"status_code": 400, "request_id": "req_" + "0" * 24, "body": {"error": error}}
    assert not mistakes(
        "response", {"id": "batch_req_" + "0" * 24, "custom_id": "c", "response": response, "error": None}
    )


def spoil_counts(value: Any) -> None:
    value["request_counts"]["failed"] = -1


def add_a_field(value: Any) -> None:
    value["surprise"] = 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.pop("custom_id"),
        lambda line: line.update(error={"code": "c", "message": "m", "retryable": False}),
        lambda line: line.update(response=None),
        lambda line: line.update(id="1"),
        lambda line: line["response"].update(status_code="200"),
        lambda line: line["response"].update(body={}),
        lambda line: line["response"]["body"].pop("choices"),
        add_a_field,
    ],
)
def test_wrong_responses(finished: Path, spoil: Callable[[Any], None]) -> None:
    """A response that is not whole, or is both good and bad, does not fit."""
    response = responses(finished)[0]
    assert not mistakes("response", response)
    spoil(response)
    assert mistakes("response", response)


@pytest.mark.parametrize(
    "spoil",
    [spoil_counts, add_a_field, lambda report: report.pop("outputs"), lambda report: report.update(running_s="long")],
)
def test_report(finished: Path, spoil: Callable[[Any], None]) -> None:
    """The report of a job fits, and a spoilt one does not."""
    report = json.loads((finished / "in.responses.jsonl.xbatch/report.json").read_bytes())
    assert not mistakes("report", report)
    spoil(report)
    assert mistakes("report", report)


@pytest.mark.parametrize(
    "spoil", [spoil_counts, add_a_field, lambda status: status.update(status="done"), lambda status: status.pop("job")]
)
def test_status(finished: Path, spoil: Callable[[Any], None]) -> None:
    """The status of a complete job fits, and a spoilt one does not."""
    status = json.loads(xbatch(finished, "status", "in.responses.jsonl", "--json").stdout)
    assert status["status"] == "complete"
    assert not mistakes("status", status)
    spoil(status)
    assert mistakes("status", status)


def test_status_on_the_way(tmp_path: Path) -> None:
    """The status of a job fits while it runs and when it was interrupted."""
    rows = "".join(json.dumps({"model": "m", "prompt": f"p{i}"}) + "\n" for i in range(4000))
    (tmp_path / "in.jsonl").write_text(rows, "utf-8")
    words = ["run", "in.jsonl", "--engine", "fake", "--engine-arg", "delay_s=0.05", "--engine-arg", "max_in_flight=4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "xbatch", *words], cwd=tmp_path, env=ENV, stderr=subprocess.DEVNULL
    )
    seen: dict[str, Any] = {}
    try:
        deadline = time.monotonic() + 60
        while not (seen.get("workers") or [{}])[0].get("progress", {}).get("completed"):
            assert time.monotonic() < deadline
            status = xbatch(tmp_path, "status", "in.responses.jsonl", "--json")
            seen = json.loads(status.stdout) if status.returncode == 0 else seen
            assert not seen or not mistakes("status", seen)
        assert seen["status"] == "running"
    finally:
        process.terminate()
        assert process.wait(60) == 75
    after = json.loads(xbatch(tmp_path, "status", "in.responses.jsonl", "--json").stdout)
    assert after["status"] == "interrupted"
    assert not mistakes("status", after)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_jobs(path: Path) -> None:
    """The job files fit, with their variables as they stand there, and name the schema for editors."""
    text = path.read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=../schemas/job.schema.json\n")
    assert not mistakes("job", yaml.safe_load(text))


@pytest.mark.parametrize(
    "fields",
    [
        {"modle": "m"},
        {"inputs": []},
        {"inputs": 5},
        {"format": "xml"},
        {"shard_rows": 0},
        {"shard_rows": "many"},
        {"max_failures": "some"},
        {"engine": ["x"]},
        {"request": "{{ x }}"},
        {"parse": "yaml"},
        {"with_input": "yes"},
    ],
    ids=str,
)
def test_wrong_jobs(fields: dict[str, Any]) -> None:
    """A job file that would be refused does not fit."""
    assert not mistakes("job", {"inputs": ["a"], "shard_rows": "${ROWS}", "with_input": True})
    assert mistakes("job", {"inputs": ["a"]} | copy.deepcopy(fields))
