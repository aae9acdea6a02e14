"""What makes a job this job: its inputs and everything that changes its answers."""

from dataclasses import asdict
from typing import Any

from xbatch.job.spec import JobSpec
from xbatch.storage import Stat

SPEED_ONLY = frozenset(
    (
        "max_num_seqs",
        "max_num_batched_tokens",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "enforce_eager",
        "enable_chunked_prefill",
        "enable_prefix_caching",
    )
)
"""Settings of the engine that make it faster or slower and may change while a job is unfinished."""


def identify(spec: JobSpec, inputs: dict[str, Stat], model: str | None) -> dict[str, Any]:
    """Name everything that must not change between two runs of one job."""
    return {
        "inputs": [{"uri": uri, **asdict(found)} for uri, found in inputs.items()],
        "model": model,
        "served_model_name": spec.served_model_name,
        "lora_modules": spec.lora_modules,
        "engine": spec.engine,
        "engine_args": {name: v for name, v in spec.engine_args.items() if name not in SPEED_ONLY},
        "format": spec.format,
        "max_line_bytes": spec.max_line_bytes,
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Fields that differ: name, value before, value now."""
    names = sorted({*before, *now})
    return [
        (name, _shown(before.get(name)), _shown(now.get(name))) for name in names if before.get(name) != now.get(name)
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "uri" in value[0]:
        return ", ".join(f"{v['uri']} ({v['size_bytes']:,} bytes, version {v['version']})" for v in value)
    return "none" if value is None else str(value)
