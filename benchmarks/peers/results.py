"""The results of a run as a table for people and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.claims import Claim, spread

HEAD = ("workload", "number", "xbatch", "against", "theirs", "xbatch to theirs", "must be", "holds")


@dataclass(frozen=True, slots=True)
class Results:
    """All that a run has found."""

    machine: Mapping[str, str]
    workloads: Mapping[str, str]
    """What each is, by name."""
    claims: Sequence[Claim]
    runs: Sequence[Mapping[str, Any]]
    """Every command that was run."""


def write(results: Results, folder: Path) -> None:
    """Write `results.json` and `results.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": dict(results.machine),
        "workloads": dict(results.workloads),
        "claims": [_as_json(claim) for claim in results.claims],
        "runs": list(results.runs),
    }
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")


def markdown(results: Results) -> str:
    """The table, and what its words mean."""
    lines = [f"- {name}: {value}" for name, value in results.machine.items()]
    lines += ["", "Medians; in parentheses the least and the most of the rounds.", "", *table(results.claims), ""]
    lines += [f"- {name}: {says}." for name, says in results.workloads.items()]
    return "\n".join(["# xbatch and its peers on one engine", "", *lines]) + "\n"


def table(claims: Sequence[Claim]) -> list[str]:
    """The claims as the lines of a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *map(_row, claims)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _row(claim: Claim) -> tuple[str, ...]:
    def shown(number: float) -> str:
        return f"{number:,.{claim.quantity.digits}f}"

    def ratio(number: float) -> str:
        return f"{number:.2f}"

    bar = ""
    if claim.bar is not None:
        bar = f"{'≤' if claim.at_most else '≥'} {claim.bar:.2f}" if claim.against else f"{shown(claim.bar)}"
        if not claim.against:
            bar = f"{'≤' if claim.at_most else '≥'} {bar}"
    holds = {True: "yes", False: "**no**", None: ""}[claim.holds]
    return (
        claim.workload,
        claim.quantity.name,
        spread(claim.ours, shown),
        claim.against,
        spread(claim.theirs, shown) if claim.against else "",
        spread(claim.ratios, ratio) if claim.against else "",
        bar,
        holds,
    )


def _as_json(claim: Claim) -> dict[str, Any]:
    return {**asdict(claim), "quantity": claim.quantity.name, "ratios": claim.ratios, "holds": claim.holds}
