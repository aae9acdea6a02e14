"""A model that is not there, or not whole, is refused in seconds, before vLLM is imported."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xbatch.demo import MODEL_PATH
from xbatch.engines.vllm import troubles
from xbatch.engines.vllm.installed import Installed, inspect_engine
from xbatch.engines.vllm.lookup import check_folder, is_reachable
from xbatch.engines.vllm.troubles import translated
from xbatch.errors import EngineError, UsageError, XbatchError

ROOT = Path(__file__).resolve().parent.parent
NO_VLLM = "import sys; sys.modules['vllm'] = None; from xbatch.cli import main; main()"
"""A process in which vLLM can't be imported: whoever tries gets another sentence."""


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, while the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def models(*names: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What `xbatch models` says where vLLM can't be imported."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    env = {**kept, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", NO_VLLM, "models", *names]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=180)


@pytest.mark.parametrize("name", ["demoo", "nobody/nothing"])
def test_hub_that_can_not_be_reached(name: str, closed_port: int, tmp_path: Path) -> None:
    """Without a hub a model that is not here is refused at once, though the hub's client would try for 23 seconds."""
    address = f"http://127.0.0.1:{closed_port}"
    for reach in ({"HF_ENDPOINT": address}, {"HTTPS_PROXY": address}, {"HF_HUB_OFFLINE": "1"}):
        done = models(name, HF_HOME=str(tmp_path), **reach)
        assert done.returncode == 2, done.stderr
        assert f"the model '{name}' is not a folder here nor downloaded" in done.stderr
        assert ("did you mean demo" in done.stderr) == (name == "demoo")
        assert len(done.stderr.splitlines()) == 1


def test_who_takes_connections_is_reachable(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub, or the proxy before it, is asked if it takes a connection; what can't be tried is left to its client."""
    for name in [name for name in os.environ if "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        here, away = (f"127.0.0.1:{port}" for port in (server.getsockname()[1], closed_port))
        assert is_reachable(f"http://{here}")
        assert not is_reachable(f"http://{away}/hub")
        assert is_reachable("no address")
        assert is_reachable("http://[")
        monkeypatch.setenv("https_proxy", f"http://user:secret@{here}")
        assert is_reachable("https://hub.invalid")
        monkeypatch.setenv("https_proxy", away)
        assert not is_reachable("https://hub.invalid")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert is_reachable(f"https://{here}")


def test_other_hubs_are_asked_by_vllm(tmp_path: Path, closed_port: int) -> None:
    """Whoever uses ModelScope is not asked for Hugging Face's hub: only then vLLM is imported, which can't be here."""
    away = {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}", "HF_HOME": str(tmp_path)}
    done = models("nobody/nothing", VLLM_USE_MODELSCOPE="True", **away)
    assert done.returncode == 3
    assert "vLLM can't work here" in done.stderr


def test_downloaded_model_needs_no_hub(tmp_path: Path, closed_port: int) -> None:
    """A model in the hub's cache is not looked for anywhere else."""
    snapshot = tmp_path / "hub/models--nobody--nothing/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "hub/models--nobody--nothing/refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    done = models("nobody/nothing", HF_HOME=str(tmp_path), HF_ENDPOINT=f"http://127.0.0.1:{closed_port}")
    assert done.returncode == 3
    assert "vLLM can't work here" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", b"", "model.safetensors is empty"),
        ("model.safetensors", b"abc", "is cut: it has no header"),
        ("model.safetensors", struct.pack("<Q", 10) + b"x" * 10, "its header is not valid JSON"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]", "its header is not valid JSON"),
        ("model.safetensors", struct.pack("<Q", 8) + b'{"a": 1}', "has no places of tensors"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("pytorch_model.bin", b"", "pytorch_model.bin is empty"),
        ("config.json", b"", "config.json is not valid JSON"),
        ("config.json", b"[]", "config.json is no JSON object"),
        ("config.json", b'{"architectures": [', "config.json is not valid JSON"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json is not valid JSON"),
        ("tokenizer.json", b"", "tokenizer.json is empty or cut"),
        ("tokenizer.json", b'{"version": "1.0",', "tokenizer.json is empty or cut"),
    ],
)
def test_folders_that_are_not_whole(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """A model's folder in which a file is empty, cut or a pointer is refused, and the file is named."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL_PATH, folder)
    assert not check_folder(str(folder))
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError) as raised:
        check_folder(str(folder))
    assert said in str(raised.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.gguf"])
def test_files_that_are_not_loaded(tmp_path: Path, name: str) -> None:
    """Beside weights that vLLM loads, pointers to others and empty files are no trouble."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL_PATH, folder)
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"):
        (folder / name).write_bytes(content)
        assert not check_folder(str(folder))


def test_weights_that_were_cut(tmp_path: Path) -> None:
    """Weights of which the end is missing are refused by a job before anything is loaded."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL_PATH, folder)
    os.truncate(folder / "model.safetensors", 1_000_000)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    for words in (["run", "in.jsonl"], ["validate", "in.jsonl", "--tokens"]):
        done = subprocess.run(
            [sys.executable, "-c", NO_VLLM, *words, "--model", str(folder)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "model.safetensors is cut: it holds 1,000,000 of 1,910,176 bytes" in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "model"]


@pytest.mark.parametrize("name", ["./nothing", "~nosuchuser/model", "/a/b/c", "a/b/c", "x" * 5000, "in.jsonl\n"])
def test_folders_that_are_not_there(name: str) -> None:
    """Whatever a model is called, it is refused, or the hub's to know."""
    if name[0] in "./~" or "/b/" in name:
        with pytest.raises(UsageError, match="does not exist"):
            check_folder(name)
    else:
        assert check_folder(name)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("no such dtype"), UsageError, "what: no such dtype"),
        (TypeError("not a number"), UsageError, "what: not a number"),
        (KeyError("heads"), UsageError, "what: 'heads'"),
        (struct.error("unpack requires a buffer of 8 bytes"), UsageError, "what: unpack requires"),
        (RecursionError("too deep"), UsageError, "what: too deep"),
        (SystemExit(0), UsageError, "what: vLLM has ended at once"),
        (RuntimeError("Failed to infer device type"), EngineError, "vLLM can't work here: Failed to infer device type"),
        (ImportError("libcudart.so.13"), EngineError, "vLLM can't work here: libcudart.so.13"),
        (AttributeError("no attribute"), EngineError, "vLLM can't work here: no attribute"),
        (UsageError("known"), UsageError, "known"),
    ],
)
def test_what_vllm_raises(error: BaseException, kind: type[XbatchError], said: str) -> None:
    """Settings and models are the user's to mend (2), what vLLM can't do here is the engine's trouble (3)."""
    with pytest.raises(kind) as raised, translated("what"):
        raising(error)()
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [ImportError("a"), AttributeError("a"), TypeError("a")])
def test_another_version_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where parts of vLLM are not where they should be, its version and those that xbatch works with are named."""
    from dataclasses import replace

    other = replace(inspect_engine(), engines=(Installed("vllm", "0.99.0"),))
    monkeypatch.setattr(troubles, "inspect_engine", lambda: other)
    with pytest.raises(EngineError) as raised, translated("what"):
        raising(error)()
    said = "vllm 0.99.0 is installed, and xbatch works with 0.23 to 0.32: pip install 'vllm>=0.23,<0.33'"
    assert str(raised.value).startswith(said)


def test_a_hub_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name service or a hub that does not answer holds nobody up for long."""
    over = threading.Event()

    def hang(*_: Any) -> None:
        over.wait()
        raise OSError

    monkeypatch.setattr("xbatch.engines.vllm.lookup.REACH_S", 0.05)
    monkeypatch.setattr(socket, "create_connection", hang)
    assert not is_reachable("http://hub.invalid")
    over.set()
