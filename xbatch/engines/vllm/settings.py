"""Engine settings for throughput, and why they are as they are."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

CPU_SEQUENCES = 512
CPU_BATCHED_TOKENS = 8192
CPU_TOKENS_A_SEQUENCE = 1024
"""Context that a running sequence is expected to need; more is served by preemption."""
CPU_MEMORY_SHARE = 0.4
"""Of the free memory for the KV cache: the rest is for weights, activations and everybody else."""
GIB = 1 << 30


ASKED = "xbatch.engines.vllm.tiles.Asked"
"""By its name, for it is vLLM that imports it, in its workers."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the engine will run on, and how large its model's context and cache entries are."""

    is_cpu: bool
    free_bytes: int
    max_model_len: int
    kv_bytes_a_token: int
    adapters: int = 0
    has_tiles: bool = False
    """Its CPU has Intel's AMX."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that was chosen, and why."""

    name: str
    value: int | bool | str
    reason: str

    def __str__(self) -> str:
        if self.name.endswith("_bytes"):
            return f"{self.name}={int(self.value) / GIB:.1f} GiB ({self.reason})"
        value = self.value if isinstance(self.value, str) else str(self.value).lower()
        return f"{self.name}={value} ({self.reason})"


def choose(machine: Machine, given: AbstractSet[str]) -> list[Choice]:
    """Choose what the user has not given, by vLLM's names.

    On a GPU vLLM's own defaults for offline inference are the right ones, so nothing is chosen. On a CPU a seeded
    request whose prompt is split by chunked prefill kills vLLM's engine ("CPU Generator does not use offset"), so
    no prompt is ever split. With LoRA on a CPU, rows without an adapter are computed with the last slot's (index -1 in
    vLLM's `torch_ops/lora_ops.py`), so one slot more than there are adapters stays empty. Where a CPU has AMX, workers
    ask for leave to use it, which vLLM's attention does not.
    """
    if not machine.is_cpu:
        return []
    choices = [
        Choice("enforce_eager", True, "starts at once and needs no compiler"),
        Choice("max_num_seqs", CPU_SEQUENCES, "best throughput measured on CPUs"),
        Choice("enable_chunked_prefill", False, "a seeded request whose prompt is split would kill the engine"),
        _batched_tokens(machine),
    ]
    if machine.has_tiles:
        reason = "vLLM's attention uses AMX without asking, and would die of it"
        choices.append(Choice("worker_extension_cls", ASKED, reason))
    if machine.adapters:
        choices.append(
            Choice("max_loras", machine.adapters + 1, "vLLM's CPU kernel takes the last slot for no adapter")
        )
    if not given & {"kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override"}:
        choices.append(_kv_cache(machine))
    return [choice for choice in choices if choice.name not in given]


def _batched_tokens(machine: Machine) -> Choice:
    if machine.max_model_len > CPU_BATCHED_TOKENS:
        return Choice("max_num_batched_tokens", machine.max_model_len, "the longest prompt must fit in one step")
    return Choice("max_num_batched_tokens", CPU_BATCHED_TOKENS, "best throughput measured on CPUs")


def _kv_cache(machine: Machine) -> Choice:
    wanted_tokens = max(CPU_SEQUENCES * min(machine.max_model_len, CPU_TOKENS_A_SEQUENCE), 2 * machine.max_model_len)
    wanted = wanted_tokens * machine.kv_bytes_a_token
    free = int(machine.free_bytes * CPU_MEMORY_SHARE)
    reason = f"of {machine.free_bytes / GIB:.1f} GiB free"
    return Choice("kv_cache_memory_bytes", min(wanted, free), reason)
