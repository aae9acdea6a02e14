"""Answers a file of chat rows with Ray Data LLM, one replica: `ray_data.py ROWS ANSWERS MODEL SETTINGS`.

    make bench BENCH=ray                      times it as a whole command, against `xbatch run`
    make bench-ray                            only makes the environment that it runs in, .venv/bench-ray

SETTINGS are vLLM's, as JSON. On a machine without a GPU the replica gets a CPU instead. As many rows are in flight as
vLLM may run at a time; by default Ray has 256.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

BATCHES, BLOCK_ROWS = 8, 256
"""Batches in flight, and rows that go from stage to stage at a time."""
STAGE_CPUS = 8
"""Reading, templates, tokens, the engine, texts: each stage wants a CPU to itself, and waits for ever without one."""


def main(rows: str, answers: str, model: str, settings: str) -> None:
    """Read, answer and write."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    given = json.loads(settings)
    on_gpu = Path("/dev/nvidia0").exists()
    cpus = max(STAGE_CPUS, os.cpu_count() or 1)
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=True)
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=given if on_gpu else given | {"distributed_executor_backend": "mp"},
        concurrency=1,
        batch_size=given.get("max_num_seqs", 256) // BATCHES,
        max_concurrent_batches=BATCHES,
        log_engine_metrics=False,  # they would want Ray Serve
        placement_group_config=None if on_gpu else {"bundles": [{"CPU": 1}]},
    )
    processor = build_processor(config, preprocess=asked, postprocess=answered)
    lines = Path(rows).read_text(encoding="utf-8").splitlines()
    items = [{"line": line} for line in lines]
    data = processor(ray.data.from_items(items, override_num_blocks=-(-len(items) // BLOCK_ROWS)))
    with Path(answers).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in data.iter_rows())


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """What the engine's stages want to have."""
    line = json.loads(row["line"])
    body = line["body"]
    wanted = {name: body[name] for name in ("temperature", "max_tokens", "ignore_eos")}
    return {"custom_id": line["custom_id"], "messages": body["messages"], "sampling_params": wanted}


def answered(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an answer."""
    return {"custom_id": row["custom_id"], "text": row["generated_text"]}


if __name__ == "__main__":
    main(*sys.argv[1:])
