"""Settings of the engine follow from the machine, the model and what the rows need."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbatch.engines.vllm.settings import GIB, Choice, Machine, choose, threads
from xbatch.rows.request import CHAT, Request
from xbatch.rows.sizes import Expectation, RowSizes

CPU = Machine(is_cpu=True, free_bytes=100 * GIB, max_model_len=32768, kv_bytes_a_token=1024)
GPU = Machine(
    is_cpu=False,
    free_bytes=100 * GIB,
    max_model_len=32768,
    kv_bytes_a_token=128 << 10,
    gpu_bytes=24 * GIB,
    weight_bytes=3 * GIB,
    default_sequences=256,
)
SHORT, LONG = Expectation(1000, 60, 100), Expectation(1000, 3000, 6000)


def chosen(machine: Machine, expected: Expectation | None = None, *given: str) -> dict[str, Any]:
    return {choice.name: choice.value for choice in choose(machine, set(given), expected)}


def sizes(*tokens: int) -> RowSizes:
    found = RowSizes()
    for each in tokens:
        found.take(Request(0, "a", CHAT, {"max_tokens": each}, 0))
    return found


def test_short_rows_on_a_small_gpu_run_more_at_a_time() -> None:
    """Where vLLM's default would leave cache unused, more sequences run; else vLLM's own default stays."""
    assert chosen(GPU, SHORT) == {"max_num_seqs": 512}
    assert chosen(GPU, LONG) == {}
    assert chosen(GPU, None) == {}
    assert chosen(replace(GPU, default_sequences=1024), SHORT) == {}
    assert chosen(replace(GPU, weight_bytes=0), SHORT) == {}
    assert chosen(replace(GPU, weight_bytes=40 * GIB), SHORT) == {}


@pytest.mark.parametrize("machine", [CPU, GPU])
def test_what_the_user_gives_wins(machine: Machine) -> None:
    """No setting is chosen that the user has given."""
    for name in chosen(machine, SHORT):
        assert name not in chosen(machine, SHORT, name)


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("expected", [SHORT, LONG, None])
def test_nothing_that_changes_answers(machine: Machine, expected: Expectation | None) -> None:
    """Neither the length of the context nor numbers are the engine's to choose."""
    assert not {"max_model_len", "dtype", "quantization", "kv_cache_dtype", "seed"} & chosen(machine, expected).keys()


def test_the_cache_follows_the_rows() -> None:
    """On a CPU the cache has room for all sequences of the length that rows need, and leaves memory to others."""
    default, short, long = (chosen(CPU, e)["kv_cache_memory_bytes"] for e in (None, SHORT, LONG))
    assert default == short == 512 * 1024 * 1024
    assert long == 512 * 6000 * 1024
    assert chosen(replace(CPU, free_bytes=GIB), LONG)["kv_cache_memory_bytes"] == int(0.4 * GIB)


def test_a_job_computes_on_all_of_few_cores() -> None:
    """Where there are few cores none is kept for a scheduler that waits, but for servers, siblings and one core."""
    chosen = {choice.name: choice.value for choice in threads({1, 0}, has_siblings=False, expected=SHORT)}
    assert chosen == {"VLLM_CPU_OMP_THREADS_BIND": "0,1", "GOMP_SPINCOUNT": 10_000}
    assert threads({0, 1}, has_siblings=True, expected=SHORT) == []
    assert threads({0, 1}, has_siblings=False, expected=None) == []
    assert threads({0}, has_siblings=False, expected=SHORT) == []
    assert threads(set(range(16)), has_siblings=False, expected=SHORT) == []


def test_choices_say_why() -> None:
    """Each choice reads as name, value and reason."""
    for choice in [*choose(CPU, set(), LONG), *choose(GPU, set(), SHORT)]:
        assert isinstance(choice, Choice)
        assert str(choice).startswith(f"{choice.name}=")
        assert choice.reason in str(choice)
    assert "rows need 100 tokens or less" in str(choose(GPU, set(), SHORT)[0])


def test_no_rows_no_expectation() -> None:
    """Before any row was seen nothing is expected."""
    assert RowSizes().expect() is None


def test_typical_and_long_rows() -> None:
    """The middle and the ninth tenth are told within an eighth."""
    found = sizes(*[10] * 50, *[100] * 45, *[5000] * 5).expect()
    assert found is not None
    assert found.rows == 100
    assert 100 <= found.typical_tokens <= 112
    assert 100 <= found.long_tokens <= 112


@given(st.lists(st.integers(1, 1 << 40), min_size=1, max_size=200))
def test_a_histogram_is_never_far_off(tokens: list[int]) -> None:
    """A quantile is at least what it stands for, and no more than an eighth above it; facts keep it whole."""
    found = sizes(*tokens)
    assert RowSizes.of(found.facts()) == found
    expected = found.expect()
    assert expected is not None
    for rank, told in ((len(tokens) // 2, expected.typical_tokens), (len(tokens) * 9 // 10, expected.long_tokens)):
        exact = sorted(tokens)[rank]
        assert exact <= told <= exact * 9 // 8 + 1
