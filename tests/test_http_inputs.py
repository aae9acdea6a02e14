"""Inputs over HTTP, and the trouble that servers of every kind answer with."""

import asyncio
import errno
import json
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from test_cli_run import ENV, chat, command

from xbatch import storage
from xbatch.errors import ExitCode, PlaceUnusable, StorageError, StorageUnavailable, UsageError
from xbatch.sources.looking import reading
from xbatch.storage import StorageSettings, remote_reader, retrying, trouble
from xbatch.storage.retrying import Retrying

BLOCK = 64 << 10
SHORT_S = 0.4
"""Trouble that does not end is waited out for so long."""
LONG_S = 60.0
"""Trouble that ends has ended by then."""
DATA = bytes(range(256)) * 1024
PASSING = (408, 425, 429, 500, 502, 503, 504)
REFUSED = (401, 403)
ABSENT = (404, 410)
LASTING = (400, 405, 451, 501)


@dataclass
class Site:
    """A server that holds one file at every path and does with requests what it is told."""

    address: str = ""
    data: bytes = DATA
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    status: int = 200
    """What every request gets instead, if it is not 200."""
    faults: list[int | str] = field(default_factory=list)
    """What befalls the next requests, one each: a status, `half` or `hang-up`."""
    fault_headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    """Parts of the file are sent."""
    has_length: bool = True
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - the nested methods are counted
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.seen.append((self.command, self.path, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = site.faults.pop(0) if site.faults else site.status
            if fault == "hang-up":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif isinstance(fault, int) and fault != 200:
                self._send(fault, site.fault_headers, b"")
            elif self.path.startswith("/moved"):
                self._send(302, {"Location": "/x" if self.path == "/moved" else self.path}, b"")
            else:
                self._send_file(half=fault == "half")

        do_HEAD = do_GET  # noqa: N815 - the base class names them so

        def _send_file(self, *, half: bool) -> None:
            status, data, headers = 200, site.data, dict(site.headers)
            asked = self.headers.get("Range")
            same = self.headers.get("If-Range") in (None, site.headers.get("ETag"))
            if asked and site.ranges and same:
                first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
                status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{len(data)}"
                data = data[first : last + 1]
            self._send(status, headers, data, half=half)

        def _send(self, status: int, headers: dict[str, str], data: bytes, *, half: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if site.has_length or status != 200:
                self.send_header("Content-Length", str(len(data)))
            else:
                self.close_connection = True
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if half else data)
            self.close_connection |= half

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def serving(site: Site, port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Site]:
    server = _Server(("127.0.0.1", port), _handler(site))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.address = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as served:
        yield served


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trouble is waited out for a moment, and blocks are small."""
    monkeypatch.setattr(remote_reader, "REMOTE_BLOCK_BYTES", BLOCK)
    monkeypatch.setattr("xbatch.storage.reading.READ_BUFFER_BYTES", BLOCK)
    with storage.using(StorageSettings(budget_s=SHORT_S)):
        yield


def _closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


# Every status at every operation.

Ask = Callable[[str], object]


def _read_all(uri: str) -> bytes:
    with storage.open_read(uri) as file:
        return file.read()


@pytest.mark.parametrize("status", [*PASSING, *REFUSED, *ABSENT, *LASTING])
@pytest.mark.parametrize("ask", [storage.stat, storage.size_of, _read_all], ids=["stat", "size_of", "open"])
def test_a_status_says_what_it_means(site: Site, status: int, ask: Ask) -> None:
    """Trouble that passes is waited for, a refusal is one, and only 404 and 410 mean that there is no such file."""
    site.status = status
    uri = f"{site.address}/x.jsonl"
    if status in PASSING:
        with pytest.raises(StorageUnavailable, match=f"{status} "):
            ask(uri)
    elif status in ABSENT and ask is storage.size_of:
        assert ask(uri) is None
    elif status in ABSENT:
        with pytest.raises(FileNotFoundError) as raised:
            ask(uri)
        assert raised.value.filename == uri
    else:
        with pytest.raises(PermissionError, match=rf"refused \({status}") as refused:
            ask(uri)
        assert refused.value.filename == uri
        assert ("signed address expired" in str(refused.value)) is (status in REFUSED)


@pytest.mark.parametrize("status", [*PASSING, *REFUSED, *ABSENT, *LASTING])
def test_a_status_in_the_middle(site: Site, status: int) -> None:
    """A file that is open when trouble comes is read to its end once that has passed, and otherwise ends the job."""
    settings = StorageSettings(budget_s=LONG_S if status in PASSING else SHORT_S)
    with storage.using(settings), storage.open_read(f"{site.address}/x") as file:
        begun = file.read(1)
        site.faults[:] = [status] * (2 if status in PASSING else 100)
        if status in PASSING:
            assert begun + file.read() == DATA
            assert not site.faults
        else:
            said = "was removed while it was read" if status in ABSENT else str(status)
            with pytest.raises(StorageError, match=f"{site.address}/x:? .*{said}") as raised:
                file.read()
            assert raised.value.exit_code is ExitCode.STORAGE


@pytest.mark.parametrize("fault", ["hang-up", "half"])
def test_connections_that_break(site: Site, fault: str) -> None:
    """A connection that is cut costs nothing of what is read."""
    site.faults[:] = [fault]
    with storage.using(StorageSettings(budget_s=LONG_S)), storage.open_read(f"{site.address}/x") as file:
        begun = file.read(1)
        site.faults[:] = [fault] * 2
        assert begun + file.read() == DATA


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, r"/x\?\*\*\* can't be read: refused \(403\): has the signed address expired\?$"),
        (401, r"can't be read: refused \(401\): has the signed address expired\?$"),
        (404, r"/x\?\*\*\* does not exist$"),
        (410, r"/x\?\*\*\* does not exist \(410 Gone\)$"),
        (400, r"can't be read: refused \(400 Bad Request\)$"),
    ],
)
def test_what_the_user_is_told(site: Site, status: int, said: str) -> None:
    """A refusal is told by its status and what may be the matter."""
    site.status = status
    uri = f"{site.address}/x?sig=1"
    with pytest.raises(UsageError, match=said), reading(uri):
        storage.open_read(uri)


def test_a_server_that_says_nothing() -> None:
    """A server that takes the connection and never answers is waited for as long as was said, no longer."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(StorageUnavailable):
            storage.stat(f"http://127.0.0.1:{mute.getsockname()[1]}/x")


# Servers of HTTP that are peculiar.


def test_a_file_that_changes(site: Site) -> None:
    """The rest of another version is never read as the rest of this one."""
    with storage.open_read(f"{site.address}/x") as file:
        file.read(1)
        site.data, site.headers = DATA[::-1], {"ETag": '"two"'}
        with pytest.raises(StorageError, match="was changed while it was read"):
            file.read()


def test_a_weak_etag_is_no_condition(site: Site) -> None:
    """Servers compare weak ETags as never equal, and would send the whole file."""
    site.headers = {"ETag": 'W/"one"'}
    assert _read_all(f"{site.address}/x") == DATA
    assert not any("If-Range" in headers for _, _, headers in site.seen)


def test_own_headers_are_kept(site: Site) -> None:
    """What the user sends along goes along with every request, conditions or not."""
    options = storage.parse_options({"headers.Authorization": "Bearer me"})
    with storage.using(StorageSettings(options, budget_s=SHORT_S)):
        assert _read_all(f"{site.address}/x") == DATA
    assert {headers.get("Authorization") for _, _, headers in site.seen} == {"Bearer me"}
    assert any(headers.get("If-Range") == '"one"' for _, _, headers in site.seen)


def test_a_server_without_parts(site: Site) -> None:
    """A file of one block needs no parts; a larger one can't be read, which is said so."""
    site.ranges = False
    with pytest.raises(PlaceUnusable, match=r"does not send parts of a file \(HTTP Range\)"):
        _read_all(f"{site.address}/x")
    site.data = DATA[:BLOCK]
    assert _read_all(f"{site.address}/x") == DATA[:BLOCK]


def test_a_server_that_tells_no_length(site: Site) -> None:
    """What has no length can't be read from where reading was interrupted."""
    site.has_length = False
    with pytest.raises(PlaceUnusable, match="does not tell how large it is; download it first"):
        storage.stat(f"{site.address}/x")


def test_redirects(site: Site) -> None:
    """A redirection is followed; one in a circle is no file that does not exist."""
    assert _read_all(f"{site.address}/moved") == DATA
    with pytest.raises(StorageError) as raised:
        storage.stat(f"{site.address}/moved-for-ever")
    assert not isinstance(raised.value, StorageUnavailable)


# Every protocol, by its real client.

ANON = {"endpoint_url": "{address}", "token": "anon"}
KEYS = {"endpoint_url": "{address}", "key": "a", "secret": "b", "client_kwargs": {"region_name": "us-east-1"}}
AZURE = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;BlobEndpoint={address}/a"
PROTOCOLS: dict[str, dict[str, Any]] = {"s3": KEYS, "gs": ANON, "abfs": {"connection_string": AZURE}}


def _options(protocol: str, address: str) -> dict[str, Any]:
    text = json.dumps(PROTOCOLS[protocol]).replace("{address}", address)
    options: dict[str, Any] = json.loads(text)
    return options


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the libraries themselves wait between tries takes no time."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _seconds, *result: sleep(0, *result))
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    warnings.simplefilter("ignore")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_client_says_what_it_means(site: Site, protocol: str, status: int) -> None:
    """A store's answer means the same whichever library it comes through, to stat, to list and to look."""
    site.status = status
    place, options = f"{protocol}://bucket/folder", _options(protocol, site.address)
    with storage.using(StorageSettings(options, budget_s=SHORT_S)):
        if status in PASSING:
            for ask in (storage.stat, storage.expand, storage.exists, storage.size_of, storage.names_beside):
                with pytest.raises(StorageUnavailable):
                    ask(f"{place}/*" if ask is storage.expand else f"{place}/x")
        elif status in ABSENT:
            with pytest.raises(FileNotFoundError):
                storage.stat(f"{place}/x")
            assert storage.size_of(f"{place}/x") is None
            assert not storage.exists(f"{place}/x")
            assert storage.expand(f"{place}/*") == []
        else:
            with pytest.raises(PermissionError, match="refused: "):
                storage.stat(f"{place}/x")
            with pytest.raises(StorageError):
                storage.exists(f"{place}/x")
            assert storage.expand(f"{place}/*") == [f"{place}/*"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("protocol", ["http", "sftp", *PROTOCOLS])
def test_a_server_that_is_down(protocol: str) -> None:
    """Refused connections are waited for, whatever library has been refused."""
    address = f"127.0.0.1:{_closed_port()}"
    options = _options(protocol, f"http://{address}") if protocol in PROTOCOLS else {}
    uri = f"{protocol}://bucket/x" if protocol in PROTOCOLS else f"{protocol}://{address}/x"
    with storage.using(StorageSettings(options, budget_s=SHORT_S)), pytest.raises(StorageUnavailable):
        storage.stat(uri)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
@pytest.mark.parametrize("protocol", ["http", "sftp", *PROTOCOLS])
def test_unknown_hosts(monkeypatch: pytest.MonkeyPatch, protocol: str, code: int) -> None:
    """A host that does not exist is a mistake, told with its name; a name server that can't tell is waited for."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(code, "as told")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    host = "no-such-host.example"
    options = _options(protocol, f"http://{host}") if protocol in PROTOCOLS else {}
    uri = f"{protocol}://bucket/x" if protocol in PROTOCOLS else f"{protocol}://{host}/x"
    with storage.using(StorageSettings(options, budget_s=SHORT_S)):
        if code == socket.EAI_AGAIN:
            with pytest.raises(StorageUnavailable):
                storage.stat(uri)
        else:
            with pytest.raises(PlaceUnusable, match=host) as raised:
                storage.stat(uri)
            assert raised.value.exit_code is ExitCode.UNUSABLE
            if protocol in PROTOCOLS:
                # Watchers give a file up for a UsageError, and a name server may know the host later.
                with pytest.raises(PlaceUnusable, match=f"the output can't be written: .*{host}"):
                    storage.check_uri_writable(uri)


def test_a_host_that_was_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has answered exists: a name server that does not know it any more is waited for."""
    uri = site.address.replace("127.0.0.1", "localhost") + "/x"
    settings = StorageSettings({"client_kwargs": {"trust_env": False}}, budget_s=SHORT_S)
    with storage.using(settings):
        storage.stat(uri)

    def refuse(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "as told")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    kind = fsspec.get_filesystem_class("http")
    kind.clear_instance_cache()  # and with it the connection that is open
    with storage.using(settings), pytest.raises(StorageUnavailable, match="there is no host localhost"):
        storage.stat(uri)


def _self_signed(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "me")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key").write_bytes(key.private_bytes(*form))
    (folder / "cert").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


def test_certificates(site: Site, tmp_path: Path) -> None:
    """A certificate that is not trusted, and a server that speaks no TLS, are not waited for."""
    with (
        serving(Site(), context=_self_signed(tmp_path)) as safe,
        pytest.raises(PlaceUnusable, match="certificate is not trusted"),
    ):
        storage.stat(f"{safe.address}/x")
    with pytest.raises(PlaceUnusable, match="does not speak TLS"):
        storage.stat(site.address.replace("http", "https") + "/x")


# What errors mean, without a server.


def _from(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


def _while(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__context__ = inner
    return outer


class _Coded(Exception):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (FileNotFoundError("x"), "ABSENT"),
        (_from(FileNotFoundError("x"), KeyError("x")), "ABSENT"),
        (_from(FileNotFoundError("x"), _Coded(404)), "ABSENT"),
        (_from(FileNotFoundError("x"), _Coded(503)), "PASSING"),
        (_from(FileNotFoundError(errno.ENOENT, "x"), _Coded(503)), "PASSING"),
        (_from(FileNotFoundError("x"), _Coded(403)), "REFUSED"),
        (_from(FileNotFoundError("x"), RuntimeError("x")), "LASTING"),
        (_from(FileNotFoundError("x"), OSError(errno.EIO, "x")), "LASTING"),
        (_while(FileNotFoundError("x"), ConnectionResetError()), "PASSING"),
        (_while(FileNotFoundError("x"), PermissionError("x")), "ABSENT"),
        (_from(NotADirectoryError("x"), TimeoutError()), "PASSING"),
        (_from(OSError(errno.EINVAL, "x"), _Coded(400)), "LASTING"),
        (_from(OSError(errno.EIO, "x"), _Coded(410)), "ABSENT"),
        (OSError("Forbidden: b/x\nno"), "REFUSED"),
        (OSError(errno.EHOSTUNREACH, "x"), "PASSING"),
        (EOFError(), "PASSING"),
        (_from(OSError(None, "x"), socket.gaierror(socket.EAI_NONAME, "x")), "UNREACHABLE"),
        (_from(ConnectionError("x"), ssl.SSLCertVerificationError("x")), "UNREACHABLE"),
        (ValueError("x"), "LASTING"),
    ],
    ids=repr,
)
def test_the_whole_chain_is_looked_at(error: BaseException, meant: str) -> None:
    """What the innermost error knows is not lost by those that are wrapped around it."""
    assert trouble.classify(error).name == meant


# Waiting.


@dataclass
class Clock:
    """Time that passes by sleeping alone."""

    now_s: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(retrying, "time", made)
    return made


class _Busy(Exception):
    status = 429

    def __init__(self, **headers: str) -> None:
        super().__init__()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def _fails(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def ask() -> str:
        if left:
            raise left.pop()
        return "answer"

    return ask


def test_a_server_that_says_when(clock: Clock) -> None:
    """Who wants to be left alone is left alone for so long, but for one last try within the budget."""
    asking = Retrying(StorageSettings(budget_s=100), lambda: None)
    assert asking.call("http://a/x", _fails(1, _Busy(Retry_After="40")), {}) == "answer"
    assert clock.slept == [40]
    with pytest.raises(StorageUnavailable):
        asking.call("http://a/x", _fails(99, _Busy(retry_after="4000")), {})
    assert 99 < sum(clock.slept[1:]) <= 100
    long_ago = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert asking.call("http://a/x", _fails(1, _Busy(Retry_After=long_ago)), {}) == "answer"
    assert clock.slept[-1] <= retrying.SHORTEST_PAUSE_S


def test_an_outage_of_weeks(clock: Clock) -> None:
    """However often a store was asked in vain, it is asked again."""
    asking = Retrying(StorageSettings(budget_s=1e6), lambda: None)
    assert asking.call("http://a/x", _fails(3000, ConnectionResetError()), {}) == "answer"
    assert max(clock.slept) <= retrying.LONGEST_PAUSE_S


@pytest.mark.usefixtures("clock")
def test_credentials_that_can_not_be_renewed() -> None:
    """A store that goes away while the credentials are read anew is waited for like any other."""
    failures: list[Exception] = [ConnectionRefusedError(), PermissionError()]

    def ask() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    def renew() -> None:
        raise ConnectionRefusedError

    assert Retrying(StorageSettings(), renew).call("sftp://a/x", ask, {}) == "answer"


@pytest.mark.usefixtures("clock")
def test_the_user_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a store for more than a moment is told why, once for each outage, and when it is over."""
    monkeypatch.setattr(retrying.random, "uniform", lambda _low, high: high)
    told: list[str] = []
    settings = StorageSettings(budget_s=900, tell=told.append)
    asking = Retrying(settings, lambda: None)
    asking.call("http://a/x", _fails(1, _Busy()), {})
    assert told == []

    def ask_beside() -> str:
        if len(told) < 2:
            Retrying(settings, lambda: None).call("http://a/z", _fails(9, ConnectionResetError()), {})
        return "answer"

    busy = _fails(9, _Busy())
    asking.call("http://a/y", lambda: busy() and ask_beside(), {})
    first, last, *more = told
    assert first.startswith("waiting for http://a/y: ")
    assert first.endswith("; up to 15 min (--storage-timeout)")
    assert last.startswith("http://a/z answers again, after ")
    assert more == []


# As a user meets it.


def _run(folder: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command(*words), cwd=folder, env={**ENV, **env}, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, 2, b"refused (403): has the signed address expired"),
        (410, 2, b"does not exist (410 Gone)"),
        (404, 2, b"does not exist"),
        (503, 75, b"503 Service Unavailable"),
    ],
)
def test_exit_codes(site: Site, tmp_path: Path, status: int, code: int, said: bytes) -> None:
    """What helps when run again ends in 75, what must be mended first in 2; nothing is left behind."""
    site.status = status
    done = _run(tmp_path, f"{site.address}/in.jsonl", "-o", "out.jsonl", "--storage-timeout", "1s")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_job_is_resumed_when_its_server_is_back(tmp_path: Path) -> None:
    """An interrupted job that is run again while the server of its input is down waits, and keeps what it has."""
    site = Site(data=b"".join(json.dumps(chat(i)).encode() + b"\n" for i in range(40)))
    log = ("--engine-arg", f"log={tmp_path / 'log'}")
    with serving(site):
        words = (f"{site.address}/in.jsonl", "-o", "out.jsonl", "--storage-timeout", "2s", *log)
        assert _run(tmp_path, *words, XBATCH_CRASH="output-built:1").returncode == -9
    asked = (tmp_path / "log").read_bytes()
    down = _run(tmp_path, *words)
    assert down.returncode == 75, down.stderr
    assert b"Connection refused" in down.stderr
    with serving(site, int(site.address.rpartition(":")[2])):
        done = _run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 40
    assert (tmp_path / "log").read_bytes() == asked


def test_why_a_job_hangs_is_told(site: Site, tmp_path: Path) -> None:
    """A job that waits for its input says so."""
    site.data = b"".join(json.dumps(chat(i)).encode() + b"\n" for i in range(3))
    site.faults, site.fault_headers = [429] * 2, {"Retry-After": "4"}
    done = _run(tmp_path, f"{site.address}/in.jsonl?X-Amz-Signature=secret1", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    told = f"waiting for {site.address}/in.jsonl?***: 429 Too Many Requests; up to 15 min (--storage-timeout)"
    assert told.encode() in done.stderr
    assert b"secret1" not in done.stderr
    assert b"answers again, after " in done.stderr
