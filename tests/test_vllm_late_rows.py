"""Rows that come into a job late are answered by the real engine, and by nothing that stands in its place."""

import json
from pathlib import Path

import serving

from xbatch.demo import questions


def run(folder: Path, *words: str) -> serving.Ended:
    return serving.run_xbatch(folder / "empty.jsonl", *words, "-o", "out.jsonl", "--max-failures", "100%")


def test_job_that_began_without_a_model_is_answered_by_vllm(tmp_path: Path) -> None:
    """A job begins with no row that can be sent, is extended, and its failed rows run again: vLLM answers them."""
    taught = questions()[:3]
    asked: list[serving.Body] = [
        {"model": "demo", "messages": [{"role": "user", "content": question}], "temperature": 0}
        for question, _ in taught
    ]
    unsendable = serving.batch_line("never", serving.CHAT, asked[0]) | {"method": "GET"}
    serving.write_rows(tmp_path / "empty.jsonl", [unsendable])
    serving.write_rows(tmp_path / "more.jsonl", asked)
    output, state = tmp_path / "out.jsonl", tmp_path / "out.jsonl.xbatch"

    begun = run(tmp_path)
    assert begun.code == 0, begun.err
    assert json.loads((state / "job.json").read_bytes())["identity"]["model"] is None
    assert json.loads((state / "report.json").read_bytes())["engine"] is None

    extended = run(tmp_path, "more.jsonl", "--extend", "--request-timeout", "0.001")
    assert extended.code == 0, extended.err
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["error"]["code"] for row in rows] == ["invalid_method", *["request_timeout"] * 3]

    retried = run(tmp_path, "more.jsonl", "--retry-failed")
    assert retried.code == 0, retried.err
    report = json.loads((state / "report.json").read_bytes())
    assert report["model"] == "demo"
    assert report["engine"].startswith("vLLM"), report["engine"]
    first, *answered = (json.loads(line) for line in output.read_text().splitlines())
    assert first["error"]["code"] == "invalid_method"
    bodies = [row["response"]["body"] for row in answered]
    assert [body["choices"][0]["message"]["content"] for body in bodies] == [answer for _, answer in taught]
    assert all(body["created"] > 0 for body in bodies), "the fake engine's answers are from 1970"
