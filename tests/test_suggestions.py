"""What to write instead of a command or an option that does not exist."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from xbatch.cli import group
from xbatch.cli.suggesting import about_option
from xbatch.cli.vllm_settings import SHORT, SWITCHES, VALUES

ROOT = Path(__file__).resolve().parent.parent


def said(*words: str) -> str:
    """What a command line that is refused says, in this process: nothing is run."""
    import click

    try:
        group.main(list(words), prog_name="xbatch", standalone_mode=False)
    except click.NoSuchOption as e:
        return about_option(e, words)
    except click.UsageError as e:
        return e.message
    raise AssertionError(words)


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        ("rnu in.jsonl", "did you mean xbatch run?"),
        ("batch", "did you mean xbatch run?"),
        ("run-batch -i in.jsonl", "did you mean xbatch run?"),
        ("check x", "did you mean xbatch validate?"),
        ("frobnicate", "the commands are run, validate,"),
        ("in.jsonl", "to answer its rows: xbatch run in.jsonl"),
        ("requests.jsonl -o out.jsonl", "to answer its rows: xbatch run requests.jsonl -o out.jsonl"),
        ("s3://bucket/in", "to answer its rows: xbatch run s3://bucket/in"),
        ("- -o out.jsonl", "to answer its rows: xbatch run - -o out.jsonl"),
        ("--model demo run in.jsonl", "options follow the command"),
        ("run -i in.jsonl", "input files are plain words: xbatch run in.jsonl"),
        ("run --input-file=in.jsonl", "input files are plain words: xbatch run in.jsonl"),
        ("validate --input in.jsonl", "input files are plain words: xbatch validate in.jsonl"),
        ("run in.jsonl --output-file out.jsonl", "named by -o out.jsonl"),
        ("run in.jsonl --kv-cache-dtype fp8", "write --engine-arg kv_cache_dtype=fp8"),
        ("run in.jsonl --kv-cache-dtype=fp8", "write --engine-arg kv_cache_dtype=fp8"),
        ("run in.jsonl --enforce-eager", "write --engine-arg enforce_eager=true"),
        ("run in.jsonl --enable-lora --max-lora-rank 64", "write --engine-arg enable_lora=true"),
        ("run in.jsonl --max-lora-rank 64", "write --engine-arg max_lora_rank=64"),
        ("run in.jsonl --no-enable-prefix-caching", "write --engine-arg enable_prefix_caching=false"),
        ("run in.jsonl --swap-space 4", "write --engine-arg swap_space=4"),
        ("serve -m demo --speculative-config.method ngram", '--engine-arg \'speculative_config={"method": "ngram"}\''),
        ("run in.jsonl -tp 2", "write --tensor-parallel-size 2"),
        ("run in.jsonl -pp=2", "write --pipeline-parallel-size 2"),
        ("run in.jsonl -dp 2", "write --engine-arg data_parallel_size=2"),
        ("run in.jsonl --port 80", "--port is an option of xbatch serve"),
        ("serve -m demo --deadline 1h", "--deadline is an option of xbatch run"),
        ("run in.jsonl --modle demo", "did you mean --model?"),
        ("run in.jsonl --temperature 0", "temperature stands in the body of each row"),
        ("run in.jsonl --temprature 0", "temperature stands in the body of each row"),
        ("run in.jsonl --enforce-eagr", "did you mean --engine-arg enforce_eager=true, a setting of vLLM?"),
        ("run in.jsonl --frob 1", "a setting of vLLM is given by --engine-arg frob=VALUE"),
        ("schema --frob", "xbatch schema --help lists the options"),
        ("run in.jsonl --served-model-name a b", "--served-model-name a --served-model-name b"),
        ("serve -m demo --lora-modules a=b c=d", "--lora-modules a=b --lora-modules c=d"),
        ("serve demo", "xbatch serve -m demo"),
    ],
)
def test_suggestions(words: str, instead: str) -> None:
    """Every word that is no command or option of xbatch gets one sentence that says what to write."""
    sentence = said(*words.split())
    assert instead in sentence
    assert "\n" not in sentence


def test_the_sentence_is_shown() -> None:
    """The command itself says so, and exits 2."""
    command = [sys.executable, "-m", "xbatch", "run", "in.jsonl", "--kv-cache-dtype", "fp8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("write --engine-arg kv_cache_dtype=fp8")


def test_several_names_before_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name behind --served-model-name that is a file is an input."""
    (tmp_path / "requests").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(group, ["validate", "--served-model-name", "a", "requests", "--help"])
    assert told.exit_code == 0


def test_names_of_settings() -> None:
    """A setting is a switch or has a value, and short flags stand for settings."""
    assert not SWITCHES & VALUES
    assert set(SHORT.values()) <= SWITCHES | VALUES
