"""The models that are served: their cards, for OpenAI's clients and Xinference's at once."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from xbatch.engines import ModelCard
from xbatch.serve.errors import ApiProblem, Json
from xbatch.serve.keeper import EngineKeeper, unavailable


class Served:
    """The one model that is served, under all of its names, and its adapters."""

    def __init__(self, keeper: EngineKeeper, names: Sequence[str], adapters: Sequence[str], started: int) -> None:
        self.names = list(dict.fromkeys(names))
        self.adapters = list(adapters)
        self._keeper = keeper
        self._started = started

    @property
    def card(self) -> ModelCard:
        """What the model is and can do. Raises ApiProblem while it was never loaded."""
        if (engine := self._keeper.known) is None:
            raise unavailable("the model is being loaded: try again in a moment")
        return engine.card

    def cards(self) -> list[dict[str, Any]]:
        """The cards of all names, the model's own first."""
        return list(self._cards())

    def describe(self, name: str) -> dict[str, Any]:
        """The card of one name. Raises ApiProblem if nothing is served under it."""
        self.check_name(name)
        return next(card for card in self._cards() if card["id"] == name)

    def check_name(self, name: Any) -> None:
        """Raise ApiProblem if nothing is served under a name; a request may leave it out."""
        if name is None or name in self.names or name in self.adapters:
            return
        if not isinstance(name, str):
            raise ApiProblem(400, "model is not a text", param="model")
        known = ", ".join([*self.names, *self.adapters])
        text = f"The model {name[:200]!r} does not exist; this server has {known}."
        raise ApiProblem(404, text, param="model", code="model_not_found")

    def check_ability(self, ability: str, hint: str) -> None:
        """Raise ApiProblem if the model lacks an ability."""
        if ability not in self.card.abilities:
            raise ApiProblem(400, f"the model {self.names[0]!r} has no {ability} ability; {hint}", param="model")

    def _cards(self) -> Iterator[dict[str, Any]]:
        for name in self.names:
            yield self._card(name, None)
        for name in self.adapters:
            yield self._card(name, self.names[0])

    def _card(self, name: str, parent: str | None) -> dict[str, Any]:
        """Format: OpenAI's model object, with the fields of vLLM's and of Xinference's description beside it."""
        card = self.card
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "xbatch",
            "root": self.names[0],
            "parent": parent,
            "max_model_len": card.context_tokens,
            "model_type": "LLM",
            "model_uid": name,
            "model_name": name,
            "model_lang": [],
            "model_ability": list(card.abilities),
            "model_description": f"{name}, served by xbatch",
            "model_format": "pytorch" if card.quantization is None else card.quantization,
            "model_family": self.names[0],
            "model_size_in_billions": None if card.parameters is None else round(card.parameters / 1e9, 3),
            "quantization": card.quantization or card.dtype,
            "revision": card.revision,
            "context_length": card.context_tokens,
        }


def models_router(served: Served) -> APIRouter:
    """The routes that tell what is served."""
    router = APIRouter(tags=["Models"])

    @router.get("/v1/models", summary="List what is served")
    async def list_models() -> Response:
        return Json({"object": "list", "data": served.cards()})

    # Names may hold slashes, which clients send as they are or encoded.
    @router.get("/v1/models/{model:path}", summary="Describe one model", responses={404: {"description": "Unknown"}})
    async def describe_model(model: str) -> Response:
        return Json(served.describe(model))

    return router
