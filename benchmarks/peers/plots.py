"""Pictures of a run's results, each as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.claims import CPU, RATE, Claim

OURS, THEIRS, BAR = "#1f6feb", "#9aa4b2", "#d1242f"
STYLE = {"svg.hashsalt": "xbatch", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def plot(claims: Sequence[Claim], folder: Path) -> list[Path]:
    """Draw what there is something to draw of, and return the files."""
    made = []
    with mpl.rc_context(STYLE):
        if compared := [claim for claim in claims if claim.ratios and claim.bar is not None]:
            made += _save(_ratios(compared), folder / "ratios")
        if speeds := [claim for claim in claims if claim.quantity is RATE and claim.ratios]:
            made += _save(_numbers(speeds, "rows/s while answering"), folder / "speeds")
        if costs := [claim for claim in claims if claim.quantity is CPU and claim.ratios]:
            made += _save(_numbers(costs, "ms of CPU a row, own processes"), folder / "cpu")
    return made


def _ratios(claims: Sequence[Claim]) -> Figure:
    """How xbatch stands to each peer, on a scale on which half and twice are equally far from 1."""
    figure = Figure(figsize=(9, 1.4 + 0.45 * len(claims)), layout="constrained")
    axes = figure.subplots()
    for height, claim in enumerate(reversed(claims)):
        middle, low, high = median(claim.ratios), min(claim.ratios), max(claim.ratios)
        axes.errorbar(middle, height, xerr=[[middle - low], [high - middle]], fmt="o", color=OURS, capsize=3)
        axes.plot([claim.bar] * 2, [height - 0.35, height + 0.35], color=BAR, linewidth=2)
        axes.annotate(
            f"{middle:.2f}", (max(high, claim.bar or 0), height), (7, -4), textcoords="offset points", color=OURS
        )
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.12)
    names = [f"{each.workload}: {each.quantity.name}, {each.against}" for each in reversed(claims)]
    axes.set_yticks(range(len(claims)), names)
    axes.set_ylim(-0.6, len(claims) - 0.4)
    axes.set_title("xbatch to its peers: median, least and most; red: the bar", loc="left", fontsize=11)
    axes.set_xlabel("ratio (of speeds at least the bar, of CPU time at most)")
    return figure


def _numbers(claims: Sequence[Claim], label: str) -> Figure:
    """A panel for each workload, with a bar for xbatch and one for each peer."""
    names = list(dict.fromkeys(claim.workload for claim in claims))
    figure = Figure(figsize=(9, 0.9 + 0.35 * (len(claims) + len(names)) + 0.5 * len(names)), layout="constrained")
    heights = [1 + sum(claim.workload == name for claim in claims) for name in names]
    panels = figure.subplots(len(names), 1, squeeze=False, height_ratios=heights)
    for name, axes in zip(names, panels[:, 0], strict=True):
        mine = [claim for claim in claims if claim.workload == name]
        bars = {"xbatch": mine[0].ours} | {claim.against: claim.theirs for claim in mine}
        _bars(axes, bars)
        axes.set_title(name, loc="left", fontsize=10)
    panels[-1, 0].set_xlabel(f"{label}: median, least and most")
    return figure


def _bars(axes: Axes, bars: dict[str, tuple[float, ...]]) -> None:
    for height, (name, numbers) in enumerate(reversed(bars.items())):
        middle, low, high = median(numbers), min(numbers), max(numbers)
        axes.barh(height, middle, color=OURS if name == "xbatch" else THEIRS, height=0.7)
        axes.errorbar(middle, height, xerr=[[middle - low], [high - middle]], fmt="none", ecolor="black", capsize=3)
        text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
        axes.annotate(text, (high, height), (6, -4), textcoords="offset points")
    axes.set_yticks(range(len(bars)), list(reversed(bars)))
    axes.margins(x=0.12)
    axes.set_xlim(left=0)


def _save(figure: Figure, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [path.with_suffix(".png"), path.with_suffix(".svg")]
    figure.savefig(made[0], dpi=144)
    figure.savefig(made[1], metadata={"Date": None})
    return made
