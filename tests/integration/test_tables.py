"""What simulations return, as tables: outputs, users' data frames, failures; whole, in part, and by pandas alone."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from scythe import (
    BaseExperiment,
    ExperimentInputSpec,
    ExperimentOutputSpec,
    ExperimentRegistry,
    ExperimentRun,
    OptionalFileReference,
    errors,
)
from scythe.engines import open_engine
from scythe.runs import SpecsFailedWarning
from scythe.settings import ScytheStorageSettings

BASE = ["experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id"]
LEVELS = [*BASE, "i", "kind"]


class Case(ExperimentInputSpec):
    i: int
    kind: str

    @property
    def computed_features(self) -> dict[str, Any]:
        return {"twice": 2 * self.i} if self.kind.startswith("featured") else {}


class Free(ExperimentOutputSpec):
    """Whatever a simulation likes to return."""


class Point(BaseModel):
    x: float
    when: dt.datetime | None = None


class Color(Enum):
    RED = "red"


def frame(make: Callable[[Case], Any]) -> Callable[[Case], dict[str, Any]]:
    """Return outputs that are one data frame, called `f`."""
    return lambda spec: {"dataframes": {"f": made} if (made := make(spec)) is not None else {}}


def one(rows: Any, **options: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": list(rows)}, **options)


OWN_LEVELS, DEEP_NAMES = ["hour", "zone"], ["kind", "node"]
ORDERED = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
UNORDERED = pd.CategoricalDtype(["z", "unused", "a"])

OUTPUTS: dict[str, Callable[[Case], dict[str, Any]]] = {
    # columns of scalars
    "types": lambda s: {
        "whole": s.i, "ratio": s.i / 2, "flag": s.i > 0, "text": f"ü{s.i}", "color": Color.RED, "path": Path("a b"),
        "when": dt.datetime(2020, 1, 1 + s.i, 1, 2, 3, 4), "day": dt.date(2020, 1, 1 + s.i), "none": None,
        "span": dt.timedelta(hours=s.i), "nan": math.nan, "numpy": np.float32(0.5), "array": np.arange(s.i + 1),
        "list": [1.5] * s.i, "dict": {"a": s.i, "b": [s.i]}, "model": Point(x=s.i, when=dt.datetime(2020, 1, 1)),
    },
    "none_then_int": lambda s: {"y": s.i if s.i > 1 else None},
    "int_then_float": lambda s: {"y": s.i if s.i < 2 else s.i + 0.5},
    "past_2_53_then_float": lambda s: {"y": 2**53 + 1 if s.i < 3 else 0.5},
    "past_2_63": lambda s: {"y": 2**63 + s.i if s.i else -1},
    "flag_or_none": lambda s: {"y": None if s.i == 1 else s.i > 1},
    "several_zones": lambda s: {"y": dt.datetime(2020, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=s.i)))},
    "keys_that_differ": lambda s: {"y": {"abcd"[s.i]: s.i}},
    "empty_then_keys": lambda s: {"y": {"a": 1} if s.i == 3 else {}},
    "empty_dicts": lambda s: {"y": {}},
    "lists_that_differ": lambda s: {"y": [s.i] if s.i else ["a"]},
    "late": lambda s: {"y": 1, **({"late": "x"} if s.i == 3 else {})},
    "same_name": lambda s: {"i": -s.i, "kind": "output", "sort_index": 7},
    "same_name_featured": lambda s: {"twice": "output"},
    "featured": lambda s: {"y": 1},
    "nothing": lambda s: {},
    "clash": lambda s: {"y": s.i if s.i < 2 else "text", "fine": 1},
    "text_of_errors": lambda s: fail(ValueError(f"bad file b\udce9.csv: {'x' * 20_000}")),
    # users' own data frames
    "named": frame(lambda s: one([1, 2], index=pd.MultiIndex.from_tuples([(1, "x"), (2, "y")], names=OWN_LEVELS))),
    "dates": frame(lambda s: one([1, 2], index=pd.date_range("2020-01-01", periods=2, freq="h", name="when"))),
    "unnamed_dates": frame(lambda s: one([1, 2], index=pd.date_range("2020-01-01", periods=2, freq="h"))),
    "filtered": frame(lambda s: one(range(6))[lambda d: d["a"] % (s.i + 1) == s.i]),
    "spec_index": frame(lambda s: one(range(s.i), index=s.make_multiindex(n_rows=s.i))),
    "spec_index_of_one": frame(lambda s: one([s.i], index=s.make_multiindex())),
    "spec_index_and_more": frame(
        lambda s: one([1, 2], index=s.make_multiindex([{"hour": 3, "zone": "a"}, {"hour": 4, "zone": "b"}]))
    ),
    "featured_frame": frame(lambda s: one(range(s.i), index=s.make_multiindex(n_rows=s.i))),
    "sort_index": frame(lambda s: one([1, 2], index=pd.Index([s.sort_index] * 2, name="sort_index"))),
    "field_again": frame(lambda s: one([1, 2], index=pd.Index([s.i] * 2, name="i"))),
    "field_name": frame(lambda s: one([1, 2], index=pd.Index([70, 90], name="i"))),
    "multi_columns": frame(
        lambda s: pd.DataFrame([[1.0, 2.0]], columns=pd.MultiIndex.from_tuples([("p", 1), ("q", 2)], names=DEEP_NAMES))
    ),
    "int_columns": frame(lambda s: pd.DataFrame(np.ones((2, 3)), columns=[10, 20, 30])),
    "own_types": frame(
        lambda s: pd.DataFrame({
            "f32": np.float32([0.1, s.i]), "i8": np.int8([1, 2]), "Int64": pd.array([1, None], dtype="Int64"),
            "ordered": pd.Categorical(["low", "high"] if s.i % 2 else ["high", None], dtype=ORDERED),
            "unordered": pd.Categorical(["z", "a"] if s.i % 2 else [None, "z"], dtype=UNORDERED),
            "berlin": pd.to_datetime(["2020-01-01", "2020-07-01"]).tz_localize("Europe/Berlin"),
            "span": pd.to_timedelta([1, 2], unit="s"), "flag": [True, False], "text": ["ü", None],
            "object": [[1, 2], None],
        })
    ),
    "other_categories": frame(lambda s: one([f"v{s.i}"], dtype="category")),
    "empty_first": frame(lambda s: one([1, 2], index=pd.Index([7, 9], name="hour")) if s.i else pd.DataFrame()),
    "empty_last": frame(lambda s: one(["x"]) if s.i < 3 else pd.DataFrame({"a": pd.Series([], dtype=float)})),
    "only_empty": frame(lambda s: pd.DataFrame({"a": []})),
    "without": frame(lambda s: one([s.i]) if s.i != 1 else None),
    "series": frame(lambda s: pd.Series([1.0, 2.0], pd.Index([7, 9], name="hour"), name="level")),
    "unnamed_series": frame(lambda s: pd.Series([1.0, 2.0])),
    "int_then_float_frame": frame(lambda s: one([1, 2] if s.i < 2 else [0.5, math.nan])),
    "int64_past_2_53_then_nan": frame(lambda s: one([2**60 + 1] if s.i < 2 else [math.nan])),
    "late_frame": frame(lambda s: pd.DataFrame({"a": [1], **({"late": ["x"]} if s.i == 3 else {})})),
    "columns_like_levels": frame(lambda s: pd.DataFrame({"i": [-1], "row": [-2], "ok": [-3], "sort_index": [-4]})),
    "mixed_names": frame(lambda s: pd.DataFrame({"a": [1.0]}) if s.i else pd.DataFrame({1: [2.0]})),
    "clash_of_frames": frame(lambda s: one([s.i] if s.i < 2 else ["text"])),
    "several": lambda s: {"dataframes": {"daily/north": one([1]), "an error": one([2]), "ü b#c?": one([3])}, "y": 1},
}  # fmt: skip


def fail(error: Exception) -> dict[str, Any]:
    raise error


@ExperimentRegistry.Register()
def produce(input_spec: Case) -> Free:
    return Free(**OUTPUTS[input_spec.kind](input_spec))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def allocate(kind: str, store: Path, *, n: int = 4, run_name: str | None = None) -> Any:
    experiment = BaseExperiment(
        runnable=produce, run_name=run_name or kind, storage_settings=ScytheStorageSettings(URL=str(store))
    )
    return experiment.allocate([Case(i=i, kind=kind) for i in range(n)], engine="inline")


def run_of(kind: str, store: Path) -> ExperimentRun:
    run, ref = allocate(kind, store)
    ref.result()
    return run  # type: ignore[no-any-return]


def on_disk(run: ExperimentRun, name: str) -> pd.DataFrame:
    """Read a final table as a user does who has nothing but pandas."""
    return pd.read_parquet(run.store.folder / run.keys.table(name))  # type: ignore[attr-defined,no-any-return]


def plain(values: Any) -> Any:
    """Unwrap NumPy's arrays; what is missing is None."""
    if isinstance(values, np.ndarray | list | tuple):
        return [plain(value) for value in values]
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    return None if pd.isna(values) else values


# ---------------------------------------------------------------------------------------------------------------------
# columns of scalars


def test_every_type_of_output_becomes_a_column(store: Path) -> None:
    table = run_of("types", store).scalars()
    assert {name: plain(list(column)) for name, column in table.items()} == {
        "whole": [0, 1, 2, 3],
        "ratio": [0.0, 0.5, 1.0, 1.5],
        "flag": [False, True, True, True],
        "text": ["ü0", "ü1", "ü2", "ü3"],
        "color": ["red"] * 4,
        "path": ["a b"] * 4,
        "when": [pd.Timestamp(2020, 1, 1 + i, 1, 2, 3, 4) for i in range(4)],
        "day": [dt.date(2020, 1, 1 + i) for i in range(4)],
        "none": [None] * 4,
        "span": [pd.Timedelta(hours=i) for i in range(4)],
        "nan": [None] * 4,
        "numpy": [0.5] * 4,
        "array": [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]],
        "list": [[], [1.5], [1.5, 1.5], [1.5, 1.5, 1.5]],
        "dict": [{"a": i, "b": [i]} for i in range(4)],
        "model": [{"x": float(i), "when": dt.datetime(2020, 1, 1)} for i in range(4)],
    }
    dtypes = {name: str(table[name].dtype) for name in ("whole", "ratio", "flag", "when", "span")}
    assert dtypes == {
        "whole": "int64",
        "ratio": "float64",
        "flag": "bool",
        "when": "datetime64[us]",
        "span": "timedelta64[us]",
    }


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("none_then_int", [None, None, 2, 3]),
        ("int_then_float", [0.0, 1.0, 2.5, 3.5]),
        ("past_2_53_then_float", [2.0**53, 2.0**53, 2.0**53, 0.5]),
        ("past_2_63", ["-1", str(2**63 + 1), str(2**63 + 2), str(2**63 + 3)]),
        ("flag_or_none", [False, None, True, True]),
        ("several_zones", [pd.Timestamp(2020, 1, 1, 12 - i, tz="UTC") for i in range(4)]),
        ("keys_that_differ", [{**dict.fromkeys("abcd"), "abcd"[i]: i} for i in range(4)]),
        ("empty_then_keys", [{"a": None}, {"a": None}, {"a": None}, {"a": 1}]),
        ("empty_dicts", ["{}"] * 4),
        ("lists_that_differ", ['["a"]', "[1]", "[2]", "[3]"]),
    ],
)
def test_outputs_of_several_types_share_a_column(kind: str, values: list[Any], store: Path) -> None:
    run = run_of(kind, store)
    assert plain(list(run.scalars()["y"])) == values
    assert plain(list(on_disk(run, "scalars")["y"])) == values


def test_a_column_that_appears_late_is_missing_before(store: Path) -> None:
    table = run_of("late", store).scalars()
    assert list(table.columns) == ["y", "late"]
    assert plain(list(table["late"])) == [None, None, None, "x"]


@pytest.mark.parametrize("name", ["i", "kind", "sort_index"])
def test_an_output_and_an_input_of_one_name_are_both_kept(name: str, store: Path) -> None:
    table = run_of("same_name", store).scalars()
    assert list(table.index.names) == LEVELS
    expected = {"i": ([0, 1, 2, 3], [0, -1, -2, -3]), "kind": (["same_name"] * 4, ["output"] * 4)}
    given, returned = expected.get(name, ([0, 1, 2, 3], [7] * 4))
    assert list(table.index.get_level_values(name)) == given
    assert list(table[name]) == returned


def test_computed_features_are_levels_behind_the_fields(store: Path) -> None:
    index = run_of("featured", store).scalars().index
    assert list(index.names) == [*LEVELS, "twice"]
    assert list(index.get_level_values("twice")) == [0, 2, 4, 6]


def test_specs_that_return_nothing_are_rows_without_columns(store: Path) -> None:
    run = run_of("nothing", store)
    table = run.scalars()
    assert list(table.index.names) == LEVELS
    assert table.shape == (4, 0)
    assert run.results() == {}
    assert len(run.tasks()) == 4


def test_every_table_has_the_same_levels_in_sort_order(store: Path) -> None:
    run = run_of("several", store)
    tables = [run.scalars(), run.tasks(), *run.frames().values()]
    assert all(table.index.equals(tables[0].index) for table in tables)
    assert list(tables[0].index.get_level_values("sort_index")) == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------------
# users' own data frames


def own_index(run: ExperimentRun, name: str = "f") -> list[Any]:
    """Return the levels behind the spec's, for each row the sort index first."""
    table = run.frame(name)
    assert list(table.index.names[:6]) == LEVELS
    return [(row[1], *row[6:]) for row in table.index]


@pytest.mark.parametrize(
    ("kind", "levels", "rows"),
    [
        ("named", ["hour", "zone"], [(i, *own) for i in range(4) for own in ((1, "x"), (2, "y"))]),
        ("dates", ["when"], [(i, pd.Timestamp(2020, 1, 1, h)) for i in range(4) for h in (0, 1)]),
        ("unnamed_dates", [None], [(i, pd.Timestamp(2020, 1, 1, h)) for i in range(4) for h in (0, 1)]),
        ("filtered", ["sort_subindex"], [(i, k) for i in range(4) for k in range(6) if k % (i + 1) == i]),
        ("spec_index", ["sort_subindex"], [(i, k) for i in range(4) for k in range(i)]),
        ("spec_index_of_one", [], [(i,) for i in range(4)]),
        (
            "spec_index_and_more", ["hour", "zone", "sort_subindex"],
            [(i, *own) for i in range(4) for own in ((3, "a", 0), (4, "b", 1))],
        ),
        ("featured_frame", ["twice", "sort_subindex"], [(i, 2 * i, k) for i in range(4) for k in range(i)]),
        ("sort_index", ["sort_subindex"], [(i, k) for i in range(4) for k in range(2)]),
        ("field_again", [], [(i,) for i in range(4) for _ in range(2)]),
        ("field_name", ["i"], [(i, own) for i in range(4) for own in (70, 90)]),
        ("series", ["hour"], [(i, h) for i in range(4) for h in (7, 9)]),
        ("unnamed_series", ["sort_subindex"], [(i, k) for i in range(4) for k in range(2)]),
        ("without", [], [(0,), (2,), (3,)]),
        ("empty_first", ["hour"], [(i, h) for i in range(1, 4) for h in (7, 9)]),
        ("empty_last", [], [(0,), (1,), (2,)]),
        ("columns_like_levels", [], [(i,) for i in range(4)]),
    ],
)  # fmt: skip
def test_a_frame_has_the_levels_of_its_spec_and_then_its_own(
    kind: str, levels: list[Any], rows: list[Any], store: Path
) -> None:
    run = run_of(kind, store)
    assert list(run.frame("f").index.names) == [*LEVELS, *levels]
    assert own_index(run) == rows


FRAMES = [kind for kind, make in OUTPUTS.items() if make.__qualname__.startswith("frame.") and "clash" not in kind]


@pytest.mark.parametrize("kind", [kind for kind in FRAMES if kind != "only_empty"])
def test_pandas_alone_restores_a_frame_with_its_index(kind: str, store: Path) -> None:
    run = run_of(kind, store)
    pd.testing.assert_frame_equal(on_disk(run, "f"), run.frame("f"))


def test_columns_of_several_levels_keep_their_names(store: Path) -> None:
    table = run_of("multi_columns", store).frame("f")
    assert table.columns.equals(pd.MultiIndex.from_tuples([("p", 1), ("q", 2)]))
    assert list(table.columns.names) == ["kind", "node"]
    assert list(table[("q", 2)]) == [2.0] * 4


def test_columns_called_by_integers_stay_integers(store: Path) -> None:
    assert list(run_of("int_columns", store).frame("f").columns) == [10, 20, 30]


def test_columns_called_by_integers_and_by_text_are_called_by_text(store: Path) -> None:
    table = run_of("mixed_names", store).frame("f")
    assert {str(name): plain(list(column)) for name, column in table.items()} == {
        "1": [2.0, None, None, None],
        "a": [None, 1.0, 1.0, 1.0],
    }


def test_the_types_of_a_frame_are_kept(store: Path) -> None:
    table = run_of("own_types", store).frame("f")
    dtypes = {name: str(dtype) for name, dtype in table.dtypes.items()}
    assert (dtypes["f32"], dtypes["i8"], dtypes["Int64"], dtypes["flag"]) == ("float32", "int8", "Int64", "bool")
    assert table["f32"].iloc[0] == np.float32(0.1)
    assert table["ordered"].dtype == ORDERED
    assert table["unordered"].dtype == UNORDERED
    assert table["ordered"].max() == "high"
    assert plain(list(table["unordered"]))[:4] == [None, "z", "z", "a"]
    assert str(table["berlin"].dt.tz) == "Europe/Berlin"
    assert table["berlin"].iloc[1] == pd.Timestamp("2020-07-01", tz="Europe/Berlin")
    assert table["span"].iloc[1] == pd.Timedelta(seconds=2)
    assert plain(list(table["text"]))[:2] == ["ü", None]
    assert plain(list(table["object"]))[:2] == [[1, 2], None]


def test_categories_of_several_specs_are_united(store: Path) -> None:
    column = run_of("other_categories", store).frame("f")["a"]
    assert list(column) == list(column.cat.categories) == ["v0", "v1", "v2", "v3"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int_then_float_frame", [1, 2, 1, 2, 0.5, None, 0.5, None]),
        ("int64_past_2_53_then_nan", [float(2**60), float(2**60), None, None]),
        ("empty_last", ["x", "x", "x"]),
        ("spec_index", [0, 0, 1, 0, 1, 2]),
    ],
)
def test_the_values_of_a_frame_are_those_of_all_specs(kind: str, values: list[Any], store: Path) -> None:
    assert plain(list(run_of(kind, store).frame("f")["a"])) == values


def test_a_column_of_a_frame_that_appears_late_is_missing_before(store: Path) -> None:
    assert plain(list(run_of("late_frame", store).frame("f")["late"])) == [None, None, None, "x"]


def test_columns_called_like_levels_are_kept(store: Path) -> None:
    table = run_of("columns_like_levels", store).frame("f")
    assert table.iloc[0].to_dict() == {"i": -1, "row": -2, "ok": -3, "sort_index": -4}


def test_a_series_is_a_frame_of_one_column(store: Path) -> None:
    assert list(run_of("series", store).frame("f").columns) == ["level"]
    assert list(run_of("unnamed_series", store).frame("f").columns) == ["value"]


def test_frames_are_kept_under_any_name_a_store_can_keep(store: Path) -> None:
    run = run_of("several", store)
    assert run.frame_names() == ["an error", "daily/north", "ü b#c?"]
    assert {name: list(table["a"]) for name, table in run.frames().items()} == {
        "an error": [2] * 4,
        "daily/north": [1] * 4,
        "ü b#c?": [3] * 4,
    }
    assert set(run.results()) == {"scalars", *run.frame_names()}
    assert list(on_disk(run, "daily/north")["a"]) == [1] * 4


def test_frames_without_any_row_are_an_empty_table(store: Path) -> None:
    table = run_of("only_empty", store).frame("f")
    assert table.empty
    assert list(table.columns) == ["a"]
    assert list(table.index.names) == LEVELS


def test_a_frame_that_no_spec_gave_is_reported_with_those_there_are(store: Path) -> None:
    run = run_of("several", store)
    for name in ("scalars", "nightly"):
        with pytest.raises(KeyError, match=f"{name}.*an error, daily/north"):
            run.frame(name)


# ---------------------------------------------------------------------------------------------------------------------
# outputs that cannot be stored


class Bad(ExperimentInputSpec):
    kind: str


class BadResult(ExperimentOutputSpec):
    report: OptionalFileReference = None
    y: Any = None


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "missing_file": (lambda: BadResult(report="/nowhere/report.txt"), "the output file was not written"),
    "folder": (lambda: BadResult(report="/"), "the output file is a folder"),
    "reserved": (lambda: BadResult(dataframes={"scalars": one([1])}), "Scythe has a table of that name"),
    "outside": (lambda: BadResult(dataframes={"../f": one([1])}), "cannot be a name in a store"),
    "absolute": (lambda: BadResult(dataframes={"/f": one([1])}), "cannot be a name in a store"),
    "nameless": (lambda: BadResult(dataframes={"": one([1])}), "it is empty"),
    "too_long": (lambda: BadResult(dataframes={"a" * 198: one([1])}), "longer than 200 bytes"),
    "twice": (
        lambda: BadResult(dataframes={"f": pd.DataFrame([[1, 2]], columns=["a", "a"])}),
        "Duplicate column names",
    ),
    "two_types": (lambda: BadResult(dataframes={"f": one([1, "a"])}), "cannot be stored"),
    "no_frame": (lambda: BadResult(dataframes={"f": [1, 2]}), "give a pandas DataFrame"),
    "no_unicode": (lambda: BadResult(y="a\udce9"), "the text 'a\\udce9' is not valid unicode"),
    "unknown_type": (lambda: BadResult(y=object()), "output field 'y': a value of type object cannot be stored"),
    "other_model": (lambda: Free(), "returned Free instead of BadResult"),
    "nothing": (lambda: None, "returned NoneType instead of BadResult"),
}


@ExperimentRegistry.Register(retries=0)
def misbehave(input_spec: Bad) -> BadResult:
    return BAD[input_spec.kind][0]()  # type: ignore[no-any-return]


def test_an_output_that_cannot_be_stored_fails_its_spec_alone_and_says_why(store: Path) -> None:
    experiment = BaseExperiment(runnable=misbehave, storage_settings=ScytheStorageSettings(URL=str(store)))
    specs = [{"kind": kind} for kind in BAD]
    BAD["good"] = (lambda: BadResult(y=1), "")
    run, ref = experiment.allocate([*specs, {"kind": "good"}], engine="inline")
    with pytest.warns(SpecsFailedWarning):
        ref.result()
    assert list(run.scalars()["y"]) == [1]
    failed = run.errors().reset_index("kind").set_index("kind")
    assert {kind: says in failed.loc[kind, "message"] for kind, (_, says) in BAD.items() if says} == dict.fromkeys(
        [spec["kind"] for spec in specs], True
    )


# ---------------------------------------------------------------------------------------------------------------------
# types that clash


@pytest.mark.parametrize(("kind", "table", "column"), [("clash", "scalars", "y"), ("clash_of_frames", "f", "a")])
def test_types_that_do_not_go_together_are_named_with_their_specs(
    kind: str, table: str, column: str, store: Path
) -> None:
    run, ref = allocate(kind, store)
    with pytest.raises(
        errors.RunFailedError, match=f"Column '{column}' of table '{table}'.*int .*spec 0.*str .*spec 2"
    ):
        ref.result()
    with pytest.raises(errors.TableClashError) as caught:
        run.scalars(partial=True) if table == "scalars" else run.frame(table, partial=True)
    assert (caught.value.table, caught.value.column) == (table, column)
    assert caught.value.types == [("int", 0), ("str", 2)]


def test_a_clash_costs_no_outcome_and_no_other_table(store: Path) -> None:
    run, _ = allocate("clash", store)
    assert run.progress().done == 4
    assert len(run.tasks(partial=True)) == 4
    assert run.errors(partial=True).empty


# ---------------------------------------------------------------------------------------------------------------------
# failures


def test_if_all_specs_fail_it_is_said_and_every_failure_is_there(store: Path) -> None:
    run, ref = allocate("text_of_errors", store)
    with pytest.raises(errors.AllSpecsFailedError, match=r"All 4 specs .* failed\. The first: ValueError: bad file"):
        ref.result()
    with pytest.warns(SpecsFailedWarning, match="4 of 4 specs"):
        run.wait()
    failed = run.errors()
    assert len(failed) == 4
    assert list(failed.index.names) == LEVELS
    assert failed["message"].str.startswith("bad file b\\udce9.csv").all()
    assert (failed["message"].str.len() < 12_000).all()
    assert run.scalars().empty
    assert list(run.scalars().index.names) == LEVELS
    assert run.progress().failed == 4


class Design(ExperimentInputSpec):
    i: int


class Result(ExperimentOutputSpec):
    y: float
    note: str | None = None


@ExperimentRegistry.Register(retries=0)
def sometimes(input_spec: Design) -> Result:
    i = input_spec.i
    if i % 100 == 50:
        print(f"about to fail at {i}")
        raise ValueError(f"no solution for {i}")
    late = {"late": i} if i >= 900 else {}
    frames = {"hours": pd.DataFrame({"v": [i, i + 0.5]}, index=pd.Index([1, 2], name="hour"))} if i % 2 else {}
    return Result(y=i / 2, note=None if i < 500 else "high", dataframes=frames, **late)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> ExperimentRun:
    """A thousand specs on the embedded engine, ten of which raise."""
    settings = ScytheStorageSettings(URL=str(tmp_path_factory.mktemp("thousand")))
    run, ref = BaseExperiment(runnable=sometimes, storage_settings=settings).allocate(
        [Design(i=i) for i in range(1000)]
    )
    with pytest.warns(
        SpecsFailedWarning, match=r"10 of 1,000 specs .* failed; the first: ValueError: no solution for 50"
    ):
        ref.result()
    return run


GOOD = [i for i in range(1000) if i % 100 != 50]


def test_rows_are_in_sort_order_whatever_order_they_ended_in(thousand: ExperimentRun) -> None:
    table = thousand.scalars()
    assert list(table.index.get_level_values("sort_index")) == GOOD
    assert list(table["y"]) == [i / 2 for i in GOOD]
    hours = thousand.frame("hours")
    assert list(hours["v"]) == [v for i in GOOD if i % 2 for v in (i, i + 0.5)]
    assert list(hours.index.get_level_values("hour")) == [1, 2] * (len(hours) // 2)


def test_a_column_that_first_appears_at_spec_900_is_there(thousand: ExperimentRun) -> None:
    late = thousand.scalars()["late"]
    assert plain(list(late)) == [i if i >= 900 else None for i in GOOD]
    assert plain(list(thousand.scalars()["note"])) == [None if i < 500 else "high" for i in GOOD]


def test_a_failed_spec_is_a_row_of_errors_that_says_all_of_it(thousand: ExperimentRun) -> None:
    failed = thousand.errors()
    assert list(failed.columns) == [
        "class", "type", "message", "traceback", "output", "attempts", "worker", "host", "started", "seconds",
    ]  # fmt: skip
    assert list(failed.index.get_level_values("i")) == list(range(50, 1000, 100))
    first = failed.iloc[0]
    assert (first["class"], first["type"], first["message"]) == ("error", "ValueError", "no solution for 50")
    assert "test_tables.py" in first["traceback"]
    assert "raise ValueError" in first["traceback"]
    assert first["output"] == "about to fail at 50\n"
    assert first["attempts"] == 1
    assert first["worker"].startswith("ScytheWorker--Local")


def test_tasks_say_how_every_spec_was_run(thousand: ExperimentRun) -> None:
    tasks = thousand.tasks()
    assert list(tasks.columns) == ["ok", "attempts", "worker", "host", "started", "seconds", "peak_memory"]
    assert len(tasks) == 1000
    assert list(tasks["ok"]) == [i % 100 != 50 for i in range(1000)]
    assert (tasks["seconds"] >= 0).all()
    assert (tasks["peak_memory"] > 0).all()
    created = pd.Timestamp(thousand.manifest()["created"])
    assert (tasks["started"] >= created).all()
    assert (tasks["started"] <= pd.Timestamp.now("UTC")).all()


def test_counts_and_tables_agree(thousand: ExperimentRun) -> None:
    progress = thousand.progress()
    assert (progress.done, progress.failed, progress.running, progress.total) == (990, 10, 0, 1000)
    assert progress.state == "finished"
    manifest = thousand.manifest()
    assert (manifest["done"], manifest["failed"], manifest["state"]) == (990, 10, "finished")
    assert set(manifest["tables"]) == {"scalars", "hours", "errors", "tasks"}


@pytest.mark.parametrize("name", ["scalars", "hours", "errors", "tasks"])
def test_pandas_alone_restores_a_final_table(name: str, thousand: ExperimentRun) -> None:
    read = {"scalars": thousand.scalars, "errors": thousand.errors, "tasks": thousand.tasks}
    expected = read[name]() if name in read else thousand.frame(name)
    found = on_disk(thousand, name)
    pd.testing.assert_frame_equal(found, expected)
    assert list(found.index.names[:5]) == [*BASE, "i"]


def test_results_are_the_tables_of_1x_by_name(thousand: ExperimentRun) -> None:
    assert set(thousand.results()) == {"scalars", "hours"}
    assert thousand.results()["scalars"] == thousand.as_uri(thousand.scalars_filekey)
    assert thousand.scalars_filekey in thousand.list_results_files()


def test_an_empty_table_has_its_levels_and_columns(thousand: ExperimentRun) -> None:
    files = thousand.files()
    assert list(files.index.names) == [*BASE, "i"]
    assert files.shape == (990, 0)


# ---------------------------------------------------------------------------------------------------------------------
# while a run is going on


@ExperimentRegistry.Register(retries=0)
def slowly(input_spec: Design) -> Result:
    if input_spec.i >= 20:
        time.sleep(0.2)
    if input_spec.i == 3:
        raise ValueError("no solution")
    return Result(y=input_spec.i, dataframes={"hours": one([1, 2], index=pd.Index([7, 9], name="hour"))})


def test_part_of_a_run_can_be_read_with_its_final_columns_and_index(tmp_path: Path) -> None:
    experiment = BaseExperiment(runnable=slowly, storage_settings=ScytheStorageSettings(URL=str(tmp_path)))
    run, _ = experiment.allocate([Design(i=i) for i in range(40)])
    before = run.scalars(partial=True)
    deadline = time.monotonic() + 60
    while run.progress().done < 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    open_engine("local").stop(run.prefix)
    progress = run.progress()
    assert progress.state == "interrupted"
    assert 10 <= progress.done < 39
    with pytest.raises(errors.RunIncompleteError, match=r"of 40 specs have ended.*partial=True"):
        run.scalars()
    part, frames, failed, tasks = (
        run.scalars(partial=True), run.frame("hours", partial=True), run.errors(partial=True), run.tasks(partial=True),
    )  # fmt: skip
    with pytest.warns(SpecsFailedWarning):
        run.resume().result()
    whole = run.scalars()
    assert len(whole) == 39
    pd.testing.assert_frame_equal(part, whole.loc[part.index])
    pd.testing.assert_frame_equal(frames, run.frame("hours").loc[frames.index])
    pd.testing.assert_frame_equal(failed, run.errors())
    assert (len(part), len(frames), len(tasks)) == (progress.done, 2 * progress.done, progress.done + 1)
    assert before.empty
    assert (list(before.columns), list(before.index.names)) == (list(whole.columns), list(whole.index.names))
