"""Runs of the real engine that several tests look at, each made once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import serving
from online import Online, online
from servers import MissingServer, Place, Servers, reached
from serving import Body, Ended
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# How long an example takes on a machine that others use too says nothing.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


_LAST = "vllm_jobs"
"""Its engines are nobody else's, and it is short: it runs when one of two processes has nothing else to do."""
_WITH_ENGINES = ("vllm", "demo_answers", "doctor", "clients", "examples", "page_blocks", "serve_vllm", "serve_openapi")


def group_of(nodeid: str) -> str:
    """The tests of a group run in one process: all that share real engines, and else those of a file.

    Two engines at once would starve each other.
    """
    name = nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")
    return "engines" if name.startswith(_WITH_ENGINES) and name != _LAST else name


class Grouped(LoadScopeScheduling):
    """Begins with the groups of the most tests: first the engines' one, which takes the longest.

    xdist's own `loadgroup` knows no groups any more since pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped:
    """Give each process whole groups."""
    return Grouped(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the server that stays until the end behind those that start engines for a while."""
    items.sort(key=lambda item: "demo_server" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Real stores, each of them started by the first test that asks for it."""
    found = Servers(tmp_path_factory.mktemp("servers"))
    yield found
    found.stop()


@dataclass(frozen=True)
class Mixed:
    """One run over every sort of request, and what vLLM's server answers to the same requests."""

    requests: dict[str, tuple[str, Body]]
    run: Ended
    lora: Path


@pytest.fixture(scope="session")
def mixed_job(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """`xbatch run` over all mixed requests and the seeded ones, streaming asked for here and there."""
    folder = tmp_path_factory.mktemp("mixed")
    requests = serving.mixed_requests() | serving.seeded_requests()
    lora = serving.make_lora(folder / "adapter")
    rows = serving.write_rows(folder / "rows.jsonl", serving.rows_of(requests))
    words = [
        "--model",
        "demo",
        "--dtype",
        "float32",
        "--tool-call-parser",
        "hermes",
        "--max-failures",
        "100%",
    ]
    words += [
        "--lora-modules",
        f"styled={lora}",
        "--engine-arg",
        f"kv_cache_memory_bytes={serving.KV_CACHE_BYTES}",
    ]
    return Mixed(requests, serving.run_xbatch(rows, *words), lora)


@pytest.fixture(scope="session")
def server_answers(mixed_job: Mixed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, Body]]:
    """Status code and body that vLLM's own server answers to the same requests under the same settings."""
    words = [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-num-seqs",
        "512",
        "--max-num-batched-tokens",
        "8192",
    ]
    words += ["--no-enable-chunked-prefill", "--kv-cache-memory-bytes", str(serving.KV_CACHE_BYTES)]
    words += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    # On CPUs vLLM 0.32 lends the adapter of its last slot to rows that ask for none, so one slot is left empty here.
    words += ["--enable-lora", "--max-loras", "2", "--lora-modules", f"styled={mixed_job.lora}"]
    with serving.served(tmp_path_factory.mktemp("server") / "log", *words) as address:
        return serving.post_all(address, mixed_job.requests)


@dataclass(frozen=True)
class Interrupted:
    """A job over the demo's questions and long rows: stopped by Ctrl-C with rows in flight, then run again."""

    names: list[str]
    first: Ended
    again: Ended
    output_after_first: bool
    settled_after_first: int
    left: list[str]
    """Processes that outlived the first run."""

    @property
    def rows(self) -> int:
        return len(self.names)


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """The product's defaults, twice: the first run gets SIGINT as from a terminal when its first rows are settled."""
    requests = serving.demo_and_long_requests()
    path = tmp_path_factory.mktemp("interrupted") / "rows.jsonl"
    rows = serving.write_rows(path, [serving.batch_line(name, *request) for name, request in requests.items()])
    words = ["--model", "demo", "--drain-s", "120"]
    first, left = serving.interrupt(rows, *words)
    output_after_first = serving.output_of(rows).exists()
    again = serving.run_xbatch(rows, *words)
    return Interrupted(list(requests), first, again, output_after_first, serving.settled(first), left)


@pytest.fixture(scope="session")
def engine_alone(tmp_path_factory: pytest.TempPathFactory) -> Body:
    """What `VllmEngine` itself gives in a process of its own: the contract's cases, and all demo questions."""
    return serving.run_engine_script(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    """`xbatch serve` with the demo model and its real engine."""
    # Left to itself, the demo model writes nothing but spaces where a schema allows them.
    structured = 'structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": true}'
    words = ("--tool-call-parser", "hermes", "--engine-arg", structured)
    with online(tmp_path_factory.mktemp("serve"), *words) as found:
        yield found


@pytest.fixture
def place(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A new folder in a store, which this process reaches; the store by the test's parameter, S3 without one."""
    try:
        found = servers.place(getattr(request, "param", "s3"))
    except MissingServer as e:
        pytest.skip(str(e))
    with reached(found):
        yield found
    if hasattr(servers, "s3"):
        servers.s3.faults.clear()
        servers.s3.fault_method = "PUT"
