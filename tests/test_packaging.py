"""What is declared, what is pinned and what is shipped agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
INTERPRETERS = ("3.11", "3.12", "3.13")
# What the two engines need in different versions or builds; a pin of it would break one of them.
ENGINE_SPECIFIC = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every line is an exact pin"
    return {canonicalize_name(name): version for name, version in pairs}


def direct_requirements() -> Iterator[Requirement]:
    yield from map(Requirement, PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        yield from map(Requirement, extra)


@pytest.mark.parametrize("requirement", list(direct_requirements()), ids=str)
def test_every_direct_dependency_is_a_range_that_holds_its_pin(requirement: Requirement) -> None:
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned is not None
    assert requirement.specifier.contains(pinned, prereleases=True)
    assert "==" not in str(requirement.specifier)


def test_pins_hold_for_both_engines() -> None:
    assert not ENGINE_SPECIFIC & set(pins())
    assert not [name for name in pins() if name.startswith("nvidia-")]
    assert not [f"{name}=={version}" for name, version in pins().items() if "+" in version]


def test_exactly_the_supported_interpreters_are_named() -> None:
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if " :: 3." in each]
    assert tuple(named) == INTERPRETERS
    specifier = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert [minor for minor in range(8, 20) if specifier.contains(f"3.{minor}")] == [11, 12, 13]


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile", ".ci/run"])
def test_no_host_and_no_path_of_one_machine(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert not re.findall(r"\w+://\w+|\b[\w-]+\.(?:com|dev|io|net|org)\b", text)
    assert not re.findall(r"/(?:home|opt|root|tmp|work)/", text)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / "xbatch"
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= inside
    assert {name for name in inside if ".dist-info/" not in name} == files


def test_wheel_holds_the_demo_model(wheel: Path) -> None:
    inside = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "xbatch/demo/model/" in name}
    assert {"config.json", "tokenizer.json"} <= inside
    assert [name for name in inside if name.endswith(".safetensors")]


def test_wheel_brings_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("entry_points.txt"))
        assert "xbatch = xbatch.cli:main" in archive.read(name).decode()
    code = "from xbatch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "doctor" in done.stdout


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(REPOSITORY / name, folder)
    # Run from `make test`, this make must not take itself for a part of that one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_says_in_one_sentence_that_no_python_fits(tmp_path: Path) -> None:
    done = make(tmp_path, "setup", "PYTHON=false")
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert told == ["xbatch needs Python 3.11, 3.12 or 3.13: install one, or name it with PYTHON=/path/to/python3."]


@needs_make
def test_make_does_nothing_when_all_is_set_up(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    make(tmp_path, "help")  # copies the files, so that the stamp is newer
    (tmp_path / ".venv/.ready-cuda").touch()
    assert "Nothing to be done" in make(tmp_path, "setup").stdout
    assert "ENGINE is cpu or cuda" in make(tmp_path, "setup", "ENGINE=tpu").stderr
