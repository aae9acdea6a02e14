"""Whatever stands on the command line, in a job file or in the environment: an exit code of ours and a sentence."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import hypothesis
import pytest
import yaml
from guarded import Commands, commands
from hypothesis import given
from hypothesis import strategies as st

from xbatch.cli import COMMANDS, group
from xbatch.job.spec import JobSpec

EXAMPLES = int(os.environ.get("XBATCH_FUZZ_EXAMPLES", "25"))
ROWS = [{"custom_id": f"r{i}", "model": "m", "prompt": f"text {i}"} for i in range(3)]
FAKE = ("--engine", "fake")
LAST: dict[str, tuple[str, ...]] = {
    "run": FAKE,
    "validate": FAKE,
    "watch": (*FAKE, "--once"),
    "models": FAKE,
    "serve": (*FAKE, "--model", "m", "--host", "256.0.0.1"),  # where nothing can listen
    "doctor": ("--quick",),
}
"""What comes last, so that a command neither imports vLLM nor runs for ever."""

nasty = st.sampled_from(
    [
        *("", " ", "-", "--", "/", ".", "..", "~", "~nobody", "*", "[", "@", "@in.jsonl", "@job.yaml", "a/b"),
        *("nan", "inf", "-inf", "-1", "0", "1e300", "1e-300", "9" * 5000, "0x10", "1_000", "\u0661", "101%", "%", "1%"),
        *("1EiB", "0KiB", "-5MiB", "1d", "1e9d", "25:00", "9999-12-31T23:59:59", "0001-01-01T00:00", "T", ":"),
        *("{{ text }}", "{{", "{% for x in y %}", "{{ " + "(" * 400 + ")" * 400 + " }}", "{{ " + "9" * 5000 + " }}"),
        *("{% for a in b %}" * 25 + "{% endfor %}" * 25, "[" * 5000, "{}", "null", "[null]", '[{"role": 1}]', "a=b"),
        *("memory://x/y", "file://", "nosuch://x", "://", "zip://a", "::", "memory://", "http://[", "${", "${A}", "="),
        *(
            "a" * 5000,
            "\u202e",
            "\x1b[31m",
            "\u00e9",
            "a\nb",
            "in.jsonl",
            "in.jsonl/x",
            "job.yaml",
            "folder",
            "folder/",
        ),
        *("new/", "x.zst"),
    ]
)
texts = st.one_of(nasty, st.text(max_size=12).filter(lambda text: "\0" not in text))
scalars = st.one_of(nasty, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
job_fields = st.dictionaries(st.sampled_from(sorted(JobSpec.model_fields)), values)

LAUGHS = b"a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)
"""Aliases of aliases: a few hundred bytes that stand for a thousand million values."""

bounded = hypothesis.settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(hypothesis.HealthCheck))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("streams")) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place") / "work"


def fresh(folder: Path, job: bytes = b"inputs: in.jsonl") -> dict[str, int]:
    """Make `folder` anew, with an input, a job file and a folder in it; return its files with their times."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "folder").mkdir(parents=True)
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    (folder / "job.yaml").write_bytes(job)
    return files(folder)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def check(shell: Commands, folder: Path, words: list[str], job: bytes = b"inputs: in.jsonl", **more: Any) -> None:
    before = fresh(folder, job)
    ended = shell.run(folder, words, **more)
    assert ended.is_sane, (words, ended)
    if ended.code == 2:
        assert files(folder) == before, (words, ended.err)


def options_of(command: str) -> list[click.Option]:
    with click.Context(group) as context:
        found = group.get_command(context, command)
    assert found is not None
    return [each for each in found.params if isinstance(each, click.Option)]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with options of its own, most of them with values that make no sense."""
    command = draw(st.sampled_from(list(COMMANDS)))
    words = [command]
    for option in draw(st.lists(st.sampled_from(options_of(command)), max_size=3)):
        if option.name in ("engine", "storage_options", "engine_arg"):
            continue
        words.append(option.opts[-1])
        if not option.is_flag:
            words.append(draw(st.sampled_from(option.type.choices) if hasattr(option.type, "choices") else texts))
    if command != "serve":
        words += draw(st.lists(st.one_of(st.sampled_from(["in.jsonl", "job.yaml", "folder", "-"]), texts), max_size=2))
    return [*words, *LAST.get(command, ())]


@bounded
@given(words=command_lines())
def test_command_lines(shell: Commands, place: Path, words: list[str]) -> None:
    """No command line brings xbatch down, and where it is refused nothing was written."""
    check(shell, place, words, stdin=b'{"model": "m", "prompt": "p"}\n')


@bounded
@given(words=st.lists(texts, max_size=5))
def test_words(shell: Commands, place: Path, words: list[str]) -> None:
    """Words that are no command line at all are refused."""
    before = fresh(place)
    ended = shell.run(place, words)
    assert (ended.code in (0, 2), "Traceback" in ended.err) == (True, False), (words, ended)
    assert files(place) == before


@bounded
@given(fields=job_fields, command=st.sampled_from(["run", "validate", "watch"]))
def test_job_files(shell: Commands, place: Path, fields: dict[str, Any], command: str) -> None:
    """Fields of a job file may have any value."""
    fields = {"inputs": "in.jsonl"} | fields
    job = yaml.safe_dump(fields, allow_unicode=True).encode("utf-8", "surrogatepass")
    more = ["folder"] if command == "watch" else []
    check(shell, place, [command, "job.yaml", *more, *LAST[command]], job)


@bounded
@given(
    job=st.one_of(
        st.binary(max_size=40),
        st.text("{}[]&*!|>%@`'\"#,:?-~<=\n\t abz019.", max_size=40).map(str.encode),
        st.sampled_from(
            [
                b"inputs: in.jsonl\nmax_line_bytes: " + b"9" * 4301,
                b"inputs: " + b"[" * 100_000,
                b"inputs: " + b"{a: " * 3000,
                b"- " * 3000 + b"a",
                b"a: &a [*a]",
                b"&a {inputs: *a}",
                LAUGHS,
                b"inputs: !!timestamp 2001-99-99",
                b"inputs: !!int x",
                b"inputs: !!float x",
                b"inputs: !!bool maybe",
                b"inputs: !!binary x",
                b"inputs: !!set {a, b}",
                b"inputs: !!omap [a: b]",
                b'inputs: "a\\0b"',
                b'inputs: in.jsonl\noutput: "a\\0b"',
                b'inputs: in.jsonl\noutput: "\\uD800"',
                b'inputs: in.jsonl\nrequest: {prompt: "\\uD800"}',
                b"inputs: in.jsonl\n? [a, b]\n: c",
                b"--- {}\n--- {}",
                b"%YAML 9.9\n---\na: b",
                "inputs: é".encode("utf-16"),
            ]
        ),
    )
)
def test_texts_of_job_files(shell: Commands, place: Path, job: bytes) -> None:
    """A job file may hold anything."""
    check(shell, place, ["run", "job.yaml", *FAKE], job)


VARIABLES = [
    *("XBATCH_LEASE_S", "XBATCH_SHARD_ROWS", "XBATCH_API_KEY", "_XBATCH_COMPLETE", "A", "HF_HOME", "HOME", "TMPDIR"),
    *("XDG_STATE_HOME", "LANG", "LC_ALL", "PYTHONIOENCODING", "TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"),
]


@bounded
@given(
    env=st.dictionaries(st.sampled_from(VARIABLES), st.one_of(nasty, st.sampled_from(["/proc/x", "/nowhere", "C"]))),
    words=st.sampled_from(
        [
            ["run", "in.jsonl", *FAKE],
            ["run", "in.jsonl", *FAKE, "-o", "memory://x/out.jsonl"],
            ["validate", "in.jsonl"],
            ["status", "in.jsonl"],
            ["models", *FAKE],
            ["schema", "job"],
            ["serve", *LAST["serve"]],
            ["doctor", "--quick"],
        ]
    ),
    closed=st.sets(st.sampled_from(["stdin", "stdout", "stderr"])),
)
def test_environments(shell: Commands, place: Path, env: dict[str, str], words: list[str], closed: set[str]) -> None:
    """Variables may hold anything, and standard streams may be missing."""
    check(shell, place, words, env=env, closed=sorted(closed))


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdin"], ["stdin", "stdout", "stderr"]], ids="+".join)
def test_streams_that_are_missing(shell: Commands, place: Path, closed: list[str]) -> None:
    """A job needs no standard stream that it neither reads nor writes; what it needs and lacks it says."""
    fresh(place)
    assert shell.run(place, ["run", "in.jsonl", *FAKE], closed=closed).code == 0
    assert len((place / "in.responses.jsonl").read_bytes().splitlines()) == len(ROWS)
    if "stdin" in closed:
        for word in ("-", "/dev/stdin"):
            assert shell.run(place, ["run", word, "-o", "o.jsonl", *FAKE], closed=closed).code == 2
    if "stdout" in closed:
        for word in ("-", "/dev/stdout"):
            assert shell.run(place, ["run", "in.jsonl", "-o", word, *FAKE], closed=closed).code == 2
