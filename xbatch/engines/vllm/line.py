"""A line of our own to vLLM's engine process, beside that of its serving classes."""

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from xbatch.engines import Load
from xbatch.engines.admission import Admission

if TYPE_CHECKING:
    from vllm.v1.engine import FinishReason


class Spoken:
    """What the engine has said to one request."""

    __slots__ = ("ended", "finish_reason", "stop_reason", "token_ids")

    def __init__(self, ended: "asyncio.Future[None]") -> None:
        self.ended = ended
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | None = None


class EngineLine:
    """Asks vLLM's engine process, and listens to what it tells of its steps; made in the event loop."""

    def __init__(self, llm: AsyncLLM, admission: Admission) -> None:
        self.load = Load()
        self._llm = llm
        self._admission = admission
        self._waiting: dict[str, Spoken] = {}
        self._numbers = itertools.count()
        processor = llm.output_processor
        self._process, self._propagate = processor.process_outputs, processor.propagate_error
        processor.process_outputs, processor.propagate_error = self._take, self._fail
        processor.update_scheduler_stats = self._look
        llm._run_output_handler()  # noqa: SLF001 - else it is the first request of a serving class that has it listen

    async def ask(self, core: Any) -> Spoken:
        """Everything that the engine says to a request.

        Raises EngineDeadError.
        """
        if self._llm.errored:
            raise EngineDeadError
        core.request_id = f"{core.request_id}-{next(self._numbers)}"
        spoken = Spoken(asyncio.get_running_loop().create_future())
        self._waiting[core.request_id] = spoken
        try:
            await self._llm.engine_core.add_request_async(core)
            await spoken.ended
        except asyncio.CancelledError:
            await self._llm.engine_core.abort_requests_async([core.request_id])
            raise
        finally:
            self._waiting.pop(core.request_id, None)
        return spoken

    def _take(self, outputs: list[Any], *args: Any, **options: Any) -> Any:
        """Take what is ours of the engine's outputs, and hand on the rest."""
        others = []
        for output in outputs:
            if (spoken := self._waiting.get(output.request_id)) is None:
                others.append(output)
                continue
            spoken.token_ids += output.new_token_ids
            if output.finish_reason is not None:
                spoken.finish_reason, spoken.stop_reason = output.finish_reason, output.stop_reason
                if not spoken.ended.done():
                    spoken.ended.set_result(None)
        return self._process(others, *args, **options)

    def _fail(self, error: Exception) -> None:
        """The engine is dead: so is whatever it had not answered."""
        for spoken in self._waiting.values():
            if not spoken.ended.done():
                spoken.ended.set_exception(EngineDeadError())
        self._propagate(error)

    def _look(self, stats: Any) -> None:
        """Take in what the engine tells of a step."""
        if stats is None:
            return
        found, before = stats.prefix_cache_stats, self.load
        preempted = getattr(found, "preempted_requests", 0)
        self.load = Load(
            stats.num_running_reqs,
            stats.num_waiting_reqs,
            stats.kv_cache_usage,
            before.preempted + preempted,
            before.prompt_tokens + found.queries,
            before.cached_tokens + found.hits,
        )
        self._admission.step(stats.num_running_reqs, stats.num_waiting_reqs, preempted)
