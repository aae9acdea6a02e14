"""Measures xbatch against its peers on the same engine, in turn, on this machine.

    make bench                             the usual set; BENCH="unique mixed" chooses, MINUTES=60 makes more rounds
    python -m benchmarks.peers [--minutes 24] [--rounds 3] [--engine-scale 1] [NAME ...]

Each round runs every workload once, those whose bar is nearest first; a workload begins only if there is time left for
as long as it took before. After each the table (results.md, results.json) and the plots are written anew.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.peers.alone import starts
from benchmarks.peers.bench import Bench
from benchmarks.peers.machine import dtype, machine
from benchmarks.peers.plots import plot
from benchmarks.peers.results import Results, table, write
from benchmarks.peers.workloads import SET, USUAL, Workload

RESULTS = Path(__file__).parent.parent / "results"


def main() -> None:
    """Measure, print and write."""
    words = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SET)}; without one {', '.join(USUAL)}")
    words.add_argument("--minutes", type=float, default=24)
    words.add_argument("--rounds", type=int, default=3, help="at most so many")
    words.add_argument("--scale", type=float, default=1, help="share of the rows, to try the set itself")
    words.add_argument(
        "--engine-scale", type=float, default=_share(), help="share of the rows that engines answer (here %(default)s)"
    )
    words.add_argument("--results", type=Path, default=RESULTS)
    given = words.parse_args()
    if unknown := set(given.names) - set(SET):
        words.error(f"there is no {', '.join(sorted(unknown))}")
    chosen = [SET[name]() for name in SET if name in (given.names or USUAL)]
    ends_s = time.monotonic() + 60 * given.minutes
    about, failed = machine(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.scale, given.engine_scale)
        for number in range(given.rounds):
            for workload in round_order(chosen, bench):
                if time.monotonic() + workload.took_s > ends_s:
                    print(f"{workload.name}: no time for its round {number + 1}", file=sys.stderr)
                    continue
                try:
                    workload.round(bench, number)
                except SystemExit as failure:
                    print(f"{workload.name}: {failure}", file=sys.stderr)
                    failed.append(workload.name)
                results = _results(about, bench, chosen)
                write(results, given.results)
                plot(results.claims, given.results)
        print("\n".join(table(_results(about, bench, chosen).claims)))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _share() -> float:
    """All rows, or where a model takes three times as long so many that the set comes to its end in the usual time."""
    return 1.0 if dtype() == "bfloat16" else 0.4


def round_order(chosen: list[Workload], bench: Bench) -> list[Workload]:
    """Those first that have not run yet or, by a noisy machine, could have been judged wrongly."""

    def least(workload: Workload) -> float:
        return min((claim.margin for claim in workload.claims(bench) if claim.margin is not None), default=0.0)

    return sorted(chosen, key=least)


def _results(about: dict[str, str], bench: Bench, chosen: list[Workload]) -> Results:
    claims = [claim for workload in chosen for claim in workload.claims(bench) if claim.ours]
    says = {each.name: f"{each.rows(bench):,} rows, {each.says}" for each in chosen}
    return Results(about, says, [*claims, *starts(bench)], bench.runs)


if __name__ == "__main__":
    main()
