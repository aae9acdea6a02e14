"""The set: every workload, and what xbatch must reach on it."""

from functools import partial

from benchmarks.peers import rows
from benchmarks.peers.alone import Keeping, Pipeline, Small
from benchmarks.peers.claims import CPU, MEMORY, RATE, WHOLE
from benchmarks.peers.commands import Setting
from benchmarks.peers.contest import Bar, Contest, Entrant

TUNED, SHIPPED, CHAT = Entrant("run-batch tuned"), Entrant("run-batch as shipped"), Entrant("LLM.chat")
GENERATE, RAY = Entrant("LLM.generate"), Entrant("Ray Data LLM")
SHUFFLED = "of each document of 830 tokens {} questions, shuffled; 33M-parameter model"
ANYBODY = "39 tokens in, 16 out, no two rows alike; 1M-parameter model"
Workload = Contest | Pipeline | Keeping | Small


def unique() -> Contest:
    """Short unique rows: what a row costs beyond the engine."""
    bars = (
        Bar(TUNED, RATE, 1.25),
        Bar(SHIPPED, RATE, 1.4),
        Bar(CHAT, RATE, 0.97),
        Bar(TUNED, CPU, 1 / 3, at_most=True),
        Bar(TUNED, MEMORY, at_most=True),
    )
    return Contest("unique", ANYBODY, 10_000, {"": rows.unique}, bars, shrinks=0)


def generate() -> Contest:
    """The same against the engine's own offline interface, on token ids."""
    return Contest("generate", ANYBODY, 10_000, {"": rows.unique}, (Bar(GENERATE, RATE),))


def documents() -> Contest:
    """Shared documents of which the cache holds a part."""
    files = {"": rows.over_documents, "sorted": partial(rows.over_documents, shuffled=False)}
    bars = (Bar(TUNED, RATE, 2.3), Bar(Entrant("run-batch tuned", "sorted"), RATE, 0.97))
    says = f"{SHUFFLED.format(20)}, a cache of 5 blocks for each document"
    return Contest("documents", says, 800, files, bars, Setting("33M", kv_blocks=200), shrinks=1.5)


def roomy() -> Contest:
    """The same documents and a cache that holds all: an order can win nothing, and must lose nothing."""
    setting = Setting("33M", kv_bytes=3 << 30)
    files = {"": partial(rows.over_documents, of_each=10)}
    return Contest("roomy", f"{SHUFFLED.format(10)}, cache for all", 400, files, (Bar(TUNED, RATE, 1.0),), setting)


def repeats() -> Contest:
    """Rows asked again."""
    says = "39 tokens in, 16 out, 75 % exact repeats; 1M-parameter model"
    return Contest("repeats", says, 10_000, {"": rows.repeating}, (Bar(TUNED, RATE, 3.0),))


def mixed() -> Contest:
    """Lengths of all sorts, the longest answers at the end."""
    says = "20 to 200 tokens in, 4 to 60 out, the last ones, one in 500, 1500 out; 1M-parameter model"
    return Contest("mixed", says, 3000, {"": rows.mixed}, (Bar(TUNED, RATE, 1.15),), shrinks=0)


def ray() -> Contest:
    """Ray Data LLM with one replica, which has to be set up first."""
    return Contest("ray", ANYBODY, 10_000, {"": rows.unique}, (Bar(RAY, WHOLE, 1.5),))


SET = {
    "small": Small,
    "pipeline": Pipeline,
    "journal": Keeping,
    "unique": unique,
    "repeats": repeats,
    "mixed": mixed,
    "documents": documents,
    "roomy": roomy,
    "generate": generate,
    "ray": ray,
}
"""By name, in the order in which they are run."""
USUAL = tuple(name for name in SET if name not in ("generate", "ray"))
"""What is run if nothing is named; the others add minutes, and one needs an environment of its own."""
