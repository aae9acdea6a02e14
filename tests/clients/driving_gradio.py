"""A page of Gradio's in a process of its own, and a client that uses it as its visitors' browsers do."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from checking import URL
from gradio_client import Client

START_S = 180


@contextmanager
def page(script: str, *arguments: str) -> Iterator[Client]:
    """A client of the page that this script makes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env = {**os.environ, **quiet, "GRADIO_SERVER_PORT": str(port), "XBATCH_URL": URL}
    process = subprocess.Popen([sys.executable, script, *arguments], env=env, stdout=sys.stderr)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(process, address)
        yield Client(address, verbose=False)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(process: "subprocess.Popen[bytes]", address: str) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, "the page has ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the page does not answer")
