"""`xbatch serve` for tests: started, asked, stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from serving import START_S, Body, environment

CHAT_PATH, COMPLETIONS_PATH = "/v1/chat/completions", "/v1/completions"
_LISTENING = "listening at "


@dataclass
class Online:
    """A server that runs."""

    address: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def client(self, **settings: object) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **settings)  # type: ignore[arg-type]

    def get(self, path: str, **settings: object) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **settings)  # type: ignore[arg-type]

    def post(self, path: str, body: object, **settings: object) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, **settings)  # type: ignore[arg-type]

    def status(self) -> Body:
        found: Body = self.get("/status").json()
        return found

    def wait_for(self, what: str, is_so: object) -> None:
        """Wait until a condition on `status` holds."""
        until = time.monotonic() + 30
        while not is_so(self.status()):  # type: ignore[operator]
            assert time.monotonic() < until, what
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def serve_command(*words: str, port: int = 0) -> list[str]:
    return [sys.executable, "-m", "xbatch", "serve", "--port", str(port), *words]


@contextmanager
def online(folder: Path, *words: str, ready: bool = True, port: int = 0, **changes: str | None) -> Iterator[Online]:
    """A server with the demo model while the block runs; its files lie in `folder`, where it is started."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    model = () if "--model" in words or "-m" in words else ("--model", "demo")
    changes = {"XDG_STATE_HOME": str(folder / "home"), **changes}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            serve_command(*model, *words, port=port),
            cwd=folder,
            env=environment(**changes),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        found = Online(_address(process, log), log, process)
        if ready:
            _wait_until_ready(found)
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(40)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def fake_online(folder: Path, *words: str, ready: bool = True, **engine: object) -> Iterator[Online]:
    """A server with the fake engine, whose settings are given by name; names in capitals are of the environment."""
    changes = {name: str(engine.pop(name)) for name in list(engine) if name.isupper()}
    settings = [word for name, value in engine.items() for word in ("--engine-arg", f"{name}={value}")]
    with online(folder, "--engine", "fake", *settings, *words, ready=ready, **changes) as found:
        yield found


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        text = log.read_text(errors="replace")
        for line in text.splitlines():
            if line.startswith(_LISTENING):
                return line.removeprefix(_LISTENING).strip()
        assert process.poll() is None, text[-4000:]
        time.sleep(0.02)
    raise AssertionError(log.read_text(errors="replace")[-4000:])


def _wait_until_ready(server: Online) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert server.process.poll() is None, server.said()[-4000:]
        with suppress(httpx.TransportError):
            if server.get("/health").status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    raise AssertionError(server.said()[-4000:])
