"""Job files: what they may say, what flags make of them, and how mistakes are told."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from xbatch.errors import UsageError
from xbatch.job.loading import load_job, make_request, shown_job
from xbatch.job.places import default_output
from xbatch.job.spec import JobSpec
from xbatch.job.yaml_text import BadYaml, YamlText, dumped, filled_in

ROOT = Path(__file__).resolve().parent.parent
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def job_file(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def load(folder: Path, text: str, environment: dict[str, str] | None = None, **given: Any) -> JobSpec:
    return load_job({"inputs": [job_file(folder, text)], **given}, environment or {})


def refused(folder: Path, text: str, **given: Any) -> str:
    with pytest.raises(UsageError) as raised:
        load(folder, text, **given)
    return str(raised.value).replace(f"{folder}/", "")


def xbatch(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "xbatch", "run", *words]
    return subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, check=False)


def copy_jobs(folder: Path) -> None:
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("*.responses.*", "*.xbatch"))


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_fields(tmp_path: Path) -> None:
    """A job file says everything that a command can say, in YAML's own types."""
    spec = load(
        tmp_path,
        """
        inputs: [a.jsonl, s3://b/c/]
        output: out/
        model: demo
        engine:
          max-model-len: 2048
          enforce_eager: true
          tool_call_parser: hermes
          limit_mm_per_prompt: {image: 1}
          cudagraph_capture_sizes: [1, 2]
        max_failures: 5
        request_timeout: 5m
        max_output_file: 2GiB
        deadline: 10:30
        columns: id
        storage_options:
          anon: true
          client_kwargs: {endpoint_url: "http://[::1]:9000", region_name: eu}
        """,
    )
    assert spec.inputs == ["a.jsonl", "s3://b/c/"]
    assert spec.engine_name == "vllm"
    assert spec.engine_args == {
        "max_model_len": "2048",
        "enforce_eager": "true",
        "tool_call_parser": "hermes",
        "limit_mm_per_prompt": '{"image": 1}',
        "cudagraph_capture_sizes": ["1", "2"],
        "enable_auto_tool_choice": "true",
    }
    assert (spec.max_failures, spec.request_timeout, spec.max_output_file) == ("5", 300.0, 2 << 30)
    assert (spec.deadline, spec.columns) == ("10:30", ["id"])
    assert spec.storage_options == {
        "anon": "true",
        "client_kwargs.endpoint_url": "http://[::1]:9000",
        "client_kwargs.region_name": "eu",
    }


def test_every_field_is_described() -> None:
    """Nothing in a job file is without an explanation."""
    assert not [name for name, field in JobSpec.model_fields.items() if not field.description]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("10:30", "10:30"),
        ("2026-11-01", "2026-11-01"),
        ("007", "007"),
        ("12e34", "12e34"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12", 12),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("&x y", "y"),
        ("|\n  two\n  lines", "two\nlines"),
    ],
)
def test_plain_types(text: str, value: Any) -> None:
    """Bare words are what JSON would make of them, and text otherwise: no dates, no clock turned into a number."""
    found = YamlText(f"field: {text}", {}).fields["field"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("s3://${B}/x", "s3://bucket/x"),
        ("${B}${B:-c}", "bucketbucket"),
        ("${NONE:-a b}", "a b"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("$${B}", "${B}"),
        ("$B and $ and {B}", "$B and $ and {B}"),
        ("${ODD}", "${B} {{ x }}"),
    ],
)
def test_variables(text: str, value: str) -> None:
    """Environment variables are filled in once, with defaults as in a shell."""
    environment = {"B": "bucket", "EMPTY": "", "ODD": "${B} {{ x }}"}
    assert filled_in(text, environment) == value
    assert YamlText(json.dumps({"a": [{"b": text}]}), environment).fields == {"a": [{"b": value}]}


@pytest.mark.parametrize("text", ["${NONE}", "${}", "${A B}", "${A", "${A:+x}", "${1A}"])
def test_bad_variables(text: str) -> None:
    """A variable that is not set, or not written as one, is named with its line."""
    with pytest.raises(BadYaml) as raised:
        YamlText(f"a: 1\nb: '{text}'\n", {"A": "x"})
    assert raised.value.line == 2
    assert text.strip("${}") in str(raised.value)


def test_variables_in_fields(tmp_path: Path) -> None:
    """Fields that are numbers may be variables too; one that is empty leaves a field as it is without it."""
    spec = load(
        tmp_path,
        "inputs: ${IN}\nshard_rows: ${ROWS:-7}\nerrors: ${ERRORS:-}\nmodel: ${M:-}\ndeadline: ${D:-}",
        {"IN": "a.jsonl"},
    )
    assert (spec.inputs, spec.shard_rows, spec.errors, spec.model, spec.deadline) == (["a.jsonl"], 7, None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inputs: a\nmodle: x", ["job.yaml:2: modle: no field of a job; did you mean model?"]),
        ("inputs: a\n\nmaxfailures: 1", ["job.yaml:3: maxfailures: no field of a job; did you mean max_failures?"]),
        ("inputs: a\nzzz: 1", ["job.yaml:2: zzz: no field of a job"]),
        ("model: m", ["job.yaml: inputs: give files, globs, folders or URIs"]),
        ("inputs: []", ["job.yaml:1: inputs: give files, globs, folders or URIs"]),
        (
            "inputs: a\nshard_rows: many\nengine:\n  seed: null\nformat: xml\n",
            [
                "job.yaml:2: shard_rows: should be a valid integer, unable to parse string as an integer, not 'many'",
                "job.yaml:4: engine.seed: should be a valid string, not None",
                "job.yaml:5: format: should be 'batch' or 'body', not 'xml'",
            ],
        ),
        ("inputs:\n- a\n- [b]", ["job.yaml:3: inputs[1]: should be a valid string, not ['b']"]),
        ("inputs: a\nmax_failures: x", ["job.yaml:2: max_failures: should be a number or a share such as 1%, not 'x'"]),
        ("inputs: a\nrequest_timeout: 5q", ["job.yaml:2: request_timeout: '5q' is no duration such as 90m"]),
        ("inputs: a\ndeadline: 2020-01-01T00:00", ["job.yaml:2: deadline: 2020-01-01T00:00 is over"]),
        ("inputs: a\nengine: {name: other}", ["job.yaml:2: engine: there is no engine called 'other'"]),
        ("inputs: a\nmax_output_file: 0", ["job.yaml:2: max_output_file: should be from 1 byte to 1 EiB, not 0"]),
        ("inputs: a\nrequest: {model: m}", ["job.yaml:2: request: has neither messages nor prompt"]),
        ("inputs: a\nrequest:\n  prompt: '{{ x'", ["job.yaml:2: request: prompt: unexpected end of template"]),
        ("inputs: a\ninputs: b", ["job.yaml:2: inputs stands twice"]),
        ("inputs: ${NOT_SET}", ["job.yaml:1: the environment variable NOT_SET is not set"]),
        ("inputs: [a", ["job.yaml:1: not valid YAML"]),
        ("- a", ["job.yaml:1: holds list, not fields with values"]),
        ("a: !!python/object/apply:os.system [x]", ["job.yaml:1: not valid YAML: could not determine a constructor"]),
        ("inputs: a\nrequest: &r\n  prompt: *r", ["job.yaml:2: not valid YAML: found unconstructable recursive"]),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: list[str]) -> None:
    """Every mistake of a job file is told at once, with its line and, for a wrong name, the right one."""
    lines = refused(tmp_path, text).splitlines()
    assert len(lines) == len(said)
    assert [line.startswith(start) for line, start in zip(lines, said, strict=True)] == [True] * len(said), lines


@pytest.mark.parametrize("data", [None, b"\xff\xfe"], ids=["missing", "not UTF-8"])
def test_unreadable(tmp_path: Path, data: bytes | None) -> None:
    """A job file that is not there or is no text is a usage error."""
    path = tmp_path / "job.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=r"job\.yaml: "):
        load_job({"inputs": [str(path)]})


def test_flags_override(tmp_path: Path) -> None:
    """Fields that a command gives replace the file's; of settings and of the request only what is given."""
    text = (
        "inputs: a.jsonl\nmodel: m\nmax_failures: 5\nserved_model_name: [x, y]\nengine: {seed: 1, dtype: float32}\n"
        "storage_options: {anon: true}\nrequest: {prompt: '{{ a }}', temperature: 0}\n"
    )
    assert load(tmp_path, text).inputs == ["a.jsonl"]
    spec = load_job(
        {
            "inputs": [job_file(tmp_path, text), "b.jsonl", "c.jsonl"],
            "max_failures": "1%",
            "served_model_name": ["z"],
            "engine": {"seed": "2"},
            "storage_options": {"key": "k"},
            "request": make_request("{{ b }}", None, None),
        }
    )
    assert (spec.inputs, spec.model, spec.max_failures) == (["b.jsonl", "c.jsonl"], "m", "1%")
    assert spec.served_model_name == ["z"]
    assert spec.engine_args == {"seed": "2", "dtype": "float32"}
    assert spec.storage_options == {"anon": "true", "key": "k"}
    assert spec.request == {"messages": [{"role": "user", "content": "{{ b }}"}], "temperature": 0}


def test_a_wrong_flag_is_told_as_a_flag(tmp_path: Path) -> None:
    """A mistake of the command names the flag, not the file."""
    assert refused(tmp_path, "inputs: a\nmax_failures: 1", max_failures="x").startswith("--max-failures: should be")
    assert refused(tmp_path, "inputs: a", drain_s=-1).startswith("--drain-s: should be")
    request = {"messages": [{"role": "user", "content": "{{"}]}
    assert refused(tmp_path, "inputs: a", request=request).startswith("--prompt, --system or --messages: messages[0]")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("p", None, None), [("user", "p")]),
        ((None, "s", None), [("system", "s")]),
        (("p", "s", None), [("system", "s"), ("user", "p")]),
        (("p", "s", [{"role": "assistant", "content": "m"}]), [("system", "s"), ("assistant", "m"), ("user", "p")]),
    ],
)
def test_requests_by_flags(words: Any, messages: list[tuple[str, str]]) -> None:
    """--system, --messages and --prompt make one chat, in this order."""
    request = make_request(*words)
    assert request is not None
    assert [(each["role"], each["content"]) for each in request["messages"]] == messages
    assert make_request(None, None, None) is None


def test_shown_job(tmp_path: Path) -> None:
    """The job that is shown is a job file again that says the same, with everything filled in."""
    text = (
        "inputs: ${IN}\nrequest:\n  prompt: |\n    $${a} {{ x }}\n    two\n  stop: ['no', '12', 'null']\n"
        "engine: {seed: 5, enforce_eager: false}\nrequest_timeout: 5m\ndrain_s: 0\nmax_output_file: 1MB\n"
    )
    spec = load(tmp_path, text, {"IN": "a.jsonl"})
    assert spec.request is not None
    assert spec.request["prompt"] == "${a} {{ x }}\ntwo\n"
    again = load(tmp_path, shown_job(spec))
    assert again == spec
    assert "drain_s: 0" in shown_job(spec)


SECRET_JOB = """
inputs: ["https://h/a?X-Amz-Date=hidden-1&v=1&X-Amz-Signature=hidden-2", "https://me:hidden-3@h/b?v=2"]
output: sftp://me:hidden-4@h/out/
engine: {hf_token: hidden-5, max_num_batched_tokens: 12345}
storage_options:
  key: hidden-6
  client_kwargs: {aws_secret_access_key: hidden-7, region_name: eu, endpoint_url: "http://me:hidden-8@h"}
"""


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """What opens a store, or a model's, is hidden in the job that is shown; that runs once the environment has it."""
    spec = load(tmp_path, SECRET_JOB)
    shown = shown_job(spec)
    assert "hidden" not in shown
    assert "12345" in shown
    assert "region_name: eu" in shown
    with pytest.raises(UsageError, match="environment variable INPUTS_SECRET is not set"):
        load(tmp_path, shown)
    secrets = {
        "INPUTS_SECRET": "X-Amz-Date=hidden-1&X-Amz-Signature=hidden-2",
        "INPUTS_SECRET_2": "hidden-3",
        "OUTPUT_SECRET": "hidden-4",
        "ENGINE_HF_TOKEN": "hidden-5",
        "STORAGE_KEY": "hidden-6",
        "STORAGE_CLIENT_KWARGS_AWS_SECRET_ACCESS_KEY": "hidden-7",
        "STORAGE_CLIENT_KWARGS_ENDPOINT_URL_SECRET": "hidden-8",
    }
    assert all(name in shown.splitlines()[0] for name in secrets)
    again = load(tmp_path, shown, secrets)
    reordered = "https://h/a?v=1&X-Amz-Date=hidden-1&X-Amz-Signature=hidden-2"
    assert again == spec.model_copy(update={"inputs": [reordered, spec.inputs[1]]})


def test_dumped_texts() -> None:
    """Texts that look like something else come back as texts."""
    fields = {
        name: name for name in ("no", "12", "1e5", "1e-5", "null", "10:30", "~", "true", "", "a: b", "# c", "${x}")
    }
    assert YamlText(dumped(fields), {}).fields == fields


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_shipped_jobs(path: Path) -> None:
    """Every job file that is shipped can be used as it is."""
    spec = load_job({"inputs": [str(path)]}, {"IN": "s3://in/", "OUT": "s3://out/"})
    assert all((ROOT / each).exists() or "://" in each for each in spec.inputs)
    assert spec.model
    assert (spec.parse is None) == (spec.answers_schema is None)


def test_the_table_is_what_its_script_makes() -> None:
    """The table of the example is the one that its script makes."""
    pq = pytest.importorskip("pyarrow.parquet")
    sys.path.insert(0, str(ROOT / "jobs"))
    try:
        from make_reviews import table
    finally:
        sys.path.pop(0)
    assert pq.read_table(ROOT / "jobs/reviews.parquet").equals(table())


def test_run_a_job_file(tmp_path: Path) -> None:
    """The example over the demo's questions runs as it is; flags override it, and a second run changes nothing."""
    copy_jobs(tmp_path)
    done = xbatch(tmp_path, "jobs/questions.yaml", "--engine", "fake", "--max-failures", "0")
    assert done.returncode == 0, done.stderr
    asked = rows(tmp_path / "jobs/questions.jsonl")
    answered = rows(tmp_path / "jobs/questions-job.responses.jsonl")
    names = [row.get("custom_id", f"row-{index}") for index, row in enumerate(asked)]
    assert [row["custom_id"] for row in answered] == names
    before = (tmp_path / "jobs/questions-job.responses.jsonl").stat()
    done = xbatch(tmp_path, "jobs/questions.yaml", "--engine", "fake", "--max-failures", "0")
    assert (done.returncode, "already complete" in done.stderr) == (0, True)
    assert (tmp_path / "jobs/questions-job.responses.jsonl").stat() == before
    done = xbatch(tmp_path, "jobs/questions.yaml", "--engine", "fake", "-o", "other.jsonl", "--quiet")
    assert (done.returncode, len(rows(tmp_path / "other.jsonl"))) == (0, len(asked))


def test_commands_of_the_readme(tmp_path: Path) -> None:
    """What the README and `make demo` run over jobs/ can be run one after the other, in one folder and twice."""
    copy_jobs(tmp_path)
    readme, makefile = ((ROOT / name).read_text("utf-8") for name in ("README.md", "Makefile"))
    demo = re.findall(r"^\t@?\$\(BIN\)/xbatch run (jobs/.*)", makefile, re.MULTILINE)
    commands = demo + re.findall(r"^xbatch run (jobs/[^#\n]*)", readme, re.MULTILINE)
    here = [words for words in commands if "-s3" not in words]
    assert len(demo) == 1 < len(here)
    for words in [*here, *here]:
        done = xbatch(tmp_path, *words.split(), "--engine", "fake")
        assert done.returncode == 0, f"{words}: {done.stderr}"


def test_examples_have_outputs_of_their_own() -> None:
    """No two of the example jobs, nor an input that is run by itself, share an output."""
    environment = {"IN": "s3://in/", "OUT": "s3://out/"}
    specs = [load_job({"inputs": [str(path)]}, environment) for path in JOBS]
    inputs = sorted({uri for spec in specs for uri in spec.inputs if "://" not in uri})
    outputs = [spec.output or default_output(spec.inputs) for spec in specs]
    outputs += [default_output([uri]) for uri in inputs]
    assert len({*outputs}) == len(outputs) >= 5


def test_templates_run(tmp_path: Path) -> None:
    """Columns become requests without a script; a row that lacks one is a failure that names it."""
    table = [{"custom_id": "a", "text": "one", "n": 1}, {"txt": "two", "n": 2}, {"text": "three", "n": 3}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), "utf-8")
    words = ("t.jsonl", "--engine", "fake", "-m", "m", "--quiet")
    prompt = ("--system", "Be short.", "--prompt", "{{ n }}: {{ text }}")
    assert xbatch(tmp_path, *words, *prompt).returncode == 1
    first, second, third = rows(tmp_path / "t.responses.jsonl")
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "1: one"
    assert third["response"]["body"]["choices"][0]["message"]["content"] == "3: three"
    assert [row["custom_id"] for row in (first, second, third)] == ["a", "row-1", "row-2"]
    assert second["error"]["code"] == "template_failed"
    assert (
        "t.jsonl:2: the template failed: column 'text' is missing (did you mean 'txt'?); the row has: txt, n"
        in second["error"]["message"]
    )

    other = xbatch(tmp_path, *words, "--system", "Be short.", "--prompt", "{{ text }}")
    assert other.returncode == 2
    assert "--accept-change request.messages" in other.stderr


def test_print_job(tmp_path: Path) -> None:
    """--print-job prints the job as YAML and does nothing else."""
    job_file(tmp_path, "inputs: none.jsonl\nmodel: m\n")
    done = xbatch(tmp_path, "job.yaml", "--print-job", "--max-model-len", "99", "--prompt", "{{ x }}")
    assert (done.returncode, done.stderr) == (0, "")
    shown = yaml.safe_load(done.stdout)
    assert (shown["inputs"], shown["model"], shown["engine"]) == (["none.jsonl"], "m", {"max_model_len": "99"})
    assert shown["request"] == {"messages": [{"role": "user", "content": "{{ x }}"}]}
    assert os.listdir(tmp_path) == ["job.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["job.yaml"], "job.yaml:2: modle: no field of a job; did you mean model?"),
        (["x.jsonl", "--prompt", "{{ x"], "--prompt, --system or --messages: messages[0].content"),
        (["x.jsonl", "--messages", "{}"], "not a list of messages"),
        (["x.jsonl", "--messages", "["], "not valid JSON"),
        (["job.yaml", "job.yaml"], "modle"),
    ],
)
def test_unusable(tmp_path: Path, words: list[str], said: str) -> None:
    """A job file or a template that can't be used exits 2, says why, and leaves nothing behind."""
    job_file(tmp_path, "inputs: a.jsonl\nmodle: m\n")
    done = xbatch(tmp_path, *words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["job.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inputs: in.jsonl\nmax_line_bytes: " + "9" * 4301, "job.yaml:2: 99999999999999999999… is no number"),
        ("inputs: " + "[" * 5000, "job.yaml: nested deeper than 50 levels"),
        ("inputs: !!bool maybe", "job.yaml: a value does not fit its tag"),
        ('inputs: in.jsonl\noutput: "a\\0b"', "job.yaml:2: output: holds a NUL character"),
        ('inputs: in.jsonl\noutput: "\\uD800"', "job.yaml:2: half of a character"),
        ("inputs: ['']", "job.yaml:1: inputs: an input has an empty name"),
        ("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [" + "*a, " * 200 + "]\nc: [" + "*b, " * 200 + "]", "job.yaml:"),
        ("inputs: a\nlease_s: 1.0e+300", "job.yaml:2: lease_s: should be from 0.1 to 86,400, not 1e+300"),
        ("inputs: a\nmax_failures: 101%", "job.yaml:2: max_failures: should be a number or a share from 0% to 100%"),
    ],
)
def test_what_no_job_file_can_hold(tmp_path: Path, text: str, said: str) -> None:
    """What YAML can say and a job can't is told with its line, and takes neither long nor the command down."""
    assert refused(tmp_path, text).startswith(said)


def test_no_file_is_no_job_file(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes to and a file that is too large are refused at once."""
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 21))
    for name, said in (("folder", "not a file"), ("pipe", "not a file"), ("large", "larger than")):
        with pytest.raises(UsageError, match=said):
            load_job({"inputs": [str(tmp_path / f"{name}.yaml")]}, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("lease_s", value) for value in (0, 0.01, 1e300, float("nan"), float("inf"), -1)),
        *(("drain_s", value) for value in (-1, 1e300, float("nan"))),
        *(("commit_interval_s", value) for value in (0, 1e-9, float("inf"))),
        *(("look_ahead", value) for value in ("0", "-1", "9" * 400, "much", "nanKiB", 0)),
        *(("spool_limit", value) for value in ("0", "2EiB")),
        *(("max_output_file", value) for value in ("0", "9" * 30)),
        *(("max_failures", value) for value in ("101%", "1e3", "-1", "nan", "100.01%")),
        *(("max_line_bytes", value) for value in (0, 1 << 40)),
        *(("shard_rows", value) for value in (0, 10**9)),
        *(("max_engine_restarts", value) for value in (-1, 10**9)),
        *(("request_timeout", value) for value in ("1e300", "0", "367d", float("nan"), 1e9)),
        *(("storage_timeout", value) for value in ("inf", "-1s")),
        *(("deadline", value) for value in ("1e300", "0001-01-01T00:00", "9999-99-99T00:00")),
    ],
)
def test_ranges(field: str, value: Any) -> None:
    """Numbers that no job can mean are refused, and the sentence names the field."""
    with pytest.raises(UsageError, match=f"^--{field.replace('_', '-')}: "):
        load_job({"inputs": ["in.jsonl"], field: value})


@pytest.mark.parametrize("given", [{"model": "\udcff"}, {"engine": {"a": "\udcff"}}, {"request": {"prompt": "\udcff"}}])
def test_bytes_that_are_no_text(given: dict[str, Any]) -> None:
    """Words that are no UTF-8 can be the names of files, and nothing else."""
    with pytest.raises(UsageError, match="holds bytes that are no text in UTF-8"):
        load_job({"inputs": ["in.jsonl"], **given})
