"""The environments that `make clients` sets up: each has clients that do not fit into one with the others."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
CLIENTS = REPOSITORY / "tests/clients"
ENVIRONMENTS = ("a", "b", "c", "d")
WHOLE_XINFERENCE = {"PYTHONPATH": str(CLIENTS / "alias")}
"""Makes `import xinference.client` find the client that is installed as `xinference_client`."""


def python_of(environment: str) -> str:
    """The interpreter of an environment."""
    path = REPOSITORY / ".venv/clients" / environment / "bin/python"
    assert path.exists(), f"there is no {path}: `make clients` makes it"
    return str(path)


def variables(**values: str) -> dict[str, str]:
    """The environment variables of a client: none that is for xbatch, and nothing that reports to anyone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XBATCH_", "PYTEST_"))}
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | quiet | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | values
