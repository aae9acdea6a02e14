"""Leave to use the tile registers of Intel's AMX, for vLLM's workers on CPUs.

Linux gives it to a process that asks (`arch_prctl(ARCH_REQ_XCOMP_PERM)`). vLLM's attention on CPUs uses tiles without
asking; whether a library has asked before depends on the length of the first prompts, and where none has, the worker
dies of an illegal instruction. vLLM imports this module in each worker, because `Asked` is an extension of them.
"""

import torch


class Asked:
    """An extension of vLLM's workers that adds nothing to them."""


torch.cpu._init_amx()  # noqa: SLF001 - it has no public name
