"""What the benchmarks run is what they say it is, and their results are written as they were found."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from benchmarks import with_journal
from benchmarks.peers import commands, contest, machine, models, plots, results, rows, workloads
from benchmarks.peers.__main__ import round_order
from benchmarks.peers.bench import FEW, Bench
from benchmarks.peers.claims import CPU, GROWTH, RATE, WHOLE, Claim
from benchmarks.peers.measuring import Measured, measure
from xbatch.demo import MODEL_PATH
from xbatch.engines.fake import FakeEngine
from xbatch.job.loading import load_job

REPOSITORY = Path(__file__).parent.parent
TOKENIZER = AutoTokenizer.from_pretrained(MODEL_PATH)


def tokens(row: rows.Row) -> int:
    """The tokens of a row's prompt as an engine sees it."""
    messages = row["body"]["messages"]
    return len(TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def said(row: rows.Row) -> str:
    text: str = row["body"]["messages"][0]["content"]
    return text


def test_unique_rows_have_39_tokens_in_and_16_out_and_no_two_are_alike() -> None:
    made = list(rows.unique(500))
    assert {tokens(row) for row in made} == {39}
    assert {row["body"]["max_tokens"] for row in made} == {16}
    assert len({said(row) for row in made}) == len({row["custom_id"] for row in made}) == 500
    assert made == list(rows.unique(500))


def test_three_quarters_of_the_repeating_rows_are_repeats() -> None:
    made = list(rows.repeating(1000))
    assert len(made) == len({row["custom_id"] for row in made}) == 1000
    assert len({json.dumps(row["body"]) for row in made}) == 250
    assert {row["body"]["temperature"] for row in made} == {0}


def test_forty_documents_of_830_tokens_are_each_asked_twenty_things() -> None:
    made, in_order = (list(rows.over_documents(800, shuffled=shuffled)) for shuffled in (True, False))
    asked = [said(row).split("\n") for row in made]
    assert set(Counter(document for document, _ in asked).values()) == {20}
    documents = {document for document, _ in asked}
    assert len(documents) == 40
    assert {len(TOKENIZER.encode(document)) for document in documents} == {830}
    assert len({question for _, question in asked}) == 800
    assert sorted(map(said, made)) == sorted(map(said, in_order))
    turns = [said(row).split("\n")[0] for row in in_order]
    assert sum(a != b for a, b in pairwise(turns)) == 39
    assert [said(row) for row in made] != [said(row) for row in in_order]


def test_the_longest_answers_of_mixed_rows_come_last() -> None:
    made = list(rows.mixed(1000))
    outs = [row["body"]["max_tokens"] for row in made]
    assert outs[-2:] == [1500] * 2
    assert min(outs) >= 4
    assert max(outs[:-2]) <= 60
    assert all(20 <= tokens(row) <= 200 for row in made[:100])
    assert max(map(tokens, made)) + 1500 <= models.CONTEXT_TOKENS


def test_models_have_the_size_that_they_are_called_by(tmp_path: Path) -> None:
    from safetensors import safe_open

    for size, low, high in (("1M", 0.8e6, 1.1e6), ("33M", 32.5e6, 33.5e6)):
        made = models.make_model(size, tmp_path)
        with safe_open(made / "model.safetensors", "pt") as weights:
            count = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
        assert low < count < high
        assert AutoConfig.from_pretrained(made).max_position_embeddings == models.CONTEXT_TOKENS
        assert AutoTokenizer.from_pretrained(made).chat_template


def test_a_command_is_measured(tmp_path: Path) -> None:
    code = "import time\nblock = bytearray(64 << 20)\nwhile time.process_time() < 0.5: pass"
    found = measure([sys.executable, "-c", code], tmp_path / "log")
    assert found.took_s >= 0.5
    assert 0.4 <= found.own_cpu_s < 5
    assert found.engine_cpu_s == 0
    assert found.ready_s is None
    assert 64 << 20 < found.own_peak_bytes < 256 << 20


def test_an_engine_is_ready_when_its_log_says_so(tmp_path: Path) -> None:
    own = tmp_path / "vllm.log"
    for into in ("None", f"open({str(own)!r}, 'w')"):
        code = "import time; time.sleep(0.5); "
        code += f"print('init engine (profile)', file={into}, flush=True); time.sleep(0.5)"
        found = measure([sys.executable, "-c", code], tmp_path / "log", own)
        assert found.ready_s is not None
        assert 0.4 < found.ready_s < found.took_s - 0.4
        assert found.answering_s == pytest.approx(found.took_s - found.ready_s)


def test_a_command_may_end_before_it_is_looked_at(tmp_path: Path) -> None:
    for _ in range(20):
        assert measure(["true"], tmp_path / "log").took_s > 0


def test_a_command_that_fails_ends_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        measure([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log")


def test_failed_rows_are_no_answers(tmp_path: Path) -> None:
    good = {"response": {"status_code": 200}, "error": None}
    bad = [{"response": {"status_code": 400}, "error": None}, {"response": None, "error": {"code": "x"}}]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [good, *bad, {"custom_id": "r", "text": ""}]))
    assert commands.count_answers(path) == 2


@pytest.mark.parametrize("peer", sorted(set(commands.COMMANDS) - {"Ray Data LLM"}))
def test_every_peer_gets_the_same_engine(peer: str, tmp_path: Path) -> None:
    setting = commands.Setting(kv_bytes=123_456, kv_blocks=789)
    task = commands.Task(MODEL_PATH, setting, tmp_path / "rows", tmp_path / "answers")
    line = " ".join(commands.COMMANDS[peer](task))
    for word in (str(MODEL_PATH), "123456", "789", machine.dtype(), str(task.rows), str(task.answers)):
        assert word in line


class Scripted(Bench):
    """Runs nothing: a peer's long run takes what it is told."""

    def answer(self, workload: str, peer: str, setting: commands.Setting, file: Path, count: int) -> Measured:
        self.runs.append({"workload": workload, "command": peer, "rows": count})
        ours = peer == contest.OURS
        if count == FEW:
            return Measured(10, 8, 5, 20, 0, 0)
        return Measured(15 if ours else 23, 8 if ours else 11, 6 if ours else 15, 30, 0, 0)


def test_peers_take_turns_and_the_short_run_is_taken_away(tmp_path: Path) -> None:
    bench = Scripted(tmp_path)
    workload = workloads.unique()
    for number in (0, 1):
        workload.round(bench, number)
    order = [run["command"] for run in bench.runs if run["rows"] > FEW]
    assert order[:4] == order[:3:-1]
    assert sorted(order[:4]) == sorted({"xbatch", "run-batch tuned", "run-batch as shipped", "LLM.chat"})
    speed, *_, cost, _ = workload.claims(bench)
    between = workload.count - FEW
    assert speed.ours == (between / 5,) * 2
    assert speed.theirs == (between / 10,) * 2
    assert speed.ratios == (2, 2)
    assert speed.holds
    assert cost.ratios == pytest.approx((0.1, 0.1))
    assert cost.holds


def test_a_share_of_the_rows_gets_a_share_of_a_cache_that_is_too_small(tmp_path: Path) -> None:
    seen = []

    class Watched(Scripted):
        def answer(self, workload: str, peer: str, setting: commands.Setting, file: Path, count: int) -> Measured:
            if count > FEW:
                seen.append((setting.kv_blocks, count))
            return super().answer(workload, peer, setting, file, count)

    workloads.documents().round(Watched(tmp_path, 0.25), 0)
    assert set(seen) == {(50, 200)}
    asked = Counter(said(row).split("\n")[0] for row in rows.over_documents(200))
    assert len(asked) == 10


def test_what_noise_could_decide_runs_first_again(tmp_path: Path) -> None:
    bench = Scripted(tmp_path)
    near, far, new = workloads.unique(), workloads.repeats(), workloads.mixed()
    for workload in (far, near):
        workload.round(bench, 0)
    assert round_order([far, near, new], bench) == [new, far, near]  # twice as fast is nearer to 3 than to 1.25


def test_an_engine_is_measured_with_the_journal_and_without(tmp_path: Path) -> None:
    spec = load_job({"inputs": ["-"]})
    file = with_journal.write_rows(tmp_path, 100, 3)
    for journal in (with_journal.Nowhere(), with_journal.open_journal(tmp_path / "state")):
        found = asyncio.run(with_journal.answer(spec, FakeEngine(), file, journal))
        assert found.rows_per_s > 0
        assert journal.counts.completed == 100
    assert list((tmp_path / "state").rglob("*.zst"))


CLAIMS = [
    Claim("unique", RATE, (900.0, 1000.0, 1100.0), "run-batch tuned", (500.0, 500.0, 500.0), 1.25),
    Claim("unique", RATE, (900.0, 1000.0, 1100.0), "LLM.chat", (1000.0, 1250.0, 1000.0), 0.97),
    Claim("unique", CPU, (0.4,), "run-batch tuned", (1.6,), 1 / 3, at_most=True),
    Claim("ray", WHOLE, (50.0,), "Ray Data LLM", (80.0,), 1.5),
    Claim("pipeline", GROWTH, (12.5,), bar=60, at_most=True),
]


def test_the_table_says_what_was_found(tmp_path: Path) -> None:
    results.write(results.Results({"cores": "2"}, {"unique": "39 tokens in"}, CLAIMS, [{"took_s": 1.5}]), tmp_path)
    text = (tmp_path / "results.md").read_text()
    rate = "| unique | rows/s while answering | 1,000 (900..1,100)"
    for line in (
        "- cores: 2",
        "- unique: 39 tokens in.",
        f"{rate} | run-batch tuned | 500 (500..500) | 2.00 (1.80..2.20) | ≥ 1.25 | yes |",
        f"{rate} | LLM.chat | 1,000 (1,000..1,250) | 0.90 (0.80..1.10) | ≥ 0.97 | **no** |",
        "| unique | ms of CPU a row, own processes | 0.40 | run-batch tuned | 1.60 | 0.25 | ≤ 0.33 | yes |",
        "| ray | s, whole command | 50.0 | Ray Data LLM | 80.0 | 1.60 | ≥ 1.50 | yes |",
        "| pipeline | MB of own peak memory more | 12.5 |  |  |  | ≤ 60.0 | yes |",
    ):
        assert line in text.splitlines()
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["claims"][0]["ratios"] == [1.8, 2.0, 2.2]
    assert [claim["holds"] for claim in found["claims"]] == [True, False, True, True, True]
    assert found["runs"] == [{"took_s": 1.5}]


def test_plots_are_png_and_svg(tmp_path: Path) -> None:
    made = plots.plot(CLAIMS, tmp_path / "made")
    assert sorted(path.name for path in made) == [
        f"{n}.{s}" for n in ("cpu", "ratios", "speeds") for s in ("png", "svg")
    ]
    for path in made:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
    assert plots.plot([], tmp_path) == []


@pytest.mark.parametrize("script", [["benchmarks/gpu.py"], ["-m", "benchmarks.peers"]], ids=str)
def test_scripts_say_how_they_are_run(script: list[str]) -> None:
    command = [sys.executable, *script, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    assert "--minutes" in done.stdout


def test_rows_for_gpus_have_the_tokens_that_are_counted(tmp_path: Path) -> None:
    from benchmarks import gpu

    model = gpu.make_model(tmp_path / "model", "small")
    tokenizer = AutoTokenizer.from_pretrained(model)
    for work in gpu.workloads(gpu.Words(model, 128, 0.01), small=True):
        texts = [gpu.TURN.format(text) for text, _ in work.rows]
        assert sum(map(len, tokenizer(texts)["input_ids"])) == work.in_tokens
        gpu.write(tmp_path / work.name, work)
        lines = [json.loads(line) for line in (tmp_path / work.name).read_text().splitlines()]
        assert [line["body"]["max_tokens"] for line in lines] == [tokens for _, tokens in work.rows]
