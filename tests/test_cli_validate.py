"""`xbatch validate` as a user or a scheduler meets it: verdicts, places, totals, exit codes."""

import bz2
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from xbatch.schema.generate import schema_of

ROOT = Path(__file__).resolve().parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
CHAT = "/v1/chat/completions"

BODIES: list[tuple[dict[str, Any], str | None]] = [
    ({"model": 5}, "model"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"max_tokens": {}}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop"),
    ({"seed": []}, "seed"),
    ({"temperature": "0.5", "max_tokens": "16", "n": None, "stop": None, "top_k": -1, "foo": {}}, None),
    ({"temperature": True, "seed": 2.0, "stop": ["a"], "prompt": 5}, None),
]
"""What a body is made of besides a good message, and the field that is wrong."""


def xbatch(folder: Path, *words: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "xbatch", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=ENV, input=stdin, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def validate(folder: Path, *words: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
    return xbatch(folder, "validate", *words, stdin=stdin)


def chat(index: int, model: str | None = "m", **more: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": f"text {index}"}]} | more
    return json.dumps({"custom_id": f"id-{index}", "method": "POST", "url": CHAT, "body": body})


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), "utf-8")
    return path


def found(folder: Path, *words: str | Path) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Problems and totals as JSON, held against their schema; the exit code."""
    done = validate(folder, *words, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    validator = Draft202012Validator(schema_of("validate"))
    assert not [error.message for line in lines for error in validator.iter_errors(line)]
    return lines[:-1], lines[-1], done.returncode


def places(folder: Path, *words: str | Path) -> list[tuple[int, str]]:
    return [(each["line"], each["code"]) for each in found(folder, *words)[0]]


def test_nothing_wrong(tmp_path: Path) -> None:
    """Rows that can all be sent: exit 0, nothing on standard output, totals on standard error, no file anywhere."""
    write(tmp_path / "in.jsonl", *map(chat, range(5)), "", '{"model": "m", "prompt": "p"}')
    done = validate(tmp_path, "in.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert "6 (6 can be sent, 0 can't)" in done.stderr
    assert "m in 6 rows" in done.stderr
    assert "1 blank line\n" in done.stderr
    assert os.listdir(tmp_path) == ["in.jsonl"]

    assert validate(tmp_path, "in.jsonl", "--quiet").stderr == ""


def test_every_code(tmp_path: Path) -> None:
    """Each thing that keeps a row from being sent is told by its code, at its line; blank lines count as lines."""
    rows = {
        "invalid_json_line": '{"prompt": ',
        "invalid_unicode": '{"prompt": "\\ud800"}',
        "json_too_deep": '{"prompt": ' + "[" * 600 + "]" * 600 + "}",
        "body_not_object": "[]",
        "invalid_custom_id": '{"custom_id": 7.5, "prompt": "p"}',
        "invalid_method": '{"method": "GET", "body": {"prompt": "p"}}',
        "invalid_url": '{"url": "/v1/embeddings", "body": {}}',
        "line_too_long": json.dumps({"prompt": "x" * 5000}),
        "invalid_request": '{"messages": {}}',
    }
    write(tmp_path / "in.jsonl", chat(0), "", *rows.values(), chat(1), chat(0))
    expected = [*enumerate(rows, 3), (13, "duplicate_custom_id")]
    assert places(tmp_path, "in.jsonl", "--max-line-bytes", "4096") == expected
    lines = validate(tmp_path, "in.jsonl", "--max-line-bytes", "4096").stdout.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[f"in.jsonl:{line}", code] for line, code in expected]
    assert lines[-1].endswith("its custom_id is already used in in.jsonl:1")


def test_template_failed(tmp_path: Path) -> None:
    """A row whose template fails is told with its column."""
    write(tmp_path / "in.jsonl", '{"text": "a"}', '{"txt": "b"}')
    words = ("in.jsonl", "--prompt", "Is it? {{ text }}", "--model", "m")
    assert places(tmp_path, *words) == [(2, "template_failed")]
    assert "text" in validate(tmp_path, *words).stdout


@pytest.mark.parametrize("case", ["bad_rows", "duplicates", "too_long", "mixed_forms", "crlf_bom_blank"])
def test_as_run(tmp_path: Path, case: str) -> None:
    """The rows that `xbatch run` fails before any engine sees them are those that are told, with the same codes."""
    folder = ROOT / "tests/cases" / case
    words = (folder / "command.txt").read_text("utf-8").split() if (folder / "command.txt").exists() else []
    (tmp_path / "in.jsonl").write_bytes((folder / "input.jsonl").read_bytes())
    told, totals, _ = found(tmp_path, "in.jsonl", *words)
    xbatch(tmp_path, "run", "in.jsonl", "--engine", "fake", *words)
    responses = [json.loads(line) for line in (tmp_path / "in.responses.jsonl").read_bytes().splitlines()]
    assert sorted(each["code"] for each in told) == sorted(r["error"]["code"] for r in responses if r["error"])
    assert totals["rows"] == len(responses)
    assert totals["failed"] == sum(1 for response in responses if response["error"])
    for problem in told:
        if problem["code"] != "duplicate_custom_id":
            place = f"in.jsonl:{problem['line']}: {problem['message']}"
            assert place in [r["error"]["message"] for r in responses if r["error"]]


def test_two_problems_of_one_row(tmp_path: Path) -> None:
    """A row with two things wrong is told twice and counted once; one that can't be read repeats nothing."""
    bad = '{"custom_id": "id-0", "url": "/v1/embeddings", "body": {}}'
    write(tmp_path / "in.jsonl", chat(0), bad, '{"custom_id": "row-3", "model": "m", "prompt": "p"}', "nonsense")
    told, totals, code = found(tmp_path, "in.jsonl")
    codes = [(each["line"], each["code"]) for each in told]
    assert codes == [(2, "invalid_url"), (4, "invalid_json_line"), (2, "duplicate_custom_id")]
    assert (totals["failed"], totals["problems"]["duplicate_custom_id"], code) == (2, 1, 1)


def test_duplicates_across_files(tmp_path: Path) -> None:
    """A `custom_id` must be unique in its file; that another file has it too is said of a joint output only."""
    write(tmp_path / "a.jsonl", chat(1), chat(2))
    write(tmp_path / "b.jsonl", chat(3), chat(2), chat(1), chat(1))
    done = validate(tmp_path, "a.jsonl", "b.jsonl")
    assert done.stdout.splitlines() == ["b.jsonl:4: duplicate_custom_id: its custom_id is already used in b.jsonl:3"]
    assert "another input" not in done.stderr
    (tmp_path / "job.yaml").write_text("inputs: [a.jsonl, b.jsonl]\noutput: joint.jsonl\n", "utf-8")
    joint = validate(tmp_path, "job.yaml")
    assert joint.stdout == done.stdout
    assert "2 rows have custom_ids that another input has too (b.jsonl:2 has that of a.jsonl:2)" in joint.stderr


@pytest.mark.parametrize(
    ("body", "param"),
    BODIES,
    ids=str,
)
def test_bodies(tmp_path: Path, body: dict[str, Any], param: str | None) -> None:
    """What is evidently wrong in a body is told with the field; what vLLM's models would take is not."""
    write(tmp_path / "in.jsonl", chat(0, **body), chat(1))
    told, _, code = found(tmp_path, "in.jsonl", "--model", "m")
    assert [each["param"] for each in told] == ([param] if param else [])
    assert code == (1 if param else 0)


def test_models(tmp_path: Path) -> None:
    """Rows that name a model that is not served are told; several models, or none, are refused as `run` does."""
    write(tmp_path / "in.jsonl", chat(0, "one"), chat(1, "two"), chat(2, None))
    done, ran = validate(tmp_path, "in.jsonl"), xbatch(tmp_path, "run", "in.jsonl", "--engine", "fake")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, ran.stderr.splitlines()[-1])
    assert places(tmp_path, "in.jsonl", "--model", "one") == [(2, "model_not_found")]
    assert places(tmp_path, "in.jsonl", "--model", "one", "--served-model-name", "two") == []
    assert found(tmp_path, "in.jsonl", "--model", "one", "--lora-modules", "two=x")[2] == 0
    write(tmp_path / "none.jsonl", chat(0, None))
    assert validate(tmp_path, "none.jsonl").returncode == 2


@pytest.mark.parametrize(("allowed", "code"), [("0", 1), ("1", 1), ("2", 0), ("19%", 1), ("20%", 0)])
def test_max_failures(tmp_path: Path, allowed: str, code: int) -> None:
    """Rows that can't be sent are forgiven as `run` forgives them."""
    write(tmp_path / "in.jsonl", *map(chat, range(8)), "nonsense", "[]")
    assert validate(tmp_path, "in.jsonl", "--max-failures", allowed).returncode == code


def test_max_problems(tmp_path: Path) -> None:
    """Problems are shown up to a limit and counted without one."""
    write(tmp_path / "in.jsonl", chat(0), *["nonsense"] * 1200)
    done = validate(tmp_path, "in.jsonl")
    assert len(done.stdout.splitlines()) == 1000
    assert "200 more problems" in done.stderr
    assert len(validate(tmp_path, "in.jsonl", "--max-problems", "3").stdout.splitlines()) == 3
    assert len(validate(tmp_path, "in.jsonl", "--max-problems", "0").stdout.splitlines()) == 1200
    told, totals, _ = found(tmp_path, "in.jsonl", "--max-problems", "5")
    assert (len(told), totals["failed"], totals["problems"]) == (5, 1200, {"invalid_json_line": 1200})


def test_kinds_of_input(tmp_path: Path) -> None:
    """Compressed files, standard input, folders, globs and job files are taken as `run` takes them."""
    rows = f"{chat(0)}\nnonsense\n".encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    (tmp_path / "b.jsonl").write_bytes(bz2.compress(rows.replace(b"id-0", b"id-1")))
    (tmp_path / "job.yaml").write_text("inputs: a.jsonl.gz\nmodel: other\noutput: s3://none/out.jsonl\n", "utf-8")
    done = validate(tmp_path, "-", stdin=rows)
    assert (done.returncode, done.stdout.split(": ")[0]) == (1, "stdin:2")
    lines = validate(tmp_path, ".").stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["a.jsonl.gz:2", "b.jsonl:2"]
    assert places(tmp_path, "job.yaml", "--model", "m") == [(2, "invalid_json_line")]
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl.gz", "b.jsonl", "job.yaml"]


def test_parquet(tmp_path: Path) -> None:
    """Rows of a table are told by their number."""
    table = pa.table({"custom_id": ["a", "b", "a"], "model": ["m"] * 3, "prompt": ["x", None, "z"]})
    pq.write_table(table, tmp_path / "in.parquet")
    lines = validate(tmp_path, "in.parquet").stdout.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["in.parquet:row 2", "invalid_request"],
        ["in.parquet:row 3", "duplicate_custom_id"],
    ]


def test_unusable_files(tmp_path: Path) -> None:
    """A damaged file, and one that is no JSONL, are told, exit 2, and the others are looked at all the same."""
    whole = gzip.compress("".join(f"{chat(i)}\n" for i in range(2000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.jsonl").write_bytes(b"PK\x03\x04")
    write(tmp_path / "c.jsonl", "nonsense")
    told, totals, code = found(tmp_path, "a.jsonl.gz", "b.jsonl", "c.jsonl")
    assert ([each["file"] for each in told], code) == (["c.jsonl"], 2)
    assert ["zip" in each or "damaged" in each for each in totals["refused"]] == [True, True]
    assert validate(tmp_path, "none.jsonl").returncode == 2
    assert validate(tmp_path, "c.jsonl", "--max-failures", "some").returncode == 2


def test_repeated_requests(tmp_path: Path) -> None:
    """Rows that ask at temperature 0 what an earlier row asks are counted."""
    write(tmp_path / "in.jsonl", *(chat(i, messages=[], temperature=t) for i, t in enumerate([0, 0, 1, 1, 0.0, None])))
    assert found(tmp_path, "in.jsonl")[1]["repeated_requests"] == 1


def test_lines_stay_lines(tmp_path: Path) -> None:
    """Whatever stands in a row, a problem is one line, and none of it commands the terminal."""
    (tmp_path / "in.jsonl").write_bytes(b'{"a\x1b[31m\x0c\xe2\x80\xa8\n')
    lines = validate(tmp_path, "in.jsonl").stdout.split("\n")
    assert len(lines) == 2
    assert "\\x1b[31m" in lines[0]


def test_reader_that_goes(tmp_path: Path) -> None:
    """`xbatch validate ... | head` ends well."""
    write(tmp_path / "in.jsonl", *["nonsense"] * 20_000)
    command = f"{sys.executable} -m xbatch validate in.jsonl --max-problems 0 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert "Traceback" not in done.stderr


def test_tokens_of_the_fake_engine(tmp_path: Path) -> None:
    """Token counts are exact, and rows that can't be sent have no part in them."""
    rows = [json.dumps({"model": "m", "prompt": "x" * n, "max_tokens": 2}) for n in range(1, 101)]
    write(tmp_path / "in.jsonl", *rows, "nonsense")
    _, totals, _ = found(tmp_path, "in.jsonl", "--tokens", "--engine", "fake")
    tokens = totals["tokens"]
    assert (tokens["prompts"], tokens["prompt_tokens"], tokens["max_completion_tokens"]) == (100, 5050, 200)
    lengths = [tokens[f"{name}_prompt"] for name in ("shortest", "median", "p95", "longest")]
    assert lengths == [1, 50, 95, 100]
    assert tokens["shared_prefix_tokens"] == sum(
        (n - 1) // 16 * 16 if n % 16 == 0 else n // 16 * 16 for n in range(1, 101)
    )


def test_tokens_of_vllm(tmp_path: Path) -> None:
    """With --tokens rows are refused in the words of vLLM's server, which is not started, and tokens are counted."""
    write(
        tmp_path / "in.jsonl",
        chat(0, "demo", max_tokens=16, n=2),
        chat(1, "demo", messages=[{"role": "user", "content": "word " * 5000}]),
        chat(2, "demo", temperature="hot"),
        chat(3, "other"),
        json.dumps({"model": "demo", "prompt": ["a b", "a b"], "max_tokens": 5}),
        json.dumps({"model": "demo", "prompt": "a", "logprobs": 1000}),
        json.dumps({"model": "demo", "prompt": "a", "max_tokens": 100_000}),
        "nonsense",
        json.dumps({"model": "demo", "prompt": [4294967296]}),
    )
    told, totals, code = found(tmp_path, "in.jsonl", "--tokens", "--model", "demo")
    assert code == 1
    lines = [(each["line"], each["code"], each["status_code"]) for each in told]
    assert lines == [
        (2, "invalid_request", 400),
        (3, "invalid_request", 400),
        (4, "model_not_found", 404),
        (6, "invalid_request", 400),
        (7, "invalid_request", 400),
        (8, "invalid_json_line", None),
        (9, "invalid_request", 400),
    ]
    assert "out of vocabulary" in told[-1]["message"]
    assert "maximum context length" in told[0]["message"]
    assert "valid number" in told[1]["message"]
    assert "`other` does not exist" in told[2]["message"]
    tokens = totals["tokens"]
    assert (tokens["prompts"], tokens["max_completion_tokens"]) == (3, 16 * 2 + 5 * 2)
    assert tokens["prompt_tokens"] == tokens["shortest_prompt"] * 2 + tokens["longest_prompt"]
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_vllm_agrees(tmp_path: Path) -> None:
    """What is told of a body without vLLM, vLLM refuses too."""
    write(
        tmp_path / "in.jsonl", *(chat(i, "demo", **body) for i, (body, _) in enumerate(BODIES) if "model" not in body)
    )
    lines = [each["line"] for each in found(tmp_path, "in.jsonl")[0]]
    assert lines == [each["line"] for each in found(tmp_path, "in.jsonl", "--tokens")[0]]
