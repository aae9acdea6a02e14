"""What an engine will run on, looked at before it starts, and what it has got, looked at after."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from xbatch.engines import PrefixCache
from xbatch.engines.vllm import process
from xbatch.engines.vllm.settings import Machine
from xbatch.engines.vllm.troubles import translated
from xbatch.engines.vllm.weights import count_parameters


def look_at_machine(model: str, args: Namespace) -> Machine:
    """Describe what an engine of these arguments will run on.

    Raises UsageError if vLLM does not take the model, EngineError if vLLM can't work here.
    """
    with translated(f"the model {model!r} can't be used"):
        config = AsyncEngineArgs.from_cli_args(args).create_model_config()
    heads, size = config.get_total_num_kv_heads(), config.get_head_size()
    layers = getattr(config.hf_text_config, "num_hidden_layers", 1)
    kv_bytes = 2 * layers * heads * size * config.dtype.itemsize
    adapters = len(args.lora_modules or ())
    is_cpu = current_platform.is_cpu()
    has_tiles = is_cpu and torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - it has no public name
    free = process.free_memory_bytes()
    found = Machine(is_cpu, free, config.max_model_len, kv_bytes, adapters, has_tiles=has_tiles)
    return found if is_cpu else _with_gpu(found, args, config)


def computes_alone(args: Namespace) -> bool:
    """One process on a CPU computes all."""
    processes: int = args.tensor_parallel_size * args.pipeline_parallel_size * args.data_parallel_size
    return processes == 1 and bool(current_platform.is_cpu())


def _with_gpu(machine: Machine, args: Namespace, config: Any) -> Machine:
    sequences = AsyncEngineArgs.get_batch_defaults(args.tensor_parallel_size * args.pipeline_parallel_size)[1]
    weights = (count_parameters(Path(config.model)) or 0) * config.dtype.itemsize
    return replace(
        machine,
        gpu_bytes=current_platform.get_device_total_memory(),
        weight_bytes=weights // args.tensor_parallel_size,
        kv_bytes_a_token=max(machine.kv_bytes_a_token // args.tensor_parallel_size, 1),
        gpu_share=args.gpu_memory_utilization,
        default_sequences=sequences[UsageContext.LLM_CLASS],
    )


def look_at_cache(llm: AsyncLLM) -> PrefixCache:
    """What a started engine keeps of prompts."""
    config = llm.vllm_config.cache_config
    blocks = config.num_gpu_blocks or 0
    return PrefixCache(blocks * config.block_size if config.enable_prefix_caching else 0, config.block_size)
