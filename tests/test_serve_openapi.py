"""Whatever the OpenAPI document allows, and much that it doesn't, is answered: no 5xx, nothing left hanging."""

import json
import subprocess
import sys
from pathlib import Path

from online import Online
from serving import environment


def test_schemathesis_finds_nothing(demo_server: Online, tmp_path: Path) -> None:
    """Schemathesis makes requests from the document, right ones and wrong ones."""
    words = ["-c", "not_a_server_error", "-n", "12", "--phases", "examples,coverage,fuzzing", "--workers", "1"]
    words += ["--seed", "1", "--request-timeout", "60", "--max-time", "40", "--no-color", "--warnings", "off"]
    # What can't be asked of a server that other tests use: answers of thousands of tokens are all that takes long.
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{demo_server.address}/openapi.json", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    demo_server.wait_for("nothing is left running", lambda status: status["requests"]["running"] == 0)


def test_the_document_names_every_route(demo_server: Online) -> None:
    """And describes the bodies of those that take one."""
    document = demo_server.get("/openapi.json").json()
    assert {
        *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/v1/cluster/auth"),
        *("/health", "/metrics", "/status"),
    } <= set(document["paths"])
    for path in ("/v1/chat/completions", "/v1/completions"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body["properties"], path
    assert "http" not in json.dumps(document.get("servers", []))
