"""Every type of field: a simulation gets exactly what was given, and the index has the levels the rule says.

One run for each group of types; the simulation itself compares what it got with what was given.
"""

from __future__ import annotations

import datetime as dt
import math
import warnings
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from pydantic import BaseModel, Field

from scythe import BaseExperiment, ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry, ExperimentRun
from scythe.runs import SpecsFailedWarning
from scythe.settings import ScytheStorageSettings

BASE = ["experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id"]


class Checked(ExperimentOutputSpec):
    got: int


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Mode(StrEnum):
    FAST = "fast"
    SLOW = "slow"


class Grade(IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(Enum):
    NUMBER = 1
    TEXT = "one"


class Point(BaseModel):
    x: float = 0.0
    when: dt.datetime | None = None
    tags: dict[str, int] = Field(default_factory=dict)


@dataclass
class Pair:
    a: int
    b: str


def same(a: Any, b: Any) -> bool:
    """Compare values and their types, all the way down; NaN is NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    if isinstance(a, dt.datetime) and isinstance(b, dt.datetime):
        return a.isoformat() == b.isoformat()
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def check(spec: ExperimentInputSpec, cases: list[dict[str, Any]]) -> Checked:
    """Compare a spec with what was given; a difference fails the spec."""
    given = cases[spec.sort_index]
    found = {name: getattr(spec, name) for name in given}
    assert same(found, given), f"got {found}, not {given}"
    extras = spec.__pydantic_extra__ or {}
    assert set(extras) == set(given) - set(type(spec).model_fields), f"extra fields are {set(extras)}"
    return Checked(got=len(given))


# ---------------------------------------------------------------------------------------------------------------------
# groups


class Scalars(ExperimentInputSpec):
    whole: int
    ratio: float
    flag: bool
    text: str
    choice: Literal["u", "v"]
    choice_of_both: Literal["u", 3]
    color: Color
    mode: Mode
    grade: Grade
    mixed: Mixed
    when: dt.datetime
    day: dt.date
    clock: dt.time
    span: dt.timedelta
    path: Path
    amount: Decimal
    id: UUID
    raw: bytes


SCALARS: list[dict[str, Any]] = [
    {
        "whole": 7, "ratio": 0.1, "flag": True, "text": "a", "choice": "u", "choice_of_both": "u", "color": Color.RED,
        "mode": Mode.SLOW, "grade": Grade.HIGH, "mixed": Mixed.NUMBER, "when": dt.datetime(2020, 1, 2, 3, 4, 5, 678901),
        "day": dt.date(2020, 2, 29), "clock": dt.time(23, 59, 59, 1), "span": dt.timedelta(days=-1, microseconds=1),
        "path": Path("a b/ü.inp"), "amount": Decimal("1.10"), "id": UUID(int=7), "raw": b"\x00\xff",
    },
    {
        "whole": -(2**63), "ratio": -0.0, "flag": False, "text": "", "choice": "v", "choice_of_both": 3,
        "color": Color.BLUE, "mode": Mode.FAST, "grade": Grade.LOW, "mixed": Mixed.TEXT,
        "when": dt.datetime(1, 1, 1), "day": dt.date(9999, 12, 31), "clock": dt.time(0),
        "span": dt.timedelta(days=100_000), "path": Path("/"), "amount": Decimal("-1E+30"), "id": UUID(int=2**128 - 1),
        "raw": b"",
    },
]  # fmt: skip

SCALAR_LEVELS = {
    "whole": [7, -(2**63)],
    "ratio": [0.1, 0.0],
    "flag": [True, False],
    "text": ["a", ""],
    "choice": ["u", "v"],
    "choice_of_both": ["u", "3"],
    "color": ["red", "blue"],
    "mode": ["slow", "fast"],
    "grade": [2, 1],
    "mixed": ["1", "one"],
    "when": [pd.Timestamp(2020, 1, 2, 3, 4, 5, 678901), dt.datetime(1, 1, 1)],
    "day": [dt.date(2020, 2, 29), dt.date(9999, 12, 31)],
    "clock": [dt.time(23, 59, 59, 1), dt.time(0)],
    "span": [dt.timedelta(days=-1, microseconds=1), dt.timedelta(days=100_000)],
    "path": ["a b/ü.inp", "/"],
    "amount": ["1.10", "-1E+30"],
    "id": [str(UUID(int=7)), str(UUID(int=2**128 - 1))],
    "raw": [b"\x00\xff", b""],
}


@ExperimentRegistry.Register()
def check_scalars(input_spec: Scalars) -> Checked:
    return check(input_spec, SCALARS)


class Optionals(ExperimentInputSpec):
    whole: int | None = 5
    ratio: float | None = None
    flag: bool | None = None
    text: str | None = None
    choice: Literal["u", "v", None] = None
    color: Color | None = None
    grade: Grade | None = None
    when: dt.datetime | None = None
    day: dt.date | None = None
    span: dt.timedelta | None = None
    path: Path | None = None
    never: int | None = None


OPTIONALS: list[dict[str, Any]] = [
    {
        "whole": None, "ratio": None, "flag": None, "text": None, "choice": None, "color": None, "grade": None,
        "when": None, "day": None, "span": None, "path": None, "never": None,
    },
    {
        "whole": 3, "ratio": math.nan, "flag": False, "text": "", "choice": "u", "color": Color.RED, "grade": Grade.LOW,
        "when": dt.datetime(2020, 1, 1), "day": dt.date(2020, 1, 1), "span": dt.timedelta(0), "path": Path("a"),
        "never": None,
    },
    {
        "whole": 0, "ratio": 0.5, "flag": True, "text": "None", "choice": "v", "color": Color.BLUE, "grade": Grade.HIGH,
        "when": dt.datetime(2021, 1, 1), "day": dt.date(2021, 1, 1), "span": dt.timedelta(1), "path": Path("b"),
        "never": None,
    },
]  # fmt: skip

OPTIONAL_LEVELS = {
    "whole": [None, 3, 0],
    "ratio": [None, None, 0.5],
    "flag": [None, False, True],
    "text": [None, "", "None"],
    "choice": [None, "u", "v"],
    "color": [None, "red", "blue"],
    "grade": [None, 1, 2],
    "when": [None, pd.Timestamp(2020, 1, 1), pd.Timestamp(2021, 1, 1)],
    "day": [None, dt.date(2020, 1, 1), dt.date(2021, 1, 1)],
    "span": [None, dt.timedelta(0), dt.timedelta(1)],
    "path": [None, "a", "b"],
    "never": [None, None, None],
}


@ExperimentRegistry.Register()
def check_optionals(input_spec: Optionals) -> Checked:
    return check(input_spec, OPTIONALS)


class Numbers(ExperimentInputSpec):
    past_2_53: int
    past_2_53_or_none: int | None
    past_2_63: int
    past_2_64: int
    ratio: float
    ratio_or_none: float | None
    small_or_none: int | None
    small_or_ratio: int | float


NUMBERS: list[dict[str, Any]] = [
    {
        "past_2_53": 2**53 + 1, "past_2_53_or_none": 2**53 + 1, "past_2_63": 2**63, "past_2_64": 2**64,
        "ratio": math.nan, "ratio_or_none": None, "small_or_none": 2**53, "small_or_ratio": 0.5,
    },
    {
        "past_2_53": -(2**53) - 1, "past_2_53_or_none": None, "past_2_63": 2**63 - 1, "past_2_64": -(10**30),
        "ratio": math.inf, "ratio_or_none": math.nan, "small_or_none": None, "small_or_ratio": 1e300,
    },
    {
        "past_2_53": 2**63 - 1, "past_2_53_or_none": -(2**62) - 1, "past_2_63": 0, "past_2_64": 1,
        "ratio": -math.inf, "ratio_or_none": 5e-324, "small_or_none": -1, "small_or_ratio": -math.inf,
    },
]  # fmt: skip

NUMBER_LEVELS = {
    "past_2_53": [2**53 + 1, -(2**53) - 1, 2**63 - 1],
    "past_2_53_or_none": [str(2**53 + 1), None, str(-(2**62) - 1)],
    "past_2_63": [str(2**63), str(2**63 - 1), "0"],
    "past_2_64": [str(2**64), str(-(10**30)), "1"],
    "ratio": [None, math.inf, -math.inf],
    "ratio_or_none": [None, None, 5e-324],
    "small_or_none": [2**53, None, -1],
    "small_or_ratio": [0.5, 1e300, -math.inf],
}


@ExperimentRegistry.Register()
def check_numbers(input_spec: Numbers) -> Checked:
    return check(input_spec, NUMBERS)


class Texts(ExperimentInputSpec):
    text: str


TEXTS: list[dict[str, Any]] = [
    {"text": text}
    for text in [
        "",
        " ",
        "ü",
        "日本語",
        "😀",
        "a\nb\t",
        "a\0b",
        "null",
        "NaN",
        "1",
        "nan",
        "a" * 10_000,
        "'\"\\",
        "e\u0301",
    ]
]


@ExperimentRegistry.Register()
def check_texts(input_spec: Texts) -> Checked:
    return check(input_spec, TEXTS)


class Unions(ExperimentInputSpec):
    number_or_text: int | str
    number_text_or_none: float | str | None
    flag_or_number: bool | int
    time_or_text: dt.datetime | str
    anything: Any


UNIONS: list[dict[str, Any]] = [
    {
        "number_or_text": 1, "number_text_or_none": "1.5", "flag_or_number": True,
        "time_or_text": dt.datetime(2020, 1, 1), "anything": 1,
    },
    {"number_or_text": "1", "number_text_or_none": 1.5, "flag_or_number": 1, "time_or_text": "soon", "anything": "1"},
    {"number_or_text": "ü", "number_text_or_none": None, "flag_or_number": 2, "time_or_text": "", "anything": None},
    {
        "number_or_text": 2**70, "number_text_or_none": 1.0, "flag_or_number": 0, "time_or_text": "",
        "anything": math.inf,
    },
]  # fmt: skip

UNION_LEVELS = {
    "number_or_text": ["1", "1", "ü", str(2**70)],
    "number_text_or_none": ["1.5", "1.5", None, "1.0"],
    "flag_or_number": ["true", "1", "2", "0"],
    "time_or_text": ["2020-01-01T00:00:00", "soon", "", ""],
    "anything": ["1", "1", None, "Infinity"],
}


@ExperimentRegistry.Register()
def check_unions(input_spec: Unions) -> Checked:
    return check(input_spec, UNIONS)


class Nested(ExperimentInputSpec):
    before: int = 1
    ratios: list[float]
    deep: list[list[int | None]]
    sizes: dict[str, float]
    always_empty: dict[str, int]
    by_number: dict[int, str]
    point: Point
    point_or_none: Point | None
    points: list[Point]
    pair: Pair
    both: tuple[int, str]
    many: tuple[float, ...]
    names: set[str]
    colors: list[Color]
    days: list[dt.date]
    paths: list[Path]
    number_or_list: int | list[int]
    bare: dict[str, Any]
    open_list: Any
    after: int = 2


NESTED: list[dict[str, Any]] = [
    {
        "before": 1, "ratios": [1.0, math.nan, -math.inf], "deep": [[1, None], []], "sizes": {"a": 1.0},
        "always_empty": {}, "by_number": {1: "a"}, "point": Point(x=1, when=dt.datetime(2020, 1, 1), tags={"a": 2**60}),
        "point_or_none": None, "points": [Point(), Point(x=math.inf)], "pair": Pair(1, "b"), "both": (1, "a"),
        "many": (1.0, 2.0), "names": {"a", "b"}, "colors": [Color.BLUE], "days": [dt.date(2020, 1, 1)],
        "paths": [Path("a b")], "number_or_list": 3, "bare": {"a": [1, {"b": None}], "c": "é"}, "open_list": [1],
        "after": 2,
    },
    {
        "before": 3, "ratios": [], "deep": [], "sizes": {"b": math.nan, "c": 2.0}, "always_empty": {}, "by_number": {},
        "point": Point(), "point_or_none": Point(x=2), "points": [], "pair": Pair(2, ""), "both": (2**70, "ü"),
        "many": (), "names": set(), "colors": [], "days": [], "paths": [], "number_or_list": [3], "bare": {},
        "open_list": 1, "after": 4,
    },
    {
        "before": 5, "ratios": [0.1], "deep": [[2**70]], "sizes": {}, "always_empty": {}, "by_number": {2**40: ""},
        "point": Point(tags={"ü": 1}), "point_or_none": None, "points": [Point()], "pair": Pair(3, "x"),
        "both": (0, ""), "many": (math.nan,), "names": {"ü"}, "colors": [Color.RED, Color.RED],
        "days": [dt.date(1, 1, 1)], "paths": [Path("/")], "number_or_list": [], "bare": {"other": 1.5},
        "open_list": "a", "after": 6,
    },
]  # fmt: skip


@ExperimentRegistry.Register()
def check_nested(input_spec: Nested) -> Checked:
    return check(input_spec, NESTED)


class Open(ExperimentInputSpec):
    known: int


EXTRAS: list[dict[str, Any]] = [
    {"known": 0, "number": 1, "text": "a", "some": None, "list": [1], "mixed": 1, "odd": "a\udce9", "late": 1.5},
    {"known": 1, "number": 2, "text": "ü", "list": [], "mixed": "a"},
    {"known": 2, "number": 3, "text": "", "some": 4, "mixed": None, "only": {"a": 1}},
]

EXTRA_LEVELS = {
    "known": [0, 1, 2],
    "number": [1, 2, 3],
    "text": ["a", "ü", ""],
    "some": [None, None, "4"],
    "mixed": ["1", "a", None],
    "odd": ["a\\udce9", None, None],
    "late": [1.5, None, None],
}


@ExperimentRegistry.Register()
def check_extras(input_spec: Open) -> Checked:
    return check(input_spec, EXTRAS)


class Times(ExperimentInputSpec):
    in_one_zone: dt.datetime
    in_several_zones: dt.datetime
    in_utc_or_none: dt.datetime | None


BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")

TIMES: list[dict[str, Any]] = [
    {
        "in_one_zone": dt.datetime(2020, 1, 1, 12, tzinfo=BERLIN),
        "in_several_zones": dt.datetime(2020, 1, 1, 12, tzinfo=BERLIN),
        "in_utc_or_none": None,
    },
    {
        "in_one_zone": dt.datetime(2020, 7, 1, 12, tzinfo=BERLIN),
        "in_several_zones": dt.datetime(2020, 1, 1, 12, 0, 0, 1, tzinfo=NEW_YORK),
        "in_utc_or_none": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    },
]

TIME_LEVELS = {
    "in_one_zone": [pd.Timestamp(case["in_one_zone"]) for case in TIMES],
    "in_several_zones": ["2020-01-01T12:00:00+01:00", "2020-01-01T12:00:00.000001-05:00"],
    "in_utc_or_none": [None, pd.Timestamp("2020-01-01", tz="UTC")],
}


@ExperimentRegistry.Register()
def check_times(input_spec: Times) -> Checked:
    return check(input_spec, TIMES)


class Featured(ExperimentInputSpec):
    b: float
    a: float
    hidden: list[int] = Field(default_factory=list)

    @property
    def computed_features(self) -> dict[str, Any]:
        return {
            "total": self.a + self.b,
            "label": f"é{self.a:g}",
            "big": None if self.a else 2**40,
            "day": dt.date(2020, 1, 1),
            "mixed": "x" if self.a else 1,
        }


FEATURED: list[dict[str, Any]] = [{"b": 1.0, "a": 0.0, "z": "p"}, {"b": 2.0, "a": 1.0, "z": "q"}]

FEATURE_LEVELS = {
    "b": [1.0, 2.0],
    "a": [0.0, 1.0],
    "z": ["p", "q"],
    "total": [1.0, 3.0],
    "label": ["é0", "é1"],
    "big": [2**40, None],
    "day": [dt.date(2020, 1, 1)] * 2,
    "mixed": ["1", "x"],
}


@ExperimentRegistry.Register()
def check_features(input_spec: Featured) -> Checked:
    return check(input_spec, FEATURED)


GROUPS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "scalars": (check_scalars, SCALARS),
    "optionals": (check_optionals, OPTIONALS),
    "numbers": (check_numbers, NUMBERS),
    "texts": (check_texts, TEXTS),
    "unions": (check_unions, UNIONS),
    "nested": (check_nested, NESTED),
    "extras": (check_extras, EXTRAS),
    "times": (check_times, TIMES),
    "features": (check_features, FEATURED),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExperimentRun]:
    """Run every group; all share the processes of the embedded engine."""
    settings = ScytheStorageSettings(URL=str(tmp_path_factory.mktemp("fields")))
    started = {}
    for name, (experiment, cases) in GROUPS.items():
        specs = [experiment.input_type(**case) for case in cases]
        started[name] = BaseExperiment(runnable=experiment, storage_settings=settings).allocate(specs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpecsFailedWarning)  # a failure is for the tests of its group to report
        for run, _ in started.values():
            run.wait()
    return {name: run for name, (run, _) in started.items()}


@pytest.mark.parametrize("group", GROUPS)
def test_a_simulation_gets_what_was_given_with_its_type(group: str, runs: dict[str, ExperimentRun]) -> None:
    run, cases = runs[group], GROUPS[group][1]
    errors = run.errors()
    assert errors.empty, "\n".join(errors["message"])
    assert run.scalars()["got"].tolist() == [len(case) for case in cases]


def levels(run: ExperimentRun) -> dict[str, list[Any]]:
    """Return the levels behind the ids; what is missing is None."""
    index = run.scalars().index
    assert list(index.names[:4]) == BASE
    shown = {}
    for position, name in enumerate(index.names[4:], start=4):
        values = index.get_level_values(position)
        shown[name] = [None if missing else value for value, missing in zip(values, values.isna(), strict=True)]
    return shown


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("scalars", SCALAR_LEVELS),
        ("optionals", OPTIONAL_LEVELS),
        ("numbers", NUMBER_LEVELS),
        ("texts", {"text": [case["text"] for case in TEXTS]}),
        ("unions", UNION_LEVELS),
        ("nested", {"before": [1, 3, 5], "after": [2, 4, 6]}),
        ("extras", EXTRA_LEVELS),
        ("times", TIME_LEVELS),
        ("features", FEATURE_LEVELS),
    ],
)
def test_the_index_has_the_scalar_fields_in_order_of_definition(
    group: str, expected: dict[str, list[Any]], runs: dict[str, ExperimentRun]
) -> None:
    found = levels(runs[group])
    assert list(found) == list(expected)
    assert found == expected


@pytest.mark.parametrize(
    ("group", "dtypes"),
    [
        (
            "scalars",
            {
                "whole": "int64", "ratio": "float64", "flag": "bool", "grade": "int64", "when": "datetime64[us]",
                "span": "timedelta64[us]", "day": "object",
            },
        ),
        ("numbers", {"past_2_53": "int64", "small_or_none": "float64", "ratio": "float64"}),
        ("times", {"in_one_zone": "datetime64[us, Europe/Berlin]", "in_utc_or_none": "datetime64[us, UTC]"}),
        ("optionals", {"whole": "float64", "ratio": "float64", "when": "datetime64[us]", "span": "timedelta64[us]"}),
    ],
)  # fmt: skip
def test_a_level_has_the_type_of_its_field(group: str, dtypes: dict[str, str], runs: dict[str, ExperimentRun]) -> None:
    index = runs[group].scalars().index
    assert {name: str(index.get_level_values(name).dtype) for name in dtypes} == dtypes


@pytest.mark.parametrize("group", GROUPS)
def test_the_ids_say_which_spec_of_which_run_it_is(group: str, runs: dict[str, ExperimentRun]) -> None:
    run = runs[group]
    index = run.scalars().index
    root = run.manifest()["workflow_run_id"]
    assert set(index.get_level_values("experiment_id")) == {run.experiment_id}
    assert list(index.get_level_values("sort_index")) == list(range(len(index)))
    assert set(index.get_level_values("root_workflow_run_id")) == {root}
    ids = list(index.get_level_values("workflow_run_id"))
    assert len({*ids, root}) == len(ids) + 1
    assert [str(UUID(text)) for text in ids] == ids


@pytest.mark.parametrize("group", GROUPS)
def test_specs_are_kept_with_a_column_for_every_field(group: str, runs: dict[str, ExperimentRun]) -> None:
    specs, cases = runs[group].specs(), GROUPS[group][1]
    assert isinstance(specs.index, pd.RangeIndex)
    assert list(specs.columns[:4]) == BASE
    given = dict.fromkeys(name for case in cases for name in case)
    assert set(specs.columns[4:]) == {*given, *(name for name in specs.columns[4:] if name in ("hidden",))}
    assert len(specs) == len(cases)


def test_integers_are_exact_in_the_specs_where_some_are_missing(runs: dict[str, ExperimentRun]) -> None:
    specs = runs["numbers"].specs()
    assert specs["past_2_53_or_none"].tolist() == [2**53 + 1, pd.NA, -(2**62) - 1]
    assert specs["past_2_64"].tolist() == [case["past_2_64"] for case in NUMBERS]


def test_nested_fields_are_lists_and_dicts_in_the_specs(runs: dict[str, ExperimentRun]) -> None:
    specs = runs["nested"].specs()
    assert specs["sizes"].tolist()[0] == {"a": 1.0}
    assert specs["both"].tolist() == [[1, "a"], [2**70, "ü"], [0, ""]]
    assert specs["point_or_none"].tolist()[1]["x"] == 2
    assert specs["always_empty"].tolist() == [{}, {}, {}]
