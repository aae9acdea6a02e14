"""The engine: vLLM's AsyncLLM, with vLLM's own serving classes making the bodies."""

import asyncio
import gc
import logging
import os
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import utils as spawner
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.version import __version__ as VLLM_VERSION

from xbatch.engines import Load, ModelCard, Piece, PrefixCache
from xbatch.engines.admission import Admission
from xbatch.engines.vllm import arguments, refusals, streams
from xbatch.engines.vllm.bodies import typed_body
from xbatch.engines.vllm.card import make_card
from xbatch.engines.vllm.installed import OPENMP
from xbatch.engines.vllm.line import EngineLine
from xbatch.engines.vllm.machine import computes_alone, look_at_cache, look_at_machine
from xbatch.engines.vllm.process import PRELOAD, EngineProcesses, look_at_cores
from xbatch.engines.vllm.settings import Choice, choose
from xbatch.engines.vllm.troubles import because, first_line, translated
from xbatch.engines.vllm.versions import init_app_state
from xbatch.errors import EngineError, UsageError
from xbatch.rows.outcome import Completion, Failure, Outcome, Usage
from xbatch.rows.request import Prompt, Request
from xbatch.rows.sizes import Expectation

if TYPE_CHECKING:
    from xbatch.engines.vllm.direct import ShortWay

_LOG = logging.getLogger(__name__)


class VllmEngine:
    """Answers as `vllm serve` of the installed version would, field by field.

    `settings` are the arguments of `vllm serve` by name; what they leave open is chosen for throughput. `expected` is
    what the rows need. Its processes are among `processes`.
    """

    def __init__(
        self,
        model: str,
        served_names: list[str],
        settings: Mapping[str, Any],
        expected: Expectation | None = None,
        processes: EngineProcesses | None = None,
    ) -> None:
        self.max_running = 1
        self._admission = Admission(1)
        self.description = ""
        self.card = ModelCard()
        self.cache = PrefixCache()
        self._model = model
        self._expected = expected
        self._settings = {"model": model, "served_model_name": served_names, **settings}
        self._processes = processes or EngineProcesses()
        self._llm: AsyncLLM | None = None
        self._line: EngineLine | None = None
        self._short_way: ShortWay | None = None
        self._has_no_short_way = False
        self._short_way_lock = threading.Lock()
        self._state = State()

    def check(self) -> None:
        """Have vLLM judge the settings and look at the model's configuration, without loading the model.

        Raises UsageError, or EngineError if vLLM can't work here.
        """
        with translated("vLLM does not take these settings"):
            self._check()

    def _check(self) -> None:
        self._args = arguments.parse(self._settings)
        given = {name.replace("-", "_") for name in self._settings}
        choices = choose(look_at_machine(self._model, self._args), given, self._expected)
        self._args = arguments.parse(self._settings | {c.name: c.value for c in choices})
        for variable in look_at_cores(self._expected) if computes_alone(self._args) else ():
            choices.append(variable)
            self._processes.variables[variable.name] = str(variable.value)
        self._args.disable_log_stats = True
        config = self._make_config()
        self.max_running = config.scheduler_config.max_num_seqs
        self._admission = Admission(self.max_running)
        self.description = _describe(choices, config)
        self.card = make_card(self._args, config)

    async def start(self) -> None:
        """Load the model, in a thread of its own.

        After `close` it may be called again. Raises EngineError.
        """
        try:
            await asyncio.to_thread(self._launch)
            assert self._llm is not None
            tasks = await self._llm.get_supported_tasks()
            if "generate" not in tasks:
                raise UsageError(f"{self._model} does not generate text; it does {', '.join(tasks)}")
            await init_app_state(self._llm, self._state, self._args, tasks)
            self._line = EngineLine(self._llm, self._admission)
            self.cache = look_at_cache(self._llm)
        except UsageError:
            raise
        except Exception as e:
            raise EngineError(f"vLLM could not start: {because(e)}") from e

    def _launch(self) -> None:
        config = self._make_config()  # a start adds to it what it finds out, so each has its own
        with self._processes.starting(_spawner(config), forks=_can_fork()):
            self._llm = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=False)
        # The engine tells of its steps, but nobody here keeps a book on each request.
        self._llm.logger_manager, self._llm.log_stats = None, False
        self._llm.output_processor.log_stats = False

    def _make_config(self) -> Any:
        return AsyncEngineArgs.from_cli_args(self._args).create_engine_config(UsageContext.LLM_CLASS)

    @property
    def max_in_flight(self) -> int:
        """Requests that it should have, as its steps show."""
        return self._admission.limit

    @property
    def load(self) -> Load:
        """What the engine's last step has told."""
        return Load() if self._line is None else self._line.load

    @property
    def is_dead(self) -> bool:
        """The engine was started, and its processes are gone."""
        return self._llm is not None and self._llm.errored

    def prepare(self, requests: Sequence[Request]) -> list[Prompt | None]:
        """The prompts of requests in plain words; the others go through vLLM's serving classes as a whole."""
        with self._short_way_lock:
            if self._short_way is None and not self._has_no_short_way:
                self._short_way = self._find_short_way()
        if self._short_way is None:
            return [None] * len(requests)
        try:
            return self._short_way.prepare(requests)
        except Exception:  # noqa: BLE001 - as below
            _LOG.exception("requests take the long way")
            return [None] * len(requests)

    def _find_short_way(self) -> "ShortWay | None":
        try:
            from xbatch.engines.vllm.direct import ShortWay

            return ShortWay(self._args, self._make_config())
        except Exception as e:  # noqa: BLE001 - there is the long way, in which vLLM says itself what is wrong
            self._has_no_short_way = True
            _LOG.warning("no short way to vLLM's engine: %s", first_line(e))
            return None

    async def generate(self, request: Request) -> Outcome:
        """Answer one request by vLLM's serving classes, or in their words.

        Raises EngineError if the engine has died.
        """
        if request.prompt is not None and (completion := await self._answer_directly(request)) is not None:
            return completion
        typed = await typed_body(request)
        answer = typed if isinstance(typed, Failure) else await self._serve(typed, None)
        if isinstance(answer, Failure):
            return answer
        usage = Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens or 0)
        return Completion(answer.model_dump_json().encode(), usage)

    async def _answer_directly(self, request: Request) -> Completion | None:
        if self._short_way is None or self._line is None:
            return None
        llm = self._llm
        if llm is None or llm.model_config.max_model_len != self._short_way.context_tokens:
            return None  # vLLM may fit the context into the memory that it finds
        fingerprint = getattr(self._state.openai_serving_chat, "system_fingerprint", None)
        try:
            return await self._short_way.answer(self._line, request, fingerprint)
        except EngineDeadError as e:
            self._check_alive(llm, e)
            raise

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Answer one request piece by piece; what is wrong with it comes before the first chunk.

        Raises EngineError if the engine has died.
        """
        typed = await typed_body(request, stream=True)
        llm, scope = self._llm, streams.Scope()
        answer = typed if isinstance(typed, Failure) else await self._serve(typed, scope)
        if isinstance(answer, Failure):
            yield answer
            return
        async with aclosing(answer):
            async for event in answer:
                if (piece := streams.piece_of(event)) is not None:
                    if isinstance(piece, Failure):
                        self._check_alive(llm, None)
                    yield piece
        yield scope.usage

    async def _serve(self, typed: Any, scope: streams.Scope | None) -> Any:
        """What vLLM answers, or the Failure in its place."""
        llm = self._llm
        try:
            answer = await self._ask(typed, scope)
        except asyncio.CancelledError:
            if not _is_cancelled():
                self._check_alive(llm, None)
            raise
        except Exception as e:  # noqa: BLE001 - vLLM's server answers any exception with an error body
            self._check_alive(llm, e)
            return refusals.refuse_exception(e)
        if _is_cancelled():
            # vLLM answers a cancelled request with "Client disconnected"; here nobody is there to read it.
            raise asyncio.CancelledError
        if hasattr(answer, "error"):
            # What waits for an engine when it dies is cancelled by vLLM too, and answered as above.
            self._check_alive(llm, None)
            return refusals.refuse(answer)
        return answer

    async def _ask(self, typed: Any, scope: streams.Scope | None) -> Any:
        if self._llm is None:
            raise EngineDeadError
        raw = None if scope is None else scope.raw_request
        if isinstance(typed, ChatCompletionRequest):
            return await self._state.openai_serving_chat.create_chat_completion(typed, raw)
        return await self._state.openai_serving_completion.create_completion(typed, raw)

    def _check_alive(self, llm: AsyncLLM | None, error: Exception | None) -> None:
        """Raise EngineError if the engine that was asked has died: what vLLM answers then is not about the request."""
        if isinstance(error, EngineDeadError) or llm is not self._llm or llm is None or llm.errored:
            # What vLLM says of a dead engine is the same whatever the reason; its log has it.
            why = "" if error is None or isinstance(error, EngineDeadError) else f": {first_line(error)}"
            raise EngineError(f"vLLM's engine has died{why}") from error

    def kill(self) -> None:
        """Kill the engine's processes."""
        self._processes.kill()

    def close(self) -> None:
        """End the engine's processes; calls in flight raise EngineError."""
        self._processes.kill()
        if self._llm is not None:
            self._llm.output_processor.propagate_error(EngineDeadError())
            self._llm.shutdown()
        self._llm, self._line, self._state = None, None, State()
        self._processes.wait()
        gc.collect()  # vLLM's objects hold each other, and with them threads and sockets


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _spawner(config: Any) -> Any:
    """The module that spawns the engine's first process; None where that must not have imported vLLM before."""
    # A compiler reads its settings when it is imported, and on CPUs vLLM makes some for it.
    if current_platform.is_cpu() and not config.model_config.enforce_eager:
        return None
    return spawner if hasattr(spawner, "get_mp_context") else None


def _can_fork() -> bool:
    """The engine's first process can fork the others: they need no GPU, and its OpenMP is PyTorch's."""
    others = set(OPENMP.findall(os.environ.get(PRELOAD, ""))) - {"g"}
    return bool(current_platform.is_cpu()) and not others


def _describe(choices: list[Choice], config: Any) -> str:
    scheduler = config.scheduler_config
    where = "CPU" if current_platform.is_cpu() else current_platform.get_device_name()
    chosen = ", ".join(map(str, choices)) or (
        f"max_num_seqs={scheduler.max_num_seqs}, max_num_batched_tokens={scheduler.max_num_batched_tokens} "
        "(vLLM's own for offline inference)"
    )
    return f"vLLM {VLLM_VERSION} on {where}: {chosen}"


os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
