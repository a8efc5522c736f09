"""The JSON Schema of an experiment's input and output."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema


class _SchemaGenerator(GenerateJsonSchema):
    """Leaves out a default that JSON cannot hold; there is nothing that a user could do about it."""

    ignored_warning_kinds = GenerateJsonSchema.ignored_warning_kinds | {"non-serializable-default"}


def io_schema(input_type: type[BaseModel], output_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of both models."""
    return {"input": model_schema(input_type), "output": model_schema(output_type)}


def model_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON Schema; of a field that has none, only the name is given."""
    try:
        return model.model_json_schema(schema_generator=_SchemaGenerator)
    except PydanticInvalidForJsonSchema:
        fields = {name: {"description": info.description or ""} for name, info in model.model_fields.items()}
        return {"title": model.__name__, "type": "object", "properties": fields}
