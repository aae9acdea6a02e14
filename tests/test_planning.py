"""Planning: where shards are cut, which ids are repeated, which requests are in flight."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbatch.planning import external_sort
from xbatch.planning.external_sort import ExternalSorter
from xbatch.planning.repeats import RepeatFinder
from xbatch.planning.scheduler import Scheduler
from xbatch.planning.shards import SHARD_BYTES, SHARD_ROWS, ShardCutter
from xbatch.rows.request import CHAT, Request
from xbatch.rows.shard import Shard

IDS = st.lists(st.sampled_from(["", "a", "b", "c", "row-1", "\x00", "ü", "x" * 500]) | st.text(max_size=3), max_size=60)


def cut(cutter: ShardCutter, lines: list[tuple[int, int]]) -> list[Shard]:
    """Shards of lines that are given as file and size; blank lines of one byte stand between them."""
    found, offsets = [], dict.fromkeys(range(10), 0)
    for number, (file, size) in enumerate(lines, 1):
        found.append(cutter.add(file, offsets[file], number, size))
        offsets[file] += size + 1
    found.append(cutter.close())
    return [shard for shard in found if shard is not None]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=60).map(
        lambda x: sorted(x, key=lambda y: y[0])
    ),
    st.integers(1, 7),
    st.integers(1, 100),
)
def test_shards_cover_every_row_within_their_limits(lines: list[tuple[int, int]], rows: int, size: int) -> None:
    """Shards are contiguous, cover every row once, never span files, and keep to their limits if a row does."""
    shards = cut(ShardCutter(rows, size), lines)
    assert sum(s.rows for s in shards) == len(lines)
    assert [s.id for s in shards] == list(range(len(shards)))
    assert len({s.name for s in shards}) == len(shards)
    assert not shards or shards[0].first_row == 0
    for one, two in pairwise(shards):
        assert two.first_row == one.first_row + one.rows
        bigger = one.num_bytes + lines[two.first_row][1] > size
        assert two.file != one.file or one.rows == rows or bigger, "cut without need"
    for shard in shards:
        mine = lines[shard.first_row : shard.first_row + shard.rows]
        assert {file for file, _ in mine} == {shard.file}
        assert shard.num_bytes == sum(n for _, n in mine)
        assert shard.line == shard.first_row + 1
        assert 1 <= shard.rows <= rows
        assert shard.num_bytes <= size or shard.rows == 1


def test_default_limits() -> None:
    """By default a shard ends at 4,096 rows or 32 MiB."""
    assert [s.rows for s in cut(ShardCutter(), [(0, 1)] * (SHARD_ROWS + 1))] == [4096, 1]
    assert [s.rows for s in cut(ShardCutter(), [(0, SHARD_BYTES // 2)] * 3)] == [2, 1]


def test_nothing_makes_no_shard() -> None:
    """Without rows there is no shard."""
    assert ShardCutter().close() is None


def expected_repeats(ids: list[str]) -> list[tuple[int, tuple[int, int]]]:
    first: dict[str, int] = {}
    return [(i, (0, first[x] + 1)) for i, x in enumerate(ids) if first.setdefault(x, i) != i]


def found_repeats(ids: list[str], folder: Path | None = None) -> list[tuple[int, tuple[int, int]]]:
    finder = RepeatFinder(folder)
    for index, custom_id in enumerate(ids):
        finder.add(custom_id, index, (0, index + 1))
    found = list(finder.repeats())
    finder.close()
    return found


@given(IDS)
def test_repeats(ids: list[str]) -> None:
    """Every row whose id an earlier row has is found, in order, with the place of the first."""
    assert found_repeats(ids) == expected_repeats(ids)


@settings(deadline=None)
@given(IDS, st.integers(1, 7), st.integers(1, 3))
def test_repeats_beyond_memory(ids: list[str], run: int, read: int) -> None:
    """The same is found when only a few ids fit into memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RUN_RECORDS", run)
        patch.setattr(external_sort, "READ_RECORDS", read)
        assert found_repeats(ids) == expected_repeats(ids)


def test_many_repeats(tmp_path: Path) -> None:
    """Some hundred thousand rows of a few ids each are told apart, and no spool file is left."""
    ids = [f"id-{i % 70_000}" for i in range(200_000)]
    assert found_repeats(ids, tmp_path) == [(i, (0, i % 70_000 + 1)) for i in range(70_000, 200_000)]
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(st.lists(st.binary(min_size=3, max_size=3)), st.integers(1, 5))
def test_sorter(records: list[bytes], run: int) -> None:
    """Records come out in order, each as often as it went in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RUN_RECORDS", run)
        patch.setattr(external_sort, "READ_RECORDS", 2)
        sorter = ExternalSorter(3)
        for record in records:
            sorter.add(record)
        assert list(sorter) == sorted(records)
        sorter.close()


def request(index: int, num_bytes: int = 10) -> Request:
    return Request(index, f"row-{index}", CHAT, {}, num_bytes)


@given(st.integers(1, 5), st.integers(1, 100), st.lists(st.integers(1, 60), max_size=40), st.randoms())
def test_scheduler(limit: int, max_bytes: int, sizes: list[int], random: object) -> None:
    """Requests leave in the order they came, never more at a time than allowed, and few wait."""
    scheduler = Scheduler(limit, max_bytes)
    feed = [request(i, size) for i, size in enumerate(sizes)]
    waiting: list[Request] = []
    flying: list[Request] = []
    left: list[Request] = []
    while feed or not scheduler.idle:
        while feed and scheduler.hungry:
            assert len(waiting) < limit
            assert sum(r.num_bytes for r in waiting) < max_bytes
            waiting.append(feed.pop(0))
            scheduler.offer(waiting[-1])
        admitted = scheduler.admit()
        assert admitted == waiting[: len(admitted)]
        del waiting[: len(admitted)]
        flying += admitted
        left += admitted
        assert scheduler.in_flight == len(flying) <= limit
        assert not waiting or len(flying) == limit, "a place is free and somebody waits"
        one = random.choice(flying)  # type: ignore[attr-defined]
        flying.remove(one)
        scheduler.settle(one)
    assert [r.index for r in left] == list(range(len(sizes)))


def test_a_row_larger_than_the_bound_gets_through() -> None:
    """A single row larger than all that may wait is not stuck."""
    scheduler = Scheduler(2, 10)
    assert scheduler.hungry
    scheduler.offer(request(0, 1_000))
    assert not scheduler.hungry
    assert [r.index for r in scheduler.admit()] == [0]
    assert scheduler.hungry
