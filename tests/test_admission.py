"""How many requests an engine gets at a time."""

from xbatch.engines.admission import Admission

PLACES = 100


def run(admission: Admission, steps: int, running: int, waiting: int, preempted: int = 0) -> int:
    for _ in range(steps):
        admission.step(running, waiting, preempted)
    return admission.limit


def test_as_many_wait_as_run_at_first() -> None:
    """All of the running ones may end in one step."""
    assert Admission(PLACES).limit == 2 * PLACES


def test_more_where_a_step_has_starved() -> None:
    """An engine that finds nothing waiting for a free place gets more, up to a bound."""
    admission, before = Admission(PLACES), 0
    for _ in range(20):
        before = admission.limit
        run(admission, 63, PLACES, PLACES)
        run(admission, 1, PLACES - 1, 0)
        assert admission.limit > before or admission.limit == 4 * PLACES
    assert admission.limit == 4 * PLACES


def test_fewer_where_many_wait_all_the_time() -> None:
    """Requests that wait in the engine for long could wait outside, where they can still be put in order."""
    admission = Admission(PLACES)
    for _ in range(2000):
        run(admission, 1, PLACES, admission.limit - PLACES)
    assert PLACES < admission.limit < 2 * PLACES
    assert admission.limit - PLACES <= PLACES // 2 + PLACES // 8


def test_bursts_keep_what_waits() -> None:
    """Where all end in one step now and then, nothing is taken away."""
    admission = Admission(PLACES)
    for step in range(2000):
        run(admission, 1, PLACES, 0 if step % 16 == 0 else PLACES)
    assert admission.limit >= 2 * PLACES


def test_only_what_fits_after_a_preemption() -> None:
    """Requests that have thrown others out of the cache are too many; then one by one more are tried."""
    admission = Admission(PLACES)
    assert run(admission, 1, 37, 120, preempted=3) == 37
    assert run(admission, 63, 37, 0) == 37
    assert 37 < run(admission, 65, 37, 0) <= 40
    assert run(admission, 1, 38, 0, preempted=1) == 38


def test_there_is_always_room_for_one() -> None:
    """Even where nothing fits, something runs."""
    assert run(Admission(1), 1, 0, 5, preempted=1) == 1
