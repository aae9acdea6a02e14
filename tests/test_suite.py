"""The suite itself: what runs beside what."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import group_of
from serving import environment

ONCE = {"demo_server", "mixed_job", "server_answers", "interrupted", "engine_alone"}
"""Fixtures with real engines."""


def test_all_that_have_engines_are_in_one_group(request: pytest.FixtureRequest) -> None:
    """Whoever uses an engine that is started once is in a file that the group knows."""
    for item in request.session.items:
        if not ONCE.isdisjoint(getattr(item, "fixturenames", ())):
            assert group_of(item.nodeid) == "engines"
    assert group_of("tests/test_rows.py::test_a[x::y/z]") == "rows"


def test_groups_stay_together() -> None:
    """Several files with engines run in one process of two, the others in the other."""
    names = ["clients.py::test_every_check_is_run", "examples.py::test_no_example_is_left_out"]
    names += [
        "page_blocks.py::test_mends_are_needed",
        "layers.py::test_no_loops",
        "layers.py::test_every_part_has_a_rule",
    ]
    words = ["-m", "pytest", "-v", "--numprocesses", "2", *(f"tests/test_{name}" for name in names)]
    folder = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {(group_of(name), worker) for worker, name in re.findall(r"\[(gw\d)\].* PASSED (\S+)", done.stdout)}
    assert sorted(group for group, _ in ran) == ["engines", "layers"]
    assert len({worker for _, worker in ran}) == 2
