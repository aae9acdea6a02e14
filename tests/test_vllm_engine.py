"""The real engine keeps its contract: values for answers and refusals, quiet, and usable mistakes told at once."""

import json
import re
from pathlib import Path

import pytest
import serving
from conftest import Interrupted, Mixed
from serving import Body, Ended

LINES_OF_VLLM = ("INFO", "WARNING", "vllm.", "(EngineCore", "Loading safetensors")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """An input of one row, in a folder that holds nothing else."""
    folder = tmp_path / "job"
    folder.mkdir()
    body = {"prompt": "Why?", "max_tokens": 2}
    return serving.write_rows(folder / "rows.jsonl", [serving.batch_line("a", serving.COMPLETIONS, body)])


def assert_refused(run: Ended, rows: Path) -> str:
    """Exit code 2, one sentence, and nothing beside the input; returns the sentence."""
    assert run.code == 2, run.err
    assert run.out == ""
    assert len(run.sentences) == 1, run.err
    assert run.sentences[0].startswith("xbatch: ")
    assert sorted(rows.parent.iterdir()) == [rows]
    return run.sentences[0]


def test_completions_and_refusals_are_values(engine_alone: Body) -> None:
    """`generate` gives a Completion with a body and its usage, or a Failure with status code and error object."""
    good, unknown, invalid, stream = (
        engine_alone["contract"][name] for name in ("good", "unknown", "invalid", "stream")
    )
    assert good["kind"] == stream["kind"] == "Completion"
    for answer in (good, stream):
        usage = json.loads(answer["body"])["usage"]
        assert answer["usage"] == [usage["prompt_tokens"], usage["completion_tokens"]]
        assert usage["completion_tokens"] > 0
    for refusal, status in ((unknown, 404), (invalid, 400)):
        assert refusal["kind"] == "Failure"
        assert refusal["status_code"] == status
        assert json.loads(refusal["body"])["error"]["code"] == status
        assert refusal["retryable"] is False


def test_a_cancelled_request_frees_its_place(engine_alone: Body) -> None:
    """A cancelled `generate` ends at once, and the engine answers the next request."""
    # vLLM's serving classes turn the cancellation into a refusal ("Client disconnected").
    assert engine_alone["contract"]["cancelled"] in ("CancelledError", "Failure")
    assert engine_alone["contract"]["cancel_s"] < 2
    assert engine_alone["contract"]["after_cancel"]["kind"] == "Completion"


def test_a_closed_engine_leaves_no_process(engine_alone: Body) -> None:
    """After `close`, which may be called twice, no process of the engine is left."""
    assert engine_alone["contract"]["processes"] > 0
    assert engine_alone["contract"]["left"] == []


def test_seeded_rows_do_not_kill_the_engine(mixed_job: Mixed) -> None:
    """64 rows with seeds of their own and prompts of 120 tokens, all in flight at a time, complete."""
    responses = mixed_job.run.responses()
    seeded = [responses[name] for name in serving.seeded_requests()]
    assert len(seeded) == 64
    for line in seeded:
        assert line["response"]["status_code"] == 200, line
        usage = line["response"]["body"]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (120, 12)


def test_every_row_has_its_response_in_input_order(mixed_job: Mixed) -> None:
    """The output has one line a row, in the order of the input, whatever a row asked for."""
    assert mixed_job.run.code == 0, mixed_job.run.err
    assert [line["custom_id"] for line in mixed_job.run.lines()] == list(mixed_job.requests)


def test_the_chosen_settings_are_told(mixed_job: Mixed, interrupted: Interrupted) -> None:
    """One line on stderr names every setting that was chosen; what the user gave is not among them."""
    for run, has_cache in ((mixed_job.run, False), (interrupted.again, True)):
        (line,) = [line for line in run.sentences if re.match(r"vLLM \d", line)]
        for choice in ("max_num_seqs=512", "max_num_batched_tokens=8192", "enable_chunked_prefill=false"):
            assert choice in line
        assert ("kv_cache_memory_bytes=" in line) is has_cache


def test_vllm_writes_into_its_log_only(mixed_job: Mixed, interrupted: Interrupted) -> None:
    """vLLM's log lies in the job's folder beside the output, and none of it reaches stdout or stderr."""
    for run in (mixed_job.run, interrupted.first, interrupted.again):
        log = (run.state / "vllm.log").read_text(errors="replace")
        assert "EngineCore" in log
        assert run.out == ""
        assert str(run.state / "vllm.log") in run.err or run.code != 0
        for line in run.sentences:
            assert line.startswith(("vLLM ", "vLLM's log")) or not any(sign in line for sign in LINES_OF_VLLM), line


def test_an_unknown_setting_is_refused(rows: Path) -> None:
    """A setting that vLLM does not have ends the run with a sentence that names it; nothing is written."""
    run = serving.run_xbatch(rows, "--model", "demo", "--engine-arg", "no_such=1")
    assert "'no_such'" in assert_refused(run, rows)


def test_a_wrong_value_is_refused(rows: Path) -> None:
    """A value that vLLM's parser does not take ends the run with one sentence; nothing is written."""
    run = serving.run_xbatch(rows, "--model", "demo", "--max-num-seqs", "lots")
    assert "max-num-seqs" in assert_refused(run, rows)


def test_a_path_without_model_is_refused(rows: Path) -> None:
    """A model folder that does not exist ends the run with a sentence that names it; nothing is written."""
    run = serving.run_xbatch(rows, "--model", "/no/such/model")
    assert "/no/such/model" in assert_refused(run, rows)


def test_a_name_without_model_is_refused_soon(rows: Path) -> None:
    """A model that can't be found on the hub ends the run within two minutes, network or not; nothing is written."""
    run = serving.run_xbatch(rows, "--model", "no-such-org/no-such-model", timeout_s=120, HF_HUB_OFFLINE=None)
    assert "no-such-org/no-such-model" in assert_refused(run, rows)


def test_a_folder_without_configuration_is_refused(rows: Path, tmp_path: Path) -> None:
    """A folder that holds no model ends the run with a sentence that names it; nothing is written."""
    empty = tmp_path / "empty"
    empty.mkdir()
    run = serving.run_xbatch(rows, "--model", str(empty))
    assert str(empty) in assert_refused(run, rows)


def test_ctrl_c_drains_what_is_in_flight(interrupted: Interrupted) -> None:
    """SIGINT to the whole process group lets the rows in flight finish, and the run ends with exit code 75."""
    assert interrupted.first.code == 75, interrupted.first.err
    assert not interrupted.output_after_first
    assert 0 < interrupted.settled_after_first < interrupted.rows
    assert "stopping" in interrupted.first.err
    # Twice 512 rows are handed over at a time, and none of them was dropped.
    assert interrupted.settled_after_first >= 1024


def test_ctrl_c_leaves_no_process(interrupted: Interrupted) -> None:
    """Nothing of the engine outlives the interrupted run."""
    assert interrupted.left == []


def test_the_same_command_finishes_the_rest(interrupted: Interrupted) -> None:
    """Run again, the job answers what was left, and every row stands once in the output, in order."""
    assert interrupted.again.code == 0, interrupted.again.err
    lines = interrupted.again.lines()
    assert [line["custom_id"] for line in lines] == interrupted.names
    assert all(line["response"]["status_code"] == 200 for line in lines)
    report = json.loads((interrupted.again.state / "report.json").read_text())
    assert report["this_run"]["rows"] == interrupted.rows - interrupted.settled_after_first
