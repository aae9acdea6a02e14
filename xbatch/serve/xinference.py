"""What Xinference's clients ask for besides the API of OpenAI: they find a model first, or launch it."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xbatch.serve.bodies import read_object
from xbatch.serve.errors import ApiProblem, Json
from xbatch.serve.models import Served


def xinference_router(served: Served, *, auth: bool) -> APIRouter:
    """The routes of Xinference's REST API that its chat and generate clients use."""
    router = APIRouter(tags=["Xinference"])

    @router.get("/v1/cluster/auth", summary="Tell whether an API key is needed")
    async def cluster_auth() -> Response:
        return Json({"auth": auth})

    @router.post(
        "/v1/models",
        summary="Attach to the model that is served; no other can be launched",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _LAUNCH}}}},
        responses={400: {"description": "Another model"}},
    )
    async def launch_model(http: HttpRequest) -> Response:
        body, _ = await read_object(http)
        return Json({"model_uid": _attach(body, served)})

    @router.delete(
        "/v1/models/{model:path}", summary="Refused: the server has one model", responses={400: {"description": "No"}}
    )
    async def terminate_model(model: str) -> Response:
        served.check_name(model)
        raise ApiProblem(400, f"{model!r} is what this server was started for; stop the server to end it")

    return router


_LAUNCH = {
    "type": "object",
    "properties": {name: {"type": ["string", "null"]} for name in ("model_uid", "model_name")},
    "additionalProperties": True,
}


def _attach(body: dict[str, Any], served: Served) -> str:
    given = [name for name in (body.get("model_uid"), body.get("model_name")) if name is not None]
    for name in given:
        if name in served.names or name in served.adapters:
            return str(name)
    known = ", ".join([*served.names, *served.adapters])
    asked = " or ".join(repr(name)[:200] for name in given) or "no name"
    raise ApiProblem(400, f"this server has {known} and can't launch another model ({asked})", param="model_name")
