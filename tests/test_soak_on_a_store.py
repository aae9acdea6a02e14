"""Jobs with input, output and state in an object store, killed at random instants until they are done.

`XBATCH_SOAK_S` lengthens it; with `XBATCH_LONG=1` it runs on Ceph's object gateway too.
"""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from servers import Place
from test_cli_run import ENV, command
from test_servers import EXCLUSIVE, answered, fill, lines

SOAK_S = float(os.environ.get("XBATCH_SOAK_S", "20"))
IN_FLIGHT = 4


@pytest.mark.parametrize("place", [name for name in ("s3", "ceph") if name in EXCLUSIVE], indirect=True)
def test_soak(place: Place, tmp_path: Path) -> None:
    """However often a job is killed, every row is answered once, in order, and asked again only if it was in flight."""
    chance = random.Random(7)
    jobs = kills = rows = 0
    until = time.monotonic() + SOAK_S
    while time.monotonic() < until:
        jobs += 1
        count = chance.randrange(50, 200)
        fill(place, {f"in/{jobs}.jsonl": lines(range(count))})
        log = tmp_path / f"log-{jobs}"
        output = f"{place.uri}/out/{jobs}.jsonl"
        settings = {"delay_s": "0.03", "max_in_flight": str(IN_FLIGHT), "log": str(log)}
        arguments = [word for name, value in settings.items() for word in ("--engine-arg", f"{name}={value}")]
        words = command(f"{place.uri}/in/{jobs}.jsonl", "-o", output, *arguments, "--commit-interval-s", "0.5")
        env = {**ENV, **place.env, "XDG_STATE_HOME": str(tmp_path / "state")}
        killed = 0
        while True:
            process = subprocess.Popen(words, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                _, told = process.communicate(timeout=chance.uniform(0.8, 3.5) if killed < 4 else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                continue
            assert process.returncode == 0, told
            break
        assert answered(output) == [f"id-{i}" for i in range(count)]
        asked = [line for line in log.read_text().splitlines() if line != "start"]
        assert len(asked) <= count + killed * IN_FLIGHT
        kills, rows = kills + killed, rows + count
    print(f"{place.uri.partition(':')[0]}: {jobs} jobs, {rows} rows, {kills} kills, none lost, none twice")
    assert kills
