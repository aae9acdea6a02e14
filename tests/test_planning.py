"""Planning: where shards are cut, which ids are repeated, which requests are in flight."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, log2
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbatch.planning import external_sort
from xbatch.planning.dedupe import Dedupe, answer_key
from xbatch.planning.external_sort import ExternalSorter
from xbatch.planning.lengths import Lengths, length_class
from xbatch.planning.prefixes import Sharing, common_tokens, sharing
from xbatch.planning.repeats import RepeatFinder
from xbatch.planning.scheduler import Scheduler
from xbatch.planning.shards import SHARD_BYTES, SHARD_ROWS, ShardCutter
from xbatch.planning.waiting import Order, Waiting, waiting_bytes
from xbatch.rows.outcome import Completion, Failure, Outcome, Usage
from xbatch.rows.request import CHAT, COMPLETIONS, Prompt, Request
from xbatch.rows.shard import Shard

LONG = ["x" * 500, *("y" * size + end for size in (14, 15, 16) for end in ("", "\x00", "ü"))]
IDS = st.lists(st.sampled_from(["", "a", "b", "row-1", "\x00", "ü", *LONG]) | st.text(max_size=3), max_size=60)


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
        finder.add(custom_id.encode(), index, 0, index + 1)
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


GIVEN = st.sampled_from(["a", "row-0", "row-1", "row-2", "row-1.1", "row-2.1", "row-2.999", "row-0.1x", "row-.1"])
ROWS = st.lists(st.tuples(st.integers(0, 2), st.none() | GIVEN), max_size=30).map(
    lambda x: sorted(x, key=lambda y: y[0])
)


@settings(deadline=None)
@given(ROWS, st.integers(1, 4))
def test_ids_of_several_files(rows: list[tuple[int, str | None]], run: int) -> None:
    """Ids are unique in a file, generated ones in the job, given ones stay; what another file has too is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RUN_RECORDS", run)
        finder = RepeatFinder()
        for index, (file, name) in enumerate(rows):
            key = (name or f"row-{index}").encode()
            finder.add(key, index, file, index + 1, generated=name is None)
        found = dict(finder.repeats())
        finder.close()
    given_ids = {name for _, name in rows if name is not None}
    first_in_file: dict[tuple[int, str], int] = {}
    shared = []
    for index, (file, name) in enumerate(rows):
        if name is None:
            assert (index in found) == (f"row-{index}" in given_ids)
            assert found.get(index) is None
        elif (file, name) in first_in_file:
            assert found.pop(index) == (file, first_in_file[file, name])
        else:
            assert index not in found
            if any(name == other for other_file, other in rows if other_file < file):
                shared.append(index)
            first_in_file[file, name] = index + 1
    made = [finder.replaced_key(i) if i in found else f"row-{i}" for i, (_, name) in enumerate(rows) if name is None]
    assert len({*made}) == len(made)
    assert given_ids.isdisjoint(made)
    assert finder.shared == len(shared)
    if shared:
        file, name = rows[shared[0]]
        earlier = next(i for i, (_, other) in enumerate(rows) if other == name)
        assert finder.first_shared == ((file, shared[0] + 1), (rows[earlier][0], earlier + 1))


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


@given(st.integers(1, 5), st.integers(1, 10_000), st.lists(st.integers(1, 2_000), max_size=40), st.randoms())
def test_scheduler(limit: int, look_ahead: int, sizes: list[int], random: object) -> None:
    """Requests leave in the order they came, never more at a time than allowed, and no more wait than memory."""
    scheduler = Scheduler(limit, look_ahead)
    feed = [request(i, size) for i, size in enumerate(sizes)]
    waiting: list[Request] = []
    flying: list[Request] = []
    left: list[Request] = []
    while feed or not scheduler.idle:
        while feed and scheduler.hungry():
            assert sum(map(waiting_bytes, waiting)) < look_ahead
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
    assert scheduler.hungry()
    scheduler.offer(request(0, 1_000))
    assert not scheduler.hungry()
    assert [r.index for r in scheduler.admit()] == [0]
    assert scheduler.hungry()
    assert not scheduler.hungry(10)


@dataclass
class Trial:
    """What came of the rows that a scheduler held."""

    flights: list[list[int]] = field(default_factory=list)
    """What was in flight each time that the engine had been given something."""
    settled: list[int] = field(default_factory=list)
    guilty: list[int] = field(default_factory=list)
    deaths: list[list[int]] = field(default_factory=list)
    """What was in flight at each death."""


def drive(scheduler: Scheduler, poison: set[int], settled_first: Callable[[int], int] = lambda _: 0) -> Trial:
    """Run all that a scheduler holds over an engine that dies whenever a poisonous row is in flight.

    `settled_first` tells of so many innocent rows in flight how many are settled before each death.
    """
    trial = Trial()
    flying: dict[int, Request] = {}
    while not scheduler.idle:
        admitted = scheduler.admit()
        flying |= {r.index: r for r in admitted}
        assert flying, "something waits and nothing runs"
        assert scheduler.in_flight == len(flying)
        trial.flights.append([*flying])
        innocent = [r for r in flying.values() if r.index not in poison]
        died = len(innocent) < len(flying)
        for each in innocent[: settled_first(len(innocent)) if died else 1]:
            scheduler.settle(flying.pop(each.index))
            trial.settled.append(each.index)
        if died:
            trial.deaths.append([*flying])
            trial.guilty += [r.index for r in scheduler.engine_died()]
            flying.clear()
            assert scheduler.in_flight == 0
    return trial


def offered(limit: int, rows: int) -> Scheduler:
    scheduler = Scheduler(limit)
    for index in range(rows):
        assert scheduler.offer(request(index))
    return scheduler


def test_rows_in_flight_at_a_death_wait_again() -> None:
    """Rows that were in flight when the engine died come after those that wait, in their order."""
    scheduler = offered(2, 5)
    assert [r.index for r in scheduler.admit()] == [0, 1]
    assert scheduler.engine_died() == []
    order = []
    while not scheduler.idle:
        for each in scheduler.admit():
            order.append(each.index)
            scheduler.settle(each)
    assert order == [2, 3, 4, 0, 1]


def test_suspects_run_last_in_halves() -> None:
    """Rows in flight at two deaths run when nothing else is left, by halves, and each half is halved if it kills."""
    scheduler = offered(4, 8)
    for expected in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]):
        assert [r.index for r in scheduler.admit()] == expected
        assert not scheduler.alone
        scheduler.engine_died()
    trial = drive(scheduler, {2})
    rest = [flight for flight in trial.flights if not {*flight} & {4, 5, 6, 7}]
    assert trial.flights[: -len(rest)] == [[4, 5, 6, 7], [5, 6, 7], [6, 7], [7]]
    assert rest == [[0, 1], [1], [2, 3], [2], [2], [3]]
    assert trial.guilty == [2]
    assert trial.settled == [4, 5, 6, 7, 0, 1, 3]


def test_suspects_wait_for_rows_that_come_later() -> None:
    """While suspects run by themselves nothing joins them; a row that comes meanwhile runs before the next ones."""
    scheduler = offered(4, 4)
    for _ in range(2):
        scheduler.admit()
        scheduler.engine_died()
    first = scheduler.admit()
    assert [r.index for r in first] == [0, 1]
    assert scheduler.offer(request(9))
    assert scheduler.admit() == []
    scheduler.settle(first[0])
    assert scheduler.admit() == []
    scheduler.settle(first[1])
    [later] = scheduler.admit()
    assert later.index == 9
    assert not scheduler.alone, "more rows could have joined it"
    scheduler.settle(later)
    assert [r.index for r in scheduler.admit()] == [2, 3]


def test_guilty_is_who_kills_twice_alone() -> None:
    """A row with which the engine dies twice while no other is in flight is given back, and does not run again."""
    scheduler = offered(1, 1)
    blamed = []
    for alone in (False, False, True, True):
        assert len(scheduler.admit()) == 1
        assert scheduler.alone == alone
        blamed.append([r.index for r in scheduler.engine_died()])
    assert blamed == [[], [], [], [0]]
    assert scheduler.idle


def test_one_bad_moment_condemns_nobody() -> None:
    """A suspect that runs well by itself is settled like any other."""
    scheduler = offered(1, 1)
    for _ in range(3):
        scheduler.admit()
        assert scheduler.engine_died() == []
    [only] = scheduler.admit()
    scheduler.settle(only)
    assert scheduler.idle


@pytest.mark.parametrize(
    ("strikes", "alone", "runs_after_others"), [(0, 0, False), (1, 0, False), (2, 0, True), (3, 1, True)]
)
def test_strikes_of_earlier_processes(strikes: int, alone: int, runs_after_others: bool) -> None:
    """What a row did to earlier processes counts: with two deaths it is a suspect from the beginning."""
    scheduler = Scheduler(4)
    assert scheduler.offer(request(0), strikes, alone)
    assert scheduler.offer(request(1))
    first = [r.index for r in scheduler.admit()]
    assert first == ([1] if runs_after_others else [0, 1])


def test_deaths_of_earlier_processes_count() -> None:
    """Each death that a row brings with it spares the engine one, and a row that has killed alone twice is refused."""
    deaths = []
    for strikes, alone in ((0, 0), (1, 0), (2, 0), (3, 1)):
        scheduler = Scheduler(4)
        assert scheduler.offer(request(0), strikes, alone)
        trial = drive(scheduler, {0})
        assert trial.guilty == [0]
        deaths.append(len(trial.deaths))
    assert deaths == [4, 3, 2, 1]
    scheduler = Scheduler(4)
    assert not scheduler.offer(request(0), 4, 2)
    assert scheduler.idle


def test_engine_that_dies_with_nothing_in_flight() -> None:
    """A death while nothing is in flight is nobody's fault."""
    scheduler = offered(4, 2)
    assert scheduler.engine_died() == []
    assert [r.index for r in scheduler.admit()] == [0, 1]


@settings(deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(1, 70))
def test_poison_is_found(data: st.DataObject, rows: int, limit: int) -> None:
    """Just the poisonous rows end as guilty, all others are settled, at a number of deaths that is bounded.

    Each of p poisonous rows costs at most 2 deaths in company, one for each time that the half of a flight in which
    it is suspected can be halved, and 2 alone: p * (4 + ceil(log2(ceil(limit / 2)))) in all.
    """
    poison = data.draw(st.sets(st.integers(0, rows - 1), max_size=6))
    strikes = data.draw(st.dictionaries(st.integers(0, rows - 1), st.integers(0, 3), max_size=5))
    lucky = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    scheduler = Scheduler(limit)
    for index in range(rows):
        assert scheduler.offer(request(index), strikes.get(index, 0))
    trial = drive(scheduler, poison, lambda innocent: ceil(innocent * lucky))
    assert {*trial.guilty} == poison
    assert len(trial.guilty) == len(poison)
    assert sorted(trial.settled) == sorted({*range(rows)} - poison)
    assert len(trial.deaths) <= len(poison) * (4 + ceil(log2(ceil(limit / 2))))
    assert all(len(flight) <= limit for flight in trial.flights)
    blamed = [died[0] for died in trial.deaths if len(died) == 1]
    assert all(blamed.count(index) >= 2 for index in poison)


# The order of what waits.


def prompted(index: int, text: str, max_tokens: int = 16) -> Request:
    prompt = Prompt(text.encode("utf-32-be"), max_tokens)
    return Request(index, f"row-{index}", CHAT, {}, 10, prompt=prompt)


def drained(waiting: Waiting) -> list[int]:
    return [waiting.take().index for _ in range(len(waiting))]


@given(st.binary(max_size=400), st.binary(max_size=400), st.binary(max_size=400))
def test_common_tokens(same: bytes, one: bytes, two: bytes) -> None:
    """The common beginning of two prompts is counted in whole tokens."""
    one, two = same + one, same + two
    equal = next((i for i in range(min(len(one), len(two))) if one[i] != two[i]), min(len(one), len(two)))
    assert common_tokens(one, two) == equal // 4


def test_sharing() -> None:
    """What is shared is what the prompt before has in common; distinct prefixes are counted once each."""
    prompts = [f"{group}{'x' * 15}{i:016}".encode("utf-32-be") for group in "ab" for i in range(5)]
    found = sharing(prompts, 16)
    assert found == Sharing(tokens=320, shared=128, distinct=32)
    assert sharing([], 16) == Sharing()
    assert sharing(prompts[:1], 16).shared == 0


@pytest.mark.parametrize("groups", [1, 50, 20_000])
def test_sharing_of_many_is_estimated(groups: int) -> None:
    """Of many prompts a part is looked at, in whole groups, and tells about the same of all."""
    prompts = [f"{i % groups:016}{i:016}".encode("utf-32-be") for i in range(40_000)]
    whole, part = sharing(prompts, 16, most=len(prompts)), sharing(prompts, 16)
    assert part.tokens == pytest.approx(whole.tokens)
    assert part.shared == pytest.approx(whole.shared, rel=0.2)
    assert part.distinct == pytest.approx(whole.distinct, rel=0.3, abs=30 * 16)


TEXTS = st.sampled_from(["", "a", "ab", "abc" * 30, "abd" * 30, "b"])
OFFER = st.tuples(TEXTS, st.sampled_from([0, 1, 16, 64, 4096]), st.booleans())


@settings(deadline=None)
@given(
    st.sampled_from(["auto", "input", "prefix"]),
    st.lists(st.one_of(OFFER, st.integers(1, 20)), max_size=150),
    st.integers(0, 200),
    st.integers(1, 8),
)
def test_everything_comes_out_once(order: Order, steps: list[object], cache: int, running: int) -> None:
    """Whatever the order and whatever comes meanwhile, each request comes out exactly once."""
    waiting = Waiting(order, running)
    waiting.know_cache(cache, 4)
    came, out = 0, []
    for step in steps:
        if isinstance(step, int):
            for _ in range(min(step, len(waiting))):
                taken = waiting.take()
                waiting.lengths.learn(taken, taken.index % 50)
                out.append(taken.index)
        else:
            text, max_tokens, has_prompt = step  # type: ignore[misc]
            waiting.add(prompted(came, text, max_tokens) if has_prompt else request(came))
            came += 1
    out += drained(waiting)
    assert sorted(out) == list(range(came))
    assert waiting.num_bytes == 0
    if order == "input":
        assert out == sorted(out)


def grouped(rows: int, groups: int, shared: int) -> list[Request]:
    """Requests that share the beginning of their prompts with every `groups`-th one."""
    return [prompted(i, f"{i % groups:02}{'x' * shared}{i:016}") for i in range(rows)]


@pytest.mark.parametrize(
    ("order", "cache", "shared", "together"),
    [
        ("auto", 10_000, 256, True),
        ("auto", 100_000, 256, False),  # all prefixes fit
        ("auto", 0, 256, False),  # nothing is kept
        ("auto", 10_000, 0, False),  # nothing is shared
        ("prefix", 0, 256, True),
        ("input", 10_000, 256, False),
    ],
)
def test_order(order: Order, cache: int, shared: int, together: bool) -> None:
    """Prompts that begin alike run together where the cache can't keep what all of them share, or if told so."""
    waiting = Waiting(order, 4)
    waiting.know_cache(cache, 16)
    for each in grouped(1_000, 100, shared):
        waiting.add(each)
    out = drained(waiting)
    runs = sum(one % 100 != two % 100 for one, two in pairwise(out)) + 1
    assert runs == (100 if together else 1_000)
    assert together or out == sorted(out)


def test_rounds_keep_nobody_waiting() -> None:
    """With prompts deciding, a request is taken after at most one round, however many come before it in order."""
    waiting = Waiting("prefix")
    for index, text in enumerate(["m", "z"]):
        waiting.add(prompted(index, text))
    assert waiting.take().index == 0
    for index in range(2, 50):
        waiting.add(prompted(index, "a"))
    assert waiting.take().index == 1


def test_long_answers_first() -> None:
    """Requests whose answers may be four times as long as the median run first, the longest first of all."""
    limits = [10] * 20 + [30, 50, 2_000] + [10] * 20
    waiting = Waiting("auto")
    for index, limit in enumerate(limits):
        waiting.add(prompted(index, f"{index}", limit))
    out = drained(waiting)
    assert out == [22, 21, *(i for i in range(43) if i not in (21, 22))]


def test_prefixes_before_length() -> None:
    """Where prompts decide, a long answer waits for its place, unless it would be the tail."""
    for limit, first in ((100, 0), (5_000, 99)):
        waiting = Waiting("prefix")
        for index in range(100):
            waiting.add(prompted(index, f"{index:02}", limit if index == 99 else 10))
        assert waiting.take().index == first


def test_lengths_are_learnt() -> None:
    """What is allowed is expected at first, then what others of the same shape have had."""
    lengths, one = Lengths(), prompted(0, "abc", 1_000)
    assert lengths.expected(one) == 1_000
    for _ in range(10):
        lengths.learn(prompted(1, "xyz", 1_000), 20)
    assert lengths.expected(one) == 20
    assert lengths.expected(prompted(2, "abc" * 100, 1_000)) == 1_000
    assert lengths.expected(request(3)) == 0
    assert [length_class(n, 10) for n in (0, 10, 39, 40, 159, 160, 640)] == [0, 0, 0, 1, 1, 2, 3]


def test_suspects_wait_for_rows_that_are_being_read() -> None:
    """While rows are being read that may run before them, suspects do not begin."""
    scheduler = Scheduler(4)
    assert scheduler.offer(request(0), 2)
    assert scheduler.admit(more=True) == []
    assert [r.index for r in scheduler.admit()] == [0]


# Repeats.


def asking(index: int, **body: object) -> Request:
    return Request(index, f"row-{index}", CHAT, body, 10)


def test_which_answers_are_sure() -> None:
    """Only rows at temperature 0 or with a seed are the same, and only if all else is."""
    sure = [{"temperature": 0}, {"temperature": 0.0}, {"seed": 7}, {"temperature": 1, "seed": 0}]
    unsure: list[dict[str, object]] = [{}, {"temperature": 0.1}, {"temperature": False}, {"seed": True}, {"seed": None}]
    assert all(answer_key(asking(0, prompt="p", **body)) for body in sure)
    assert not any(answer_key(asking(0, prompt="p", **body)) for body in unsure)
    answer_key(asking(0, prompt="p", seed=1 << 80))
    one = answer_key(asking(0, prompt="p", seed=1))
    assert one == answer_key(asking(5, prompt="p", seed=1))
    others = [asking(0, prompt="q", seed=1), asking(0, prompt="p", seed=2), asking(0, prompt="p", seed=1, n=2)]
    others += [Request(0, "", COMPLETIONS, {"prompt": "p", "seed": 1}, 10)]
    others += [Request(0, "", CHAT, {"prompt": "p", "seed": 1}, 10, to_context_end=True)]
    assert one not in {answer_key(other) for other in others}


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60), st.data(), st.sampled_from([0, 1_000, 1 << 20]))
def test_dedupe(keys: list[int], data: st.DataObject, kept_bytes: int) -> None:
    """Every row gets its own key's outcome exactly once, one row of a key runs at a time, and nothing is left."""
    dedupe = Dedupe(lambda _, outcome: outcome, kept_bytes)
    running: dict[int, Request] = {}
    outcomes: dict[int, Outcome] = {}

    def land() -> None:
        one = running.pop(data.draw(st.sampled_from(sorted(running))))
        retryable = data.draw(st.booleans())
        outcome = Failure("x", str(keys[one.index]), retryable)
        assert one.index not in outcomes
        outcomes[one.index] = outcome
        for follower, its in dedupe.settle(one, outcome):
            assert follower.index not in outcomes
            outcomes[follower.index] = its
        if (leader := dedupe.next_leader(one)) is not None:
            running[leader.index] = leader

    for index, key in enumerate(keys):
        known = dedupe.join(one := asking(index), bytes([key]))
        if known is True:
            assert key not in {keys[other] for other in running}
            running[index] = one
        elif known is not False:
            outcomes[index] = known
        if running and data.draw(st.booleans()):
            land()
    while running:
        land()
    assert {index: outcome.message for index, outcome in outcomes.items() if isinstance(outcome, Failure)} == {
        index: str(key) for index, key in enumerate(keys)
    }
    assert dedupe.num_bytes == 0


def test_outcomes_are_kept_within_bounds() -> None:
    """Of outcomes that are kept, those that were asked for longest ago go first."""
    dedupe = Dedupe(lambda _, outcome: outcome, 3_000)
    for index in range(3):
        assert dedupe.join(asking(index), bytes([index])) is True
        dedupe.settle(asking(index), Completion(b"x" * 1_000, Usage(1, 1)))
        assert dedupe.join(asking(9), b"\x00") is not True
    assert [dedupe.knows(bytes([index])) for index in range(3)] == [True, False, True]
