from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, Field, HttpUrl, SecretBytes, SecretStr, ValidationError, field_serializer
from typing_extensions import TypeAliasType

from scythe import ExperimentInputSpec, ExperimentOutputSpec, FileReference, OptionalFileReference
from scythe.errors import OutputError
from scythe.specs import accepts_none, annotation_shape, file_fields, serialized_fields, spec_id, text_fields, to_plain


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Mode(StrEnum):
    FAST = "fast"


class Level(IntEnum):
    LOW = 1


class Mixed(Enum):
    NUMBER = 1
    TEXT = "one"


class Point(BaseModel):
    x: float = 0.0
    when: dt.datetime | None = None


@dataclass
class Pair:
    a: int
    b: int


T = TypeVar("T")
Meters = NewType("Meters", float)
Alias = TypeAliasType("Alias", int | None)


class Box(BaseModel, Generic[T]):
    item: T


# ---------------------------------------------------------------------------------------------------------------------
# shapes


@pytest.mark.parametrize(
    "annotation",
    [
        int, float, bool, str, bytes, complex, dt.datetime, dt.date, dt.time, dt.timedelta, Decimal, UUID, Path, Color,
        Mode, Level, HttpUrl, FileReference, OptionalFileReference, Literal["a", 3], Literal[None, "a"], int | str,
        int | None, Annotated[int, Field(ge=0)], Annotated[int | None, "note"], Meters, Alias, type(None),
    ],
)  # fmt: skip
def test_what_holds_one_value_becomes_an_index_level(annotation: Any) -> None:
    assert annotation_shape(annotation) == "scalar"


@pytest.mark.parametrize(
    "annotation",
    [
        list, dict, set, tuple, list[int], dict[str, float], tuple[int, ...], set[str], frozenset[int], Point, Pair,
        Box[int], Point | None, list[int] | None, int | list[int], Annotated[list[int], "note"], list[FileReference],
    ],
)  # fmt: skip
def test_what_holds_several_values_is_left_out_of_the_index(annotation: Any) -> None:
    assert annotation_shape(annotation) == "nested"


@pytest.mark.parametrize("annotation", [Any, object, T, Any | None])
def test_what_may_hold_anything_is_judged_by_its_values(annotation: Any) -> None:
    assert annotation_shape(annotation) == "open"


class Fields(ExperimentInputSpec):
    a_file: FileReference
    maybe_file: OptionalFileReference = None
    also: FileReference | None = None
    noted: Annotated[FileReference, Field(description="a file")] = Path("x")
    files: list[FileReference] = Field(default_factory=list)
    path: Path = Path("y")
    number: int | None = None
    either: int | str = 0
    mixed: Mixed = Mixed.TEXT
    clock: dt.time | float = 0.0
    literal: Literal["a", None] = None
    anything: Any = None
    count: int | float = 0
    given: int = 0

    @field_serializer("given")
    def write_given(self, value: int) -> str:
        return str(value)


def test_file_fields_are_those_annotated_as_file_references() -> None:
    assert file_fields(Fields) == ("a_file", "maybe_file", "also", "noted")


def test_a_field_that_mixes_text_or_times_with_numbers_is_shown_as_text() -> None:
    assert text_fields(Fields) == {"either", "mixed", "clock"}


@pytest.mark.parametrize("name", ["maybe_file", "also", "number", "literal", "anything", "not_a_field"])
def test_a_field_accepts_none_if_its_annotation_says_so(name: str) -> None:
    assert accepts_none(Fields, name)


@pytest.mark.parametrize("name", ["a_file", "either", "count", "path", "files"])
def test_a_field_does_not_accept_none_otherwise(name: str) -> None:
    assert not accepts_none(Fields, name)


def test_fields_with_a_serializer_of_their_own_are_known() -> None:
    assert serialized_fields(Fields) == {"given"}


# ---------------------------------------------------------------------------------------------------------------------
# input specs


class Design(ExperimentInputSpec):
    name: str
    size: float = 1.5
    color: Color = Color.RED
    network: FileReference = Path("a.inp")
    points: list[float] = Field(default_factory=list)
    where: Point | None = None
    anything: Any = None

    @property
    def computed_features(self) -> dict[str, Any]:
        return {"area": self.size**2}


BASE = ["experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id"]


def test_the_index_has_the_ids_then_the_fields_then_the_computed_features() -> None:
    spec = Design(name="d", where=Point(), anything=7, extra="e")
    index = spec.make_multiindex()
    assert list(index.names) == [*BASE, "name", "size", "color", "network", "anything", "extra", "area"]
    assert index.droplevel(["workflow_run_id", "root_workflow_run_id"])[0] == (
        "", 0, "d", 1.5, "red", "a.inp", 7, "e", 2.25,
    )  # fmt: skip


@pytest.mark.parametrize("anything", [[1], {"a": 1}, Point(), (1, 2), np.zeros(2)])
def test_an_open_field_that_holds_something_nested_is_no_level(anything: Any) -> None:
    assert "anything" not in Design(name="d", anything=anything).make_multiindex().names


def test_an_index_of_several_rows_numbers_them_in_its_last_level() -> None:
    index = Design(name="d").make_multiindex(n_rows=3)
    assert index.names[-1] == "sort_subindex"
    assert list(index.get_level_values("sort_subindex")) == [0, 1, 2]
    assert list(index.get_level_values("name")) == ["d"] * 3


def test_an_index_of_one_row_does_not_number_it() -> None:
    assert "sort_subindex" not in Design(name="d").make_multiindex(n_rows=1).names


def test_rows_need_not_be_numbered() -> None:
    assert "sort_subindex" not in Design(name="d").make_multiindex(n_rows=2, include_sort_subindex=False).names


def test_an_index_of_no_rows_has_the_levels_all_the_same() -> None:
    spec = Design(name="d")
    index = spec.make_multiindex(n_rows=0)
    assert len(index) == 0
    assert index.names == spec.make_multiindex().names
    assert pd.DataFrame({"a": []}, index=index).empty


def test_one_mapping_of_additional_data_is_for_every_row() -> None:
    index = Design(name="d").make_multiindex(additional_index_data={"hour": 3, "zone": "a"}, n_rows=2)
    assert list(index.names)[-4:] == ["area", "hour", "zone", "sort_subindex"]
    assert list(index.get_level_values("hour")) == [3, 3]


def test_a_list_of_additional_data_has_a_mapping_for_each_row() -> None:
    rows = [{"hour": 1}, {"hour": 2}, {"hour": 4, "zone": "b"}]
    index = Design(name="d").make_multiindex(additional_index_data=rows)
    assert list(index.get_level_values("hour")) == [1, 2, 4]
    assert index.get_level_values("zone")[2] == "b"
    assert index.get_level_values("zone")[:2].isna().all()
    assert list(index.get_level_values("sort_subindex")) == [0, 1, 2]
    assert index.equals(Design(name="d").make_multiindex(additional_index_data=rows, n_rows=3))


def test_a_list_of_additional_data_must_have_as_many_rows_as_asked_for() -> None:
    with pytest.raises(ValueError, match=r"n_rows=3, but additional_index_data has 2 rows"):
        Design(name="d").make_multiindex(additional_index_data=[{"hour": 1}, {"hour": 2}], n_rows=3)


def test_additional_data_cannot_hide_a_level_of_the_spec() -> None:
    with pytest.raises(ValueError, match="'size', which is a level anyway"):
        Design(name="d").make_multiindex(additional_index_data={"size": 3})


def test_levels_can_be_left_out_and_given_otherwise() -> None:
    excludes = frozenset({"size", "area", *BASE})
    index = Design(name="d").make_multiindex(additional_index_data={"size": 3}, additional_excludes=excludes)
    assert list(index.names) == ["name", "color", "network", "anything", "size"]


def test_a_spec_takes_fields_it_does_not_know() -> None:
    assert Design(name="d", extra=1).extra == 1  # type: ignore[attr-defined]


def test_a_sort_index_is_not_negative() -> None:
    with pytest.raises(ValidationError):
        Design(name="d", sort_index=-1)


def test_output_files_are_named_by_the_id_of_the_spec_and_keep_their_last_suffix() -> None:
    spec = Design(name="d", experiment_id="study/v1.0.0/t", workflow_run_id="0b8e")
    assert spec.prefix == "study/v1.0.0/t"
    assert spec.construct_output_key("report", Path("a/b.tar.gz")) == "study/v1.0.0/t/results/report/0b8e.gz"
    assert spec.construct_output_key("report", "none") == "study/v1.0.0/t/results/report/0b8e"


def test_what_a_spec_logs_goes_to_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    Design(name="d").log("a line")
    assert capsys.readouterr().out == "a line\n"


def test_the_id_of_a_spec_follows_from_its_run_and_its_place() -> None:
    root = "0b8e7f7c-7c0e-4d0a-9f5c-3d8f2a6b1c4e"
    ids = [spec_id(root, row) for row in (0, 1, 2**40)]
    assert ids == [spec_id(root, row) for row in (0, 1, 2**40)]
    assert len({*ids, root}) == 4
    assert [str(UUID(text)) for text in ids] == ids


# ---------------------------------------------------------------------------------------------------------------------
# output specs


class Result(ExperimentOutputSpec):
    y: float = 0.0


def test_a_data_frame_is_taken_as_it_is() -> None:
    frame = pd.DataFrame({"a": [1]})
    assert Result(dataframes={"f": frame}).dataframes["f"] is frame


@pytest.mark.parametrize(("name", "column"), [("level", "level"), (None, "value"), (0, 0)])
def test_a_series_is_a_frame_of_one_column(name: Any, column: Any) -> None:
    series = pd.Series([1.0, 2.0], index=pd.Index([3, 4], name="hour"), name=name)
    frame = Result(dataframes={"f": series}).dataframes["f"]
    pd.testing.assert_frame_equal(frame, pd.DataFrame({column: [1.0, 2.0]}, index=series.index))


@pytest.mark.parametrize("value", [[1, 2], {"a": [1]}, np.zeros(2), None, "frame"])
def test_what_is_no_data_frame_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="give a pandas DataFrame"):
        Result(dataframes={"f": value})


# ---------------------------------------------------------------------------------------------------------------------
# plain values


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1, 1),
        (2**70, 2**70),
        (True, True),
        ("ü", "ü"),
        (None, None),
        (b"\xff", b"\xff"),
        (dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 2)),
        (Color.RED, "red"),
        (Mode.FAST, "fast"),
        (Level.LOW, 1),
        (Mixed.NUMBER, 1),
        (Path("a/b"), "a/b"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), str(UUID(int=1))),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int8(3), 3),
        (np.uint64(2**63), 2**63),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.datetime64("2020-01-02T03:04:05", "s"), dt.datetime(2020, 1, 2, 3, 4, 5)),
        (np.datetime64("2020-01-02T03:04:05", "ns"), dt.datetime(2020, 1, 2, 3, 4, 5)),
        (np.datetime64("NaT"), None),
        (np.timedelta64(1500, "ms"), dt.timedelta(seconds=1.5)),
        (np.timedelta64(1500, "ns"), dt.timedelta(microseconds=1)),
        (pd.Timestamp("2020-01-02 03:04:05"), dt.datetime(2020, 1, 2, 3, 4, 5)),
        (pd.Timedelta("1.5s"), dt.timedelta(seconds=1.5)),
        (pd.NaT, None),
        (pd.NA, None),
        ((1, "a"), [1, "a"]),
        ([np.int64(1), Color.RED], [1, "red"]),
        ({"a": np.float64(1), "b": {}}, {"a": 1.0, "b": {}}),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (Point(x=2), {"x": 2.0, "when": None}),
        (Pair(1, 2), {"a": 1, "b": 2}),
    ],
)
def test_a_value_becomes_plain_data_of_the_same_meaning(value: Any, plain: Any) -> None:
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)


def test_nan_and_infinities_stay_what_they_are() -> None:
    assert [repr(value) for value in to_plain([float("nan"), float("inf"), -float("inf")])] == ["nan", "inf", "-inf"]
    assert repr(to_plain(np.float32("nan"))) == "nan"


@pytest.mark.parametrize("value", [SecretStr("x"), SecretBytes(b"x")])
def test_a_secret_is_refused_and_neither_stored_nor_masked(value: Any) -> None:
    with pytest.raises(OutputError, match="a secret is not stored"):
        to_plain(value)


@pytest.mark.parametrize("value", [object(), open, [object()], {"a": object()}])
def test_a_value_that_cannot_be_stored_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(OutputError, match=f"a value of type {type(value).__name__} cannot be stored"):
        to_plain(value)
