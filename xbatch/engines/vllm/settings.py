"""Engine settings for throughput, and why they are as they are."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from xbatch.display import counted
from xbatch.rows.sizes import Expectation

CPU_SEQUENCES = 512
CPU_BATCHED_TOKENS = 8192
CPU_TOKENS_A_SEQUENCE = 1024
"""Context that a running sequence is expected to need; more is served by preemption."""
CPU_MEMORY_SHARE = 0.4
"""Of the free memory for the KV cache: the rest is for weights, activations and everybody else."""
GPU_SEQUENCES = 512
"""The largest batch that vLLM captures CUDA graphs for."""
GPU_WORKSPACE_BYTES = 4 << 30
"""For activations, CUDA graphs and whatever else is no cache."""
FEW_CORES = 4
"""Of so many, one that does next to nothing is a loss."""
THREADS = "VLLM_CPU_OMP_THREADS_BIND"
"""The environment variable that tells vLLM's worker on a CPU on which cores to compute."""
SPINS = "GOMP_SPINCOUNT"
"""The one that tells PyTorch's OpenMP library how often a thread looks for work before it sleeps."""
FEW_SPINS = 10_000
"""Tens of microseconds; left to itself it looks for milliseconds, in which the scheduler waits for the core."""
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
    gpu_bytes: int = 0
    """Memory of one GPU."""
    weight_bytes: int = 0
    """The model's weights; 0 where that is not known before it is loaded."""
    gpu_share: float = 0.9
    """Of a GPU's memory, so much is vLLM's."""
    default_sequences: int = 0
    """What vLLM runs at a time by itself."""


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


def choose(machine: Machine, given: AbstractSet[str], expected: Expectation | None = None) -> list[Choice]:
    """Choose what the user has not given, by vLLM's names, for rows of which so much is expected.

    On a GPU vLLM's own defaults for offline inference are the right ones, but for short rows on smaller GPUs, of which
    more run at a time. On a CPU a seeded request whose prompt is split by chunked prefill kills vLLM's engine ("CPU
    Generator does not use offset"), so no prompt is ever split. With LoRA on a CPU, rows without an adapter are
    computed with the last slot's (index -1 in vLLM's `torch_ops/lora_ops.py`), so one slot more than there are adapters
    stays empty. Where a CPU has AMX, workers ask for leave to use it, which vLLM's attention does not. Nothing is ever
    chosen that changes answers: the length of the context stays the model's.
    """
    choices = _for_cpu(machine, given, expected) if machine.is_cpu else _for_gpu(machine, expected)
    return [choice for choice in choices if choice.name not in given]


def threads(cores: AbstractSet[int], *, has_siblings: bool, expected: Expectation | None) -> list[Choice]:
    """On which cores a CPU computes, and how: variables of the environment, where it is not vLLM's own choice.

    vLLM keeps a core for its scheduler and whoever feeds it. These wait while the worker computes, and a job's rows
    are prepared beforehand, so on a machine of few cores the worker has them all; what waits between two steps must
    not keep a core busy then. Threads that are `siblings` of one core are left to vLLM, and so are servers, whose
    requests come as they come.
    """
    if expected is None or has_siblings or not 1 < len(cores) <= FEW_CORES:
        return []
    return [
        Choice(THREADS, ",".join(map(str, sorted(cores))), "who feeds the engine needs hardly a core"),
        Choice(SPINS, FEW_SPINS, "threads that wait leave their cores to the scheduler"),
    ]


def _for_gpu(machine: Machine, expected: Expectation | None) -> list[Choice]:
    """More sequences at a time, where rows are so short that vLLM's default would leave cache unused.

    No more of them than vLLM captures CUDA graphs for.
    """
    left = int(machine.gpu_bytes * machine.gpu_share) - machine.weight_bytes - GPU_WORKSPACE_BYTES
    if expected is None or not machine.weight_bytes or left <= 0:
        return []
    tokens = left // machine.kv_bytes_a_token
    fitting = tokens // max(min(expected.long_tokens, machine.max_model_len), 1)
    if not machine.default_sequences < GPU_SEQUENCES <= fitting:
        return []
    reason = f"rows need {counted(expected.long_tokens, 'token')} or less, and the cache holds some {tokens:,}"
    return [Choice("max_num_seqs", GPU_SEQUENCES, reason)]


def _for_cpu(machine: Machine, given: AbstractSet[str], expected: Expectation | None) -> list[Choice]:
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
        choices.append(_kv_cache(machine, expected))
    return choices


def _batched_tokens(machine: Machine) -> Choice:
    if machine.max_model_len > CPU_BATCHED_TOKENS:
        return Choice("max_num_batched_tokens", machine.max_model_len, "the longest prompt must fit in one step")
    return Choice("max_num_batched_tokens", CPU_BATCHED_TOKENS, "best throughput measured on CPUs")


def _kv_cache(machine: Machine, expected: Expectation | None) -> Choice:
    a_sequence = max(CPU_TOKENS_A_SEQUENCE, expected.long_tokens if expected else 0)
    wanted_tokens = max(CPU_SEQUENCES * min(machine.max_model_len, a_sequence), 2 * machine.max_model_len)
    wanted = wanted_tokens * machine.kv_bytes_a_token
    free = int(machine.free_bytes * CPU_MEMORY_SHARE)
    rows = f", rows need {counted(expected.long_tokens, 'token')} or less" if expected else ""
    reason = f"of {machine.free_bytes / GIB:.1f} GiB free{rows}"
    return Choice("kv_cache_memory_bytes", min(wanted, free), reason)
