"""Fields that vLLM ignores are named before anything runs, and so are wishes that no setting allows."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xbatch.assemble.indexing import Indexing
from xbatch.errors import UsageError
from xbatch.job.body_notes import allowed_by, check_abilities, check_needs, ignored_sentence
from xbatch.job.spec import JobSpec
from xbatch.planning.body_notes import MAX_NAMES, MAX_SHAPES, BodyNotes
from xbatch.planning.index import Index
from xbatch.rows.known_fields import HARMLESS, hint
from xbatch.rows.needs import CHATS, EMBEDS, LENGTH, LOGPROBS, MEDIA, TEMPLATE, TOOLS, Allowed, unmet_need
from xbatch.rows.request import CHAT, COMPLETIONS, Request
from xbatch.rows.row import Row
from xbatch.sources.opening import SourceOptions, open_source

ROOT = Path(__file__).resolve().parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
MESSAGES = [{"role": "user", "content": "What is the largest animal?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NOTHING = Allowed(tools=False, templates=False, embeds=False, max_logprobs=20, max_tokens=1024)
EVERYTHING = Allowed(tools=True, templates=True, embeds=True, max_logprobs=None, max_tokens=None)


def xbatch(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "xbatch", *words]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, check=False)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": MESSAGES, **more}


def write(path: Path, *bodies: dict[str, Any]) -> Path:
    rows = [
        {"custom_id": f"id-{n}", "method": "POST", "url": CHAT if "messages" in body else COMPLETIONS, "body": body}
        for n, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def noted(*bodies: dict[str, Any], endpoint: str = CHAT, allowed: Allowed | None = None) -> BodyNotes:
    notes = BodyNotes(allowed)
    for n, body in enumerate(bodies):
        notes.take(Request(n, f"id-{n}", endpoint, body, 0), Row(n, "in.jsonl:", n + 1, 0, b"", 0))
    return notes


FIVE = [
    chat(guided_choice=["yes", "no"]),
    chat(guided_json={"type": "object"}),
    chat(extra_body={"top_k": 1}),
    chat(enable_thinking=False),
    chat(temprature=1),
    chat(temprature=0),
    chat(temperature=0, user="u", store=True, metadata={"a": "b"}, service_tier="auto", guided_regex=None),
]
SENTENCE = (
    "6 rows have fields that vLLM 0.32 does not know and ignores: "
    "guided_choice (now structured_outputs.choice; 1 row, in.jsonl:1), "
    "guided_json (now structured_outputs.json; 1 row, in.jsonl:2), "
    "extra_body (put its fields into the body; 1 row, in.jsonl:3), "
    "enable_thinking (put it into chat_template_kwargs; 1 row, in.jsonl:4), "
    "temprature (did you mean temperature?; 2 rows, first in.jsonl:5)"
)


def test_one_sentence_names_each_kind() -> None:
    """Rows, first place and what to write instead are named once a kind; what changes no answer is not named."""
    notes = noted(*FIVE)
    assert ignored_sentence(notes.ignored.items(), notes.ignored_rows, "vLLM 0.32") == SENTENCE
    assert not noted(FIVE[-1]).ignored


def test_run_tells_it_before_the_engine(tmp_path: Path) -> None:
    """`run` says it before the engine starts, answers every row, and reports it; a resumed run only reports it."""
    write(tmp_path / "in.jsonl", *FIVE)
    done = xbatch(tmp_path, "run", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--shard-rows", "2")
    lines = done.stderr.splitlines()
    told = [line for line in lines if "does not know and ignores" in line]
    assert len(told) == 1
    assert told[0].split(": ", 1)[1] == SENTENCE.split(": ", 1)[1]
    assert lines.index(told[0]) < lines.index("a fake engine, for tests")
    assert done.returncode == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["response"]["status_code"] for each in answers] == [200] * len(FIVE)
    report = json.loads((tmp_path / "out.jsonl.xbatch/report.json").read_text())
    assert report["ignored_fields"][-1] == {
        "name": "temprature",
        "rows": 2,
        "first_place": "in.jsonl:5",
        "hint": "did you mean temperature?",
    }
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "out.jsonl.xbatch/report.json").unlink()
    again = xbatch(tmp_path, "run", "in.jsonl", "-o", "out.jsonl", "--engine", "fake", "--shard-rows", "2")
    assert "does not know" not in again.stderr
    later = json.loads((tmp_path / "out.jsonl.xbatch/report.json").read_text())
    assert later["ignored_fields"] == report["ignored_fields"]


@pytest.mark.parametrize("words", [[], ["--tokens", "--engine", "fake"]])
def test_validate_tells_it(tmp_path: Path, words: list[str]) -> None:
    """`validate` says the same to people and to programs, with tokens or without, and calls no row bad for it."""
    write(tmp_path / "in.jsonl", *FIVE)
    done = xbatch(tmp_path, "validate", "in.jsonl", *words)
    assert done.returncode == 0
    assert SENTENCE.split(": ", 1)[1] in done.stderr
    totals = json.loads(xbatch(tmp_path, "validate", "in.jsonl", "--json", *words).stdout.splitlines()[-1])
    assert [(each["name"], each["rows"]) for each in totals["ignored_fields"]] == [
        ("guided_choice", 1),
        ("guided_json", 1),
        ("extra_body", 1),
        ("enable_thinking", 1),
        ("temprature", 2),
    ]


def test_watch_tells_it(tmp_path: Path) -> None:
    """`watch` says it of each file."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.jsonl", *FIVE)
    words = ("watch", "in", "-o", "out", "--once", "--settle", "0.1s", "--engine", "fake")
    done = xbatch(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "temprature (did you mean temperature?; 2 rows, first in/a.jsonl:5)" in done.stderr.replace(
        str(tmp_path) + "/", ""
    )


@pytest.mark.parametrize(
    ("body", "endpoint", "names"),
    [
        (chat(response_format={"type": "json_object", "schema": {}}), CHAT, ["response_format.schema"]),
        (
            chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "shema": {}}}),
            CHAT,
            ["response_format.json_schema.shema"],
        ),
        (chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}), CHAT, []),
        (chat(structured_outputs={"choice": ["a"], "choices": ["b"]}), CHAT, ["structured_outputs.choices"]),
        (chat(tools=[TOOL, {**TOOL, "cache_control": {}}]), CHAT, []),
        (
            chat(tools=[{"type": "function", "function": {"name": "f", "paramters": {}}}] * 2),
            CHAT,
            ["tools[].function.paramters"],
        ),
        (chat(messages=[{"role": "user", "contents": "hi"}]), CHAT, ["messages[].contents"]),
        (chat(messages=[{"role": "user", "content": "hi", "id": 7}]), CHAT, []),
        (chat(messages=[{"role": "assistant", "tool_calls": []}, *MESSAGES]), CHAT, []),
        (chat(stream=True, stream_options={"include_usage": True}), CHAT, []),
        ({"prompt": "p", "tools": [TOOL], "messages": MESSAGES}, COMPLETIONS, ["tools", "messages"]),
        ({"prompt": "p", "suffix": "s", "logprobs": 3}, COMPLETIONS, []),
    ],
)
def test_where_fields_are_looked_for(body: dict[str, Any], endpoint: str, names: list[str]) -> None:
    """A wrong name is found at the top, in formats, in tools and in messages without content, for its endpoint."""
    assert list(noted(body, endpoint=endpoint).ignored) == names
    assert list(noted(body, body, endpoint=endpoint).ignored) == names


@pytest.mark.parametrize(
    ("name", "endpoint", "said"),
    [
        ("max_token", CHAT, "did you mean max_tokens?"),
        ("stop_sequences", CHAT, "vLLM calls it stop"),
        ("repeat_penalty", CHAT, "vLLM calls it repetition_penalty"),
        ("system", CHAT, "make it a message whose role is system"),
        ("functions", CHAT, "now tools"),
        ("max_completion_tokens", COMPLETIONS, "vLLM calls it max_tokens"),
        ("messages", COMPLETIONS, "a row with url /v1/chat/completions takes it"),
        ("prompt", CHAT, "a row with url /v1/completions takes it"),
        ("messages[].contents", CHAT, "did you mean content?"),
        ("web_search_options", CHAT, None),
    ],
)
def test_hints(name: str, endpoint: str, said: str | None) -> None:
    """What to write instead is told where it is known."""
    assert hint(name, endpoint) == said


def test_counts_are_exact_beyond_what_is_remembered() -> None:
    """Neither many shapes of bodies nor many names cost memory without end, and rows are counted all the same."""
    bodies = [chat(**{f"field_{n}": 1}) for n in range(MAX_NAMES + 10)]
    notes = noted(*bodies, *bodies)
    assert len(notes.ignored) == MAX_NAMES
    assert {each.rows for each in notes.ignored.values()} == {2}
    assert notes.ignored_rows == 2 * len(bodies)
    harmless = sorted(HARMLESS)
    shapes = [chat(**{name: 1 for bit, name in enumerate(harmless) if n >> bit & 1}) for n in range(MAX_SHAPES + 50)]
    notes = noted(*shapes[: 1 << len(harmless)], chat(temprature=1))
    assert all(len(plain) <= MAX_SHAPES for plain in notes._plain.values())
    assert notes.ignored_rows == 1


def test_names_that_are_any_text() -> None:
    """A name is cut where it is long, and can't break the line or reach the terminal as a control character."""
    notes = noted(chat(**{"a\nb\x1b[31m": 1, "x" * 5000: 1}))
    said = ignored_sentence(notes.ignored.items(), notes.ignored_rows, "vLLM 0.32")
    assert said.isprintable()
    assert r"'a\nb\x1b[31m' (1 row, in.jsonl:1)" in said
    assert len(said) < 400


def test_a_plan_of_an_earlier_version_has_no_notes() -> None:
    """What an index tells of ignored fields survives its plan, and older plans without it are still read."""
    index = Index(notes=noted(*FIVE))
    facts = json.loads(json.dumps(index.facts()))
    assert Index.of([], facts).notes.facts() == index.notes.facts()
    del facts["ignored_fields"]
    assert Index.of([], facts).notes.facts() == []


def test_each_kind_is_told_once() -> None:
    """Where the look at rows takes longer than its head start, only kinds that are new are told at its end."""
    told: list[str] = []
    found = Indexing(JobSpec(inputs=["in.jsonl"], engine={"name": "fake"}), {}, told.append)
    found.index.notes = noted(chat(temprature=1))
    found._pass = object()  # type: ignore[assignment]
    found._tell_ignored("so far, ")
    found._tell_ignored("so far, ")
    found.index.notes.take(Request(1, "b", CHAT, chat(temprature=1, max_token=5), 0), Row(1, "in.jsonl:", 2, 0, b"", 0))
    found._tell_ignored("in all, ")
    assert [each.partition(": ")[0][:20] for each in told] == ["so far, 1 row has fi", "in all, 2 rows have "]
    assert "temprature" not in told[1]
    assert "max_token (did you mean max_tokens?; 1 row, in.jsonl:2)" in told[1]


NEEDS: list[tuple[dict[str, Any], str | None]] = [
    (chat(tools=[TOOL]), TOOLS),
    (chat(tools=[TOOL], tool_choice="auto"), TOOLS),
    (chat(tools=[TOOL], tool_choice="required"), TOOLS),
    (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}), TOOLS),
    (chat(tools=[TOOL], tool_choice="none"), None),
    (chat(tools=[TOOL], tool_choice=None), None),
    (chat(chat_template="{{ messages[0].content }}"), TEMPLATE),
    (chat(chat_template_kwargs={"chat_template": "x"}), TEMPLATE),
    (chat(chat_template_kwargs={"enable_thinking": False}), None),
    ({"model": "demo", "prompt_embeds": "AAAA"}, EMBEDS),
    (chat(logprobs=True, top_logprobs=21), LOGPROBS),
    (chat(logprobs=True, top_logprobs=20), None),
    (chat(logprobs=True, top_logprobs=-1), LOGPROBS),
    (chat(prompt_logprobs=21), LOGPROBS),
    ({"model": "demo", "prompt": "p", "logprobs": 30}, LOGPROBS),
    ({"model": "demo", "prompt": "p", "logprobs": 20}, None),
    (chat(max_tokens=1025), LENGTH),
    (chat(max_completion_tokens=1025, max_tokens=5), LENGTH),
    ({"model": "demo", "prompt": "p", "max_tokens": 1025}, LENGTH),
    (chat(max_tokens=1024), None),
]
"""Bodies, each with what it needs that `NOTHING` does not allow; `test_vllm_known_fields.py` asks vLLM the same."""


@pytest.mark.parametrize(("body", "need"), NEEDS)
def test_needs(body: dict[str, Any], need: str | None) -> None:
    """What a body asks for is found, and nothing is missed where everything is allowed."""
    endpoint = CHAT if "messages" in body else COMPLETIONS
    assert unmet_need(body, endpoint, NOTHING) == need
    assert unmet_need(body, endpoint, EVERYTHING) is None
    notes = noted(body, body, endpoint=endpoint, allowed=NOTHING)
    assert {name: each.rows for name, each in notes.unmet.items()} == ({need: 2} if need else {})


def test_numbers_above_their_bounds() -> None:
    """Of many bodies of one shape those are told whose numbers are too large, wherever they stand."""
    bodies = [chat(max_tokens=most) for most in (5, 10, 11, None, 5, 12, True)]
    unmet = noted(*bodies, allowed=replace(EVERYTHING, max_tokens=10)).unmet[LENGTH]
    assert (unmet.rows, unmet.first_place) == (2, "in.jsonl:3")


def test_settings_in_a_file_of_vllms() -> None:
    """A file of settings may allow anything, so nothing is refused for what else is set."""
    assert allowed_by(JobSpec(inputs=["in.jsonl"])) is not None
    assert allowed_by(JobSpec(inputs=["in.jsonl"], engine={"config": "serve.yaml"})) is None


def test_nothing_is_loaded_if_every_row_would_be_refused(tmp_path: Path) -> None:
    """Rows that all call tools end with exit 2 and the flag's name before an engine starts; nothing is left behind."""
    write(tmp_path / "in.jsonl", chat(tools=[TOOL]), chat(tools=[TOOL], tool_choice="required"))
    for command in ("run", "validate"):
        done = xbatch(tmp_path, command, "in.jsonl")
        assert done.returncode == 2
        assert "every row asks for tools" in done.stderr
        assert "--tool-call-parser" in done.stderr
        assert "in.jsonl:1" in done.stderr
        assert "vLLM 0" not in done.stderr
    assert os.listdir(tmp_path) == ["in.jsonl"]
    for allowed in (["--tool-call-parser", "hermes"], ["--engine", "fake"]):
        assert xbatch(tmp_path, "validate", "in.jsonl", *allowed).returncode == 0


def test_some_rows_that_would_be_refused_are_told(tmp_path: Path) -> None:
    """Where only some rows ask for what the settings do not allow, one line says how many, where and what to do."""
    write(tmp_path / "in.jsonl", chat(), chat(tools=[TOOL]), chat(tools=[TOOL]), chat(logprobs=True, top_logprobs=30))
    done = xbatch(tmp_path, "validate", "in.jsonl")
    assert done.returncode == 0
    assert "vLLM will refuse 3 rows" in done.stderr
    assert "2 rows (first in.jsonl:2) ask for tools" in done.stderr
    assert "1 row (in.jsonl:4) asks for more log probabilities" in done.stderr


@pytest.mark.parametrize(
    ("config", "file", "settings", "refused"),
    [
        ({"model_type": "llama"}, "", {}, True),
        ({"model_type": "gpt_oss"}, "", {}, False),
        ({"model_type": "mistral"}, "tekken.json", {}, False),
        ({"model_type": "mistral"}, "", {}, True),
        ({"model_type": "llama"}, "", {"tokenizer_mode": "mistral"}, False),
        (None, "", {}, False),
    ],
)
def test_models_that_need_no_parser(
    tmp_path: Path, config: dict[str, Any] | None, file: str, settings: dict[str, str], refused: bool
) -> None:
    """A job for a model whose tool calls vLLM reads by itself, or of which nothing is known, is not refused."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    if file:
        (tmp_path / file).write_text("{}")
    notes = noted(chat(tools=[TOOL]), allowed=NOTHING)
    if refused:
        with pytest.raises(UsageError, match="--tool-call-parser"):
            check_needs(notes, 1, str(tmp_path), settings)
    else:
        assert check_needs(notes, 1, str(tmp_path), settings) is None


IMAGE = chat(
    messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {}}]}]
)
TEXTS = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}])


@pytest.mark.parametrize(
    ("bodies", "unable", "refused", "said"),
    [
        ([chat(), TEXTS], (CHATS,), "no chat template", None),
        ([chat(), TEXTS], (MEDIA,), None, None),
        ([IMAGE, IMAGE], (MEDIA,), "takes texts only", None),
        ([chat(), IMAGE, chat()], (MEDIA,), None, "1 row (in.jsonl:2) asks for an answer to media"),
        ([chat(), {"prompt": "p"}, IMAGE], (CHATS,), None, "2 rows (first in.jsonl:1) ask for a chat"),
        ([IMAGE], (), None, None),
        ([{"prompt": "p"}], (CHATS, MEDIA), None, None),
    ],
)
def test_what_a_model_is_unable_to_do(
    bodies: list[dict[str, Any]], unable: tuple[str, ...], refused: str | None, said: str | None
) -> None:
    """A job is refused if the model can answer none of its rows; if it can't answer some of them, that is told."""
    notes = BodyNotes()
    for n, body in enumerate(bodies):
        endpoint = CHAT if "messages" in body else COMPLETIONS
        notes.take(Request(n, f"id-{n}", endpoint, body, 0), Row(n, "in.jsonl:", n + 1, 0, b"", 0))
    if refused is not None:
        with pytest.raises(UsageError, match=refused):
            check_abilities(notes, len(bodies), unable)
    elif (told := check_abilities(notes, len(bodies), unable)) is not None:
        assert said is not None
        assert said in told
    else:
        assert said is None


def test_a_servers_batch_is_answered_row_by_row(tmp_path: Path) -> None:
    """Where the engine is there already, rows that it would refuse are left to it."""
    path = write(tmp_path / "in.jsonl", chat(tools=[TOOL]))
    source = open_source(str(path), "in.jsonl", SourceOptions(1 << 20))
    found = Indexing(JobSpec(inputs=[str(path)]), {str(path): source}, print, refuses=False)
    assert found.choose_model(None) == "demo"
    assert found.index.rows == 1
