from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pydantic import Field

from scythe import ExperimentInputSpec, ExperimentOutputSpec, FileReference
from scythe.schemas import io_schema


class Design(ExperimentInputSpec):
    """One design."""

    size: float = Field(..., ge=0, description="Size [m]")
    raw: bytes = b"\xff"
    network: FileReference = Path("a")


class Result(ExperimentOutputSpec):
    y: float


class Unusual(ExperimentInputSpec):
    lock: Any = Field(default_factory=threading.Lock)
    thread: threading.Thread = Field(..., description="A thread")


def test_the_schema_has_both_models_with_bounds_and_descriptions() -> None:
    schema = io_schema(Design, Result)
    size = schema["input"]["properties"]["size"]
    assert (size["minimum"], size["description"]) == (0, "Size [m]")
    assert schema["input"]["required"] == ["size"]
    assert schema["output"]["properties"]["y"]["type"] == "number"


def test_where_a_run_is_kept_is_no_part_of_the_schema() -> None:
    assert "storage_settings" not in io_schema(Design, Result)["input"]["properties"]


def test_of_a_model_that_has_no_schema_the_fields_are_given_all_the_same() -> None:
    schema = io_schema(Unusual, Result)["input"]
    assert schema["title"] == "Unusual"
    assert schema["properties"]["thread"]["description"] == "A thread"
