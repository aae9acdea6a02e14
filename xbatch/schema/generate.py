"""JSON Schemas (draft 2020-12) from the models."""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from xbatch import storage
from xbatch.job.spec import JobSpec
from xbatch.schema.lines import RequestLine, ResponseLine
from xbatch.schema.standing import Report, Status
from xbatch.schema.validation import ValidationLine

MODELS: dict[str, type[BaseModel]] = {
    "job": JobSpec,
    "request": RequestLine,
    "response": ResponseLine,
    "status": Status,
    "report": Report,
    "validate": ValidationLine,
}
"""What is described, by the name of its schema."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Plain(GenerateJsonSchema):
    """Names of fields are not repeated as titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _WithVariables(_Plain):
    """In a job file a text with an environment variable may stand where a number or a word is meant."""

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_variable(super().int_schema(schema))

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_variable(super().float_schema(schema))

    def bool_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_variable(super().bool_schema(schema))

    def literal_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_variable(super().literal_schema(schema))


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of one of MODELS."""
    model = MODELS[name]
    if model is JobSpec:
        found = model.model_json_schema(schema_generator=_WithVariables)
        del found["required"]  # the command line may name the inputs
    else:
        found = model.model_json_schema(schema_generator=_Plain)
    return {"$schema": _DIALECT, "$id": f"{name}.schema.json", **found}


def text_of(name: str) -> str:
    """The schema as it stands in its file."""
    return json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"


def write_all(folder: str) -> list[str]:
    """Write every schema as `<name>.schema.json` and return the names of the files.

    Raises StorageError.
    """
    store = storage.open_store(folder)
    names = [f"{name}.schema.json" for name in MODELS]
    for name, file in zip(MODELS, names, strict=True):
        store.put(file, text_of(name).encode())
    return names


def _or_variable(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, {"type": "string", "pattern": r"\$\{"}]}
