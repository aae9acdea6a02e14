"""From a request's body to vLLM's own request object, or to the refusal that its server makes."""

from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from xbatch.engines.vllm import refusals
from xbatch.rows.request import CHAT, Request

_STREAMING_FIELDS = ("stream", "stream_options")
_NO_LIMIT = 1 << 40


class _ToTheEnd(CompletionRequest):
    """A completion that goes on to the end of the context, which vLLM's own class can't ask for."""

    max_tokens: int | None = _NO_LIMIT

    def build_tok_params(self, model_config: Any) -> Any:
        """As for any completion, but no room is kept for the answer: it gets what the prompt leaves."""
        limit, self.max_tokens = self.max_tokens, 0
        try:
            return super().build_tok_params(model_config)
        finally:
            self.max_tokens = limit


async def typed_body(request: Request, *, stream: bool = False) -> Any:
    """The request as vLLM's ChatCompletionRequest or CompletionRequest, or a Failure."""
    body = request.body
    if not stream:
        body = {name: value for name, value in body.items() if name not in _STREAMING_FIELDS}
    kind = ChatCompletionRequest if request.endpoint == CHAT else CompletionRequest
    if kind is CompletionRequest and request.to_context_end and body.get("max_tokens") is None:
        kind, body = _ToTheEnd, body | {"max_tokens": _NO_LIMIT}
    try:
        # FastAPI validates this way, and the words of a refusal depend on it.
        return kind.model_validate(body, from_attributes=True)
    except ValidationError as e:
        return await refusals.refuse_invalid(e, body)
    except Exception as e:  # noqa: BLE001 - some of vLLM's validators raise what pydantic lets through
        return refusals.refuse_exception(e)
