"""From whatever the user has to a run in the store, or to an error before anything is written."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

import scythe
from scythe import (
    BaseExperiment,
    ExperimentInputSpec,
    ExperimentOutputSpec,
    ExperimentRegistry,
    ExperimentRun,
    FileReference,
    OptionalFileReference,
    RecursionMap,
    SemVer,
    errors,
)
from scythe.experiments import SerializableRunnable
from scythe.settings import ScytheStorageSettings


class Zone(BaseModel):
    area: float = Field(gt=0)


class Design(ExperimentInputSpec):
    size: float = Field(ge=0, le=100)
    count: int | None = None
    name: str = "d"
    tags: list[str] = Field(default_factory=list)
    zone: Zone | None = None
    when: dt.datetime | None = None


class Seen(ExperimentOutputSpec):
    seen: str


@ExperimentRegistry.Register(retries=0)
def look(input_spec: Design) -> Seen:
    values = (input_spec.size, input_spec.count, input_spec.name, input_spec.tags, input_spec.zone, input_spec.when)
    return Seen(seen=repr(values))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder that does not exist: what is refused must not make it."""
    return tmp_path / "runs"


def experiment(store: Path, runnable: Any = look, run_name: str | None = None) -> BaseExperiment[Any, Any]:
    return BaseExperiment(runnable=runnable, run_name=run_name, storage_settings=ScytheStorageSettings(URL=str(store)))


def allocate(store: Path, specs: Any, runnable: Any = look, **options: Any) -> ExperimentRun:
    """Allocate specs and run them right here."""
    run, ref = experiment(store, runnable).allocate(specs, engine="inline", **options)
    ref.result()
    return run


# ---------------------------------------------------------------------------------------------------------------------
# sources

ROWS: list[dict[str, Any]] = [
    {
        "size": 1.5,
        "count": 3,
        "name": "ü",
        "tags": ["a", "b"],
        "zone": {"area": 2.5},
        "when": dt.datetime(2020, 1, 2, 3),
    },
    {"size": 2.0, "count": None, "name": "", "tags": [], "zone": None, "when": None},
]
SEEN = [
    repr((1.5, 3, "ü", ["a", "b"], Zone(area=2.5), dt.datetime(2020, 1, 2, 3))),
    repr((2.0, None, "", [], None, None)),
]
FLAT = [
    {**row, "tags": json.dumps(row["tags"]), "zone": json.dumps(row["zone"]) if row["zone"] else None} for row in ROWS
]


def parquet(folder: Path, suffix: str) -> Path:
    path = folder / f"specs{suffix}"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def pandas_parquet(folder: Path) -> Path:
    path = folder / "specs.parquet"
    pd.DataFrame(FLAT, index=[7, 9]).to_parquet(path)
    return path


def csv(folder: Path, **options: Any) -> Path:
    path = folder / "specs.csv"
    pd.DataFrame(FLAT).to_csv(path, **options)
    return path


SOURCES: dict[str, Callable[[Path], Any]] = {
    "specs": lambda folder: [Design(**row) for row in ROWS],
    "a tuple of specs": lambda folder: tuple(Design(**row) for row in ROWS),
    "a generator of specs": lambda folder: (Design(**row) for row in ROWS),
    "dicts": lambda folder: ROWS,
    "specs and dicts": lambda folder: [Design(**ROWS[0]), ROWS[1]],
    "a frame": lambda folder: pd.DataFrame(ROWS),
    "a frame of nullable types": lambda folder: pd.DataFrame(ROWS).convert_dtypes(),
    "a frame with fields as index": lambda folder: pd.DataFrame(ROWS).set_index(["size", "name"]),
    "a frame with an index of its own": lambda folder: pd.DataFrame(ROWS, index=pd.Index([7, 9], name="id")),
    "a frame with nested values as text": lambda folder: pd.DataFrame(FLAT),
    "an Arrow table": lambda folder: pa.Table.from_pylist(ROWS),
    "an Arrow batch": lambda folder: pa.RecordBatch.from_pylist(ROWS),
    "an Arrow stream": lambda folder: pa.Table.from_pylist(ROWS).to_reader(),
    "a Parquet file": lambda folder: parquet(folder, ".parquet"),
    "a Parquet file by its text": lambda folder: str(parquet(folder, ".pq")),
    "a Parquet file by pandas": pandas_parquet,
    "a CSV file": lambda folder: csv(folder, index=False),
    "a CSV file with pandas' index": csv,
}


@pytest.mark.parametrize("source", SOURCES)
def test_specs_can_come_from(source: str, store: Path, tmp_path: Path) -> None:
    specs = SOURCES[source](tmp_path)
    run = allocate(store, specs)
    table = run.scalars()
    assert table["seen"].tolist() == SEEN
    assert list(table.index.get_level_values("size")) == [1.5, 2.0]


def test_the_specs_of_a_run_can_be_allocated_again(store: Path) -> None:
    rows = [*ROWS, {"size": 3.0, "count": 2**53 + 1}]
    first = allocate(store, rows)
    seen = first.scalars()["seen"].tolist()
    assert seen == [*SEEN, repr((3.0, 2**53 + 1, "d", [], None, None))]
    for specs in (first.specs(), store / first.specs_filekey):
        assert allocate(store, specs).scalars()["seen"].tolist() == seen


def test_one_spec_is_a_run_of_its_own_with_its_spec_as_a_file(store: Path) -> None:
    spec = Design(size=3, name="é")
    run = allocate(store, spec)
    assert len(run.scalars()) == 1
    kept = yaml.safe_load((store / run.workflow_spec_filekey).read_text())
    assert (kept["size"], kept["name"], kept["experiment_id"]) == (3.0, "é", run.experiment_id)
    assert not (store / allocate(store, [spec]).workflow_spec_filekey).exists()


def test_a_csv_cell_may_have_a_line_break_and_an_empty_one_is_text_or_nothing(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "specs.csv"
    path.write_text('size,name,count\n1,"a\nb",\n2,"",1.0\n3,,2\n')
    seen = allocate(store, path).scalars()["seen"].tolist()
    assert seen == [
        repr((1.0, None, "a\nb", [], None, None)),
        repr((2.0, 1, "", [], None, None)),
        repr((3.0, 2, "", [], None, None)),
    ]


@pytest.mark.parametrize(
    ("specs", "complaint"),
    [
        ([], "the batch is empty"),
        (iter(()), "the batch is empty"),
        (pd.DataFrame({"size": []}), "the batch is empty"),
        (pa.table({"size": pa.array([], pa.float64())}), "the batch is empty"),
        ({"size": 1}, "specs is a dict; give a list"),
        (3, "specs is a int; give a list"),
        (None, "specs is a NoneType; give a list"),
        ("nowhere.csv", "specs='nowhere.csv': there is no such file"),
        (Path("/"), "specs='/': is a folder"),
    ],
)  # fmt: skip
def test_what_holds_no_specs_is_refused(specs: Any, complaint: str, store: Path) -> None:
    with pytest.raises(errors.SpecError, match=complaint):
        allocate(store, specs)
    assert not store.exists()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.xlsx", b"x", r"ends with '\.xlsx' is not read; use \.parquet, \.pq or \.csv"),
        ("a.csv", b"", "cannot be read: Empty CSV file"),
        ("a.csv", "size,name\n1,ü\n".encode("latin-1"), "cannot be read: .*UTF8"),
        ("a.csv", b"size\n1,2\n", "cannot be read: .*Expected 1 columns"),
        ("a.pq", b"no parquet", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes, complaint: str, store: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(errors.SpecError, match=complaint) as caught:
        allocate(store, path)
    assert str(path) in str(caught.value)
    assert not store.exists()


# ---------------------------------------------------------------------------------------------------------------------
# columns

COLUMNS = {
    "an unknown column": (
        {"size": [1.0], "sise": [1.0]},
        r"column 'sise' is no field of the model \(did you mean 'size'",
    ),
    "a missing column": ({"name": ["a"]}, "lacks the required column 'size'"),
    "both": ({"siez": [1.0]}, "'siez' is no field.*lacks the required column 'size'"),
}


@pytest.mark.parametrize("case", COLUMNS)
@pytest.mark.parametrize("kind", ["frame", "arrow", "parquet", "csv"])
def test_columns_that_are_not_the_fields_are_named(case: str, kind: str, store: Path, tmp_path: Path) -> None:
    data, complaint = COLUMNS[case]
    frame = pd.DataFrame(data)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.pq")
    sources = {"frame": frame, "arrow": pa.table(data), "parquet": tmp_path / "a.pq", "csv": tmp_path / "a.csv"}
    with pytest.raises(errors.InvalidColumnsError, match=complaint):
        allocate(store, sources[kind])
    assert not store.exists()


def test_a_column_that_is_there_twice_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("size,size\n1,2\n")
    twice = pd.DataFrame([[1.0, 2.0]], columns=["size", "size"])
    for specs in (twice, pa.table([[1.0], [2.0]], names=["size", "size"]), tmp_path / "a.csv"):
        with pytest.raises(errors.InvalidColumnsError, match="more than one column 'size'"):
            allocate(store, specs)
    assert not store.exists()


# ---------------------------------------------------------------------------------------------------------------------
# bad rows


def test_all_bad_rows_of_ten_thousand_are_reported_and_nothing_is_written(store: Path) -> None:
    rows = [{"size": 50.0, "name": str(i)} for i in range(10_000)]
    rows[17]["size"] = -1.0
    rows[9_321]["size"] = 1e9
    for specs in (rows, pd.DataFrame(rows), (Design.model_construct(**row) for row in rows)):
        with pytest.raises(errors.InvalidSpecsError) as caught:
            experiment(store).allocate(specs)
        error = caught.value
        assert (error.bad_rows, error.total) == (2, 10_000)
        assert [(row, field, value) for row, field, value, _ in error.problems] == [
            (17, "size", "-1.0"),
            (9_321, "size", "1000000000.0"),
        ]
        lines = str(error).splitlines()
        assert lines[0] == "2 of 10,000 specs are not a valid Design (rows count from 0):"
        assert lines[1] == "  row 17: size = -1.0: Input should be greater than or equal to 0"
        assert lines[2] == "  row 9321: size = 1000000000.0: Input should be less than or equal to 100"
        assert lines[3] == "Nothing was written or started. Correct or drop these rows and allocate again."
    assert not store.exists()


def test_twenty_bad_rows_are_shown_in_full_and_the_rest_counted(store: Path) -> None:
    rows = [{"size": -1.0, "name": 3} for _ in range(1_500)]
    with pytest.raises(errors.InvalidSpecsError) as caught:
        allocate(store, rows)
    lines = str(caught.value).splitlines()
    assert sum(line.startswith("  row ") for line in lines) == 20
    assert all("size = -1.0" in line and "name = 3" in line for line in lines[1:21])
    assert lines[21] == "  … and 1,480 more rows"
    assert caught.value.bad_rows == 1_500
    assert not store.exists()


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [
        ({}, "size", "(missing)"),
        ({"size": "big"}, "size", "'big'"),
        ({"size": 1, "count": 1.5}, "count", "1.5"),
        ({"size": 1, "zone": {"area": -1}}, "zone.area", "-1"),
        ({"size": 1, "tags": ["a", 3]}, "tags.1", "3"),
        ({"size": 1, "unknown": 3}, "unknown", "3"),
        ({"size": 1, "name": "x" * 500, "count": "y" * 500}, "count", f"'{'y' * 79}…"),
        (Design.model_construct(size="big"), "size", "'big'"),
        (Design.model_construct(name="a"), "size", "(missing)"),
        (Design.model_construct(size=1.0, zone=Zone.model_construct(area=-1)), "zone.area", "-1.0"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(row: Any, field: str, value: str, store: Path) -> None:
    with pytest.raises(errors.InvalidSpecsError) as caught:
        allocate(store, [{"size": 1}, row])
    assert [(found, name, shown) for found, name, shown, _ in caught.value.problems] == [(1, field, value)]
    assert not store.exists()


def test_a_spec_that_was_changed_to_something_bad_is_found(store: Path) -> None:
    spec = Design(size=1, zone=Zone(area=1))
    spec.size = -5
    spec.zone.area = -3  # type: ignore[union-attr]
    with pytest.raises(errors.InvalidSpecsError) as caught:
        allocate(store, [spec])
    assert {field for _, field, _, _ in caught.value.problems} == {"size", "zone.area"}


@pytest.mark.parametrize("position", [0, 3])
def test_specs_of_another_model_are_refused_by_row(position: int, store: Path) -> None:
    specs: list[Any] = [Design(size=1) for _ in range(5)]
    specs[position] = Zone(area=1)
    with pytest.raises(
        errors.ExperimentSpecsMismatchError, match=rf"takes Design specs, but got Zone \(row {position}\)"
    ):
        allocate(store, specs)
    with pytest.raises(errors.ExperimentSpecsMismatchError, match="got str"):
        allocate(store, ["a", "b"])
    assert not store.exists()


def test_an_error_of_the_users_own_generator_comes_through(store: Path) -> None:
    def broken() -> Iterator[Design]:
        yield Design(size=1)
        raise RuntimeError("the sampler broke")

    with pytest.raises(RuntimeError, match="the sampler broke"):
        allocate(store, broken())
    assert not store.exists()


# ---------------------------------------------------------------------------------------------------------------------
# models


class Strict(ExperimentInputSpec):
    model_config = ConfigDict(strict=True)
    size: float
    when: dt.datetime
    both: tuple[int, str]
    days: list[dt.date]


class Frozen(ExperimentInputSpec):
    model_config = ConfigDict(frozen=True)
    size: float


class Aliased(ExperimentInputSpec):
    size: float = Field(alias="wallSize")
    height: float = Field(validation_alias="wall height")
    zone: Zone = Field(serialization_alias="theZone")


class Validated(ExperimentInputSpec):
    size: float
    low: float = 0.0
    high: float = 1.0

    @field_validator("size", mode="before")
    @classmethod
    def from_text(cls, value: Any) -> Any:
        return float(value.removesuffix(" m")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def ordered(self) -> Validated:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Private(ExperimentInputSpec):
    size: float
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)


class Derived(Design):
    more: int = 0


@ExperimentRegistry.Register()
def look_strict(input_spec: Strict) -> Seen:
    return Seen(seen=repr((input_spec.size, input_spec.when, input_spec.both, input_spec.days)))


@ExperimentRegistry.Register()
def look_frozen(input_spec: Frozen) -> Seen:
    return Seen(seen=repr(input_spec.size))


@ExperimentRegistry.Register()
def look_aliased(input_spec: Aliased) -> Seen:
    return Seen(seen=repr((input_spec.size, input_spec.height, input_spec.zone.area)))


@ExperimentRegistry.Register()
def look_validated(input_spec: Validated) -> Seen:
    return Seen(seen=repr((input_spec.size, input_spec.low, input_spec.high)))


@ExperimentRegistry.Register()
def look_private(input_spec: Private) -> Seen:
    return Seen(seen=repr((input_spec.size, input_spec._cache)))


def test_a_strict_model_gets_its_types_back(store: Path) -> None:
    spec = Strict(size=1.0, when=dt.datetime(2020, 1, 1), both=(1, "a"), days=[dt.date(2020, 1, 1)])
    found = allocate(store, [spec], look_strict).scalars()["seen"].iloc[0]
    assert found == repr((1.0, dt.datetime(2020, 1, 1), (1, "a"), [dt.date(2020, 1, 1)]))


def test_a_frozen_model_gets_its_ids(store: Path) -> None:
    spec = Frozen(size=1)
    run = allocate(store, [spec], look_frozen)
    assert spec.experiment_id == run.experiment_id
    with pytest.raises(ValidationError):
        spec.size = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    "row",
    [
        {"wallSize": 1.0, "wall height": 2.0, "zone": {"area": 3.0}},
        {"size": 1.0, "height": 2.0, "zone": {"area": 3.0}},
    ],
)
def test_fields_can_be_called_by_name_or_alias(row: dict[str, Any], store: Path) -> None:
    for specs in ([row], [Aliased(**row)], pd.DataFrame([row])):
        run = allocate(store, specs, look_aliased)
        assert run.scalars()["seen"].tolist() == [repr((1.0, 2.0, 3.0))]
        assert list(run.scalars().index.names)[4:] == ["size", "height"]


def test_validators_are_run_on_every_row(store: Path) -> None:
    run = allocate(store, [{"size": "3 m"}, {"size": 4.0}], look_validated)
    assert run.scalars()["seen"].tolist() == [repr((3.0, 0.0, 1.0)), repr((4.0, 0.0, 1.0))]
    with pytest.raises(errors.InvalidSpecsError, match=r"row 1: .*low is above high"):
        allocate(store, [{"size": 1}, {"size": 1, "low": 2}], look_validated)


def test_private_attributes_begin_anew(store: Path) -> None:
    spec = Private(size=1)
    spec._cache["a"] = 1
    assert allocate(store, [spec], look_private).scalars()["seen"].tolist() == [repr((1.0, {}))]


def test_specs_of_a_derived_model_bring_their_further_fields(store: Path) -> None:
    run = allocate(store, [Derived(size=1, more=7)])
    assert list(run.scalars().index.get_level_values("more")) == [7]


class Doubling(ExperimentInputSpec):
    size: float

    @field_validator("size")
    @classmethod
    def double(cls, value: float) -> float:
        return 2 * value


class OnlyText(ExperimentInputSpec):
    size: Any

    @field_validator("size", mode="before")
    @classmethod
    def parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("give a text")
        return float(value)


class Unstorable(ExperimentInputSpec):
    size: Any


@ExperimentRegistry.Register()
def look_doubling(input_spec: Doubling) -> Seen:
    return Seen(seen=repr(input_spec.size))


@ExperimentRegistry.Register()
def look_only_text(input_spec: OnlyText) -> Seen:
    return Seen(seen=repr(input_spec.size))


@ExperimentRegistry.Register()
def look_unstorable(input_spec: Unstorable) -> Seen:
    return Seen(seen=repr(input_spec.size))


@pytest.mark.parametrize(
    ("runnable", "row", "complaint"),
    [
        (
            look_doubling,
            {"size": 1},
            r"'size' of Doubling changes when it is stored and read back \(.*2\.0.* becomes 4\.0",
        ),
        (look_only_text, {"size": "1"}, "'size' of OnlyText cannot be read back from storage .*give a text"),
        (look_unstorable, {"size": object()}, "field 'size': a value of type object cannot be stored"),
    ],
)
def test_a_model_that_storage_would_change_is_refused(
    runnable: Any, row: dict[str, Any], complaint: str, store: Path
) -> None:
    with pytest.raises(errors.SpecError, match=complaint):
        allocate(store, [row], runnable)
    assert not store.exists()


# ---------------------------------------------------------------------------------------------------------------------
# specs in place, ids and order


class FileSeen(ExperimentOutputSpec):
    seen: str
    report: FileReference


@ExperimentRegistry.Register(inject_workflow_run_id=False)
def look_without_id(input_spec: Design, tempdir: Path) -> FileSeen:
    path = tempdir / "report.txt"
    path.write_text("a report")
    return FileSeen(seen=repr(input_spec.workflow_run_id), report=path)


def test_specs_are_changed_in_place(store: Path) -> None:
    specs = [Design(size=i, sort_index=9) for i in range(3)]
    run = allocate(store, specs)
    assert [spec.experiment_id for spec in specs] == [run.experiment_id] * 3
    assert [spec.sort_index for spec in specs] == [0, 1, 2]
    assert [spec.root_workflow_run_id for spec in specs] == [run.manifest()["workflow_run_id"]] * 3
    table = run.scalars()
    assert list(table.index.get_level_values("workflow_run_id")) == [spec.workflow_run_id for spec in specs]
    joined = pd.DataFrame(index=pd.concat([spec.make_multiindex().to_frame() for spec in specs]).index)
    assert list(joined.index.get_level_values("workflow_run_id")) == [spec.workflow_run_id for spec in specs]


def test_sort_indices_of_ones_own_decide_the_order(store: Path) -> None:
    specs = [Design(size=i, sort_index=k) for i, k in enumerate([30, 10, 20, 10])]
    run = allocate(store, specs, overwrite_sort_index=False)
    index = run.scalars().index
    assert list(index.get_level_values("sort_index")) == [10, 10, 20, 30]
    assert list(index.get_level_values("size")) == [1.0, 3.0, 2.0, 0.0]
    assert [spec.sort_index for spec in specs] == [30, 10, 20, 10]
    assert len(set(index.get_level_values("workflow_run_id"))) == 4


def test_experiment_ids_of_ones_own_are_kept_and_output_files_lie_under_them(store: Path) -> None:
    specs = [Design(size=1, experiment_id="mine/a"), Design(size=2, experiment_id="mine/b")]
    run = allocate(store, specs, look_without_id, overwrite_experiment_id=False)
    assert list(run.files().index.get_level_values("experiment_id")) == ["mine/a", "mine/b"]
    assert [spec.experiment_id for spec in specs] == ["mine/a", "mine/b"]
    assert (store / "mine/a/results/report").is_dir()


def test_without_ids_of_their_own_specs_are_told_apart_by_their_place(store: Path) -> None:
    run = allocate(store, [Design(size=1), Design(size=2)], look_without_id)
    assert run.scalars()["seen"].tolist() == ["None", "None"]
    urls = run.files()["report"].tolist()
    assert len(set(urls)) == 2
    assert all(url.endswith(".txt") for url in urls)


# ---------------------------------------------------------------------------------------------------------------------
# versions and times


def test_versions_count_on_from_the_highest_in_the_store(store: Path) -> None:
    found = [
        str(allocate(store, [{"size": 1}], version=version).versioned_experiment.version)
        for version in ("bumpminor", "bumpminor", "bumppatch", "keep", "bumpmajor", SemVer(1, 5), "keep", SemVer(7))
    ]
    assert found == ["v1.0.0", "v1.1.0", "v1.1.1", "v1.1.1", "v2.0.0", "v1.5.0", "v2.0.0", "v7.0.0"]
    base = experiment(store)
    assert [str(version) for version in base.list_versions()] == [
        "v1.0.0", "v1.1.0", "v1.1.1", "v1.5.0", "v2.0.0", "v7.0.0",
    ]  # fmt: skip
    assert base.latest_version() == base.latest_version(from_cache=True) == SemVer(7)


def test_an_unknown_strategy_is_refused_before_anything_is_written(store: Path) -> None:
    with pytest.raises(ValueError, match="version='bumpmayor': use 'bumpmajor'"):
        allocate(store, [{"size": 1}], version="bumpmayor")
    assert not store.exists()


def test_runs_of_one_second_get_a_directory_each(store: Path) -> None:
    base = experiment(store)
    runs = [base.allocate([{"size": i}], version="keep", engine="inline")[0] for i in range(6)]
    assert len({run.experiment_id for run in runs}) == 6
    assert [run.scalars().index.get_level_values("size")[0] for run in runs] == [0, 1, 2, 3, 4, 5]
    assert [run.timestamp for run in base.latest_run.versioned_experiment.list_runs()] == [
        run.timestamp for run in runs
    ]
    assert base.latest_run.experiment_id == runs[-1].experiment_id


@pytest.mark.parametrize("run_name", ["a study", "é/ü", "team/2026/a#b?c%d", "x=1"])
def test_a_run_name_may_have_any_characters_a_store_can_keep(run_name: str, store: Path) -> None:
    base = experiment(store, run_name=run_name)
    run, ref = base.allocate([{"size": 1}], engine="inline")
    assert list(ref.result().uris) == ["scalars"]
    assert run.experiment_id.startswith(f"{run_name}/v1.0.0/")
    found = scythe.open_run(run_name, store=store)
    assert found.experiment_id == run.experiment_id
    assert len(found.scalars()) == 1


@pytest.mark.parametrize("run_name", ["../a", "/a", "a//b", "a\nb", "a" * 300])
def test_a_run_name_that_no_store_could_keep_is_refused(run_name: str, store: Path) -> None:
    with pytest.raises(errors.InvalidKeyError):
        experiment(store, run_name=run_name).allocate([{"size": 1}], engine="inline")
    assert not store.exists()


PROJECT = """
import sys, time
from pathlib import Path
from scythe import BaseExperiment, ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry

class Design(ExperimentInputSpec):
    size: int

class Result(ExperimentOutputSpec):
    y: int

@ExperimentRegistry.Register()
def double(input_spec: Design) -> Result:
    return Result(y=2 * input_spec.size)
"""

RACER = """
from project import *

me, go = sys.argv[1], Path("go")
import scythe.launching, scythe.engines.inline  # so that both are ready when they are let go
Path("ready-" + me).touch()
while not go.exists():
    time.sleep(0.001)
for i in range(5):
    run, ref = BaseExperiment(runnable=double).allocate([{"size": 10 * int(me) + i}], version="keep", engine="inline")
    ref.result()
    print(run.experiment_id, int(run.scalars()["y"].iloc[0]))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project in a folder of its own."""
    (tmp_path / "project.py").write_text(PROJECT)
    monkeypatch.setenv("SCYTHE_STORAGE_URL", str(tmp_path / "runs"))
    return tmp_path


def start(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_two_processes_that_allocate_at_the_same_instant_get_directories_of_their_own(project: Path) -> None:
    racers = [start(RACER, project, str(me)) for me in (1, 2)]
    while not all((project / f"ready-{me}").exists() for me in (1, 2)):
        assert all(racer.poll() is None for racer in racers), [output_of(racer) for racer in racers]
    (project / "go").touch()
    found = dict(line.split() for racer in racers for line in output_of(racer).splitlines())
    assert len(found) == 10
    assert sorted(map(int, found.values())) == [20, 22, 24, 26, 28, 40, 42, 44, 46, 48]
    runs = scythe.find_runs("double", store=project / "runs")
    assert {run.experiment_id: str(run.scalars()["y"].iloc[0]) for run in runs} == found


# ---------------------------------------------------------------------------------------------------------------------
# files


class WithFiles(ExperimentInputSpec):
    network: FileReference
    weather: OptionalFileReference = None


@ExperimentRegistry.Register(retries=0)
def read_files(input_spec: WithFiles) -> Seen:
    assert isinstance(input_spec.network, Path)
    weather = "" if input_spec.weather is None else Path(input_spec.weather).read_text()  # type: ignore[arg-type]
    return Seen(seen=input_spec.network.read_text() + weather)


def test_local_files_are_uploaded_and_their_urls_are_index_levels(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("a.inp", "A"), ("b c #1é.inp", "B"), ("w.epw", "W")):
        (tmp_path / name).write_text(text)
    specs = [
        WithFiles(network="a.inp", weather="w.epw"),
        WithFiles(network=tmp_path / "b c #1é.inp"),
        WithFiles(network=tmp_path / "a.inp"),  # the same file, spelled absolutely
        WithFiles(network=(tmp_path / "a.inp").as_uri()),
    ]
    run = allocate(store, specs, read_files)
    table = run.scalars()
    assert table["seen"].tolist() == ["AW", "B", "A", "A"]
    urls = list(table.index.get_level_values("network"))
    artifacts = store / run.prefix / "artifacts"
    assert urls[0] == urls[2] == (artifacts / "network/a.inp").as_uri()
    assert urls[1] == (artifacts / "network/b c #1é.inp").as_uri()
    assert [str(spec.network) for spec in specs] == urls
    assert sorted(path.name for path in artifacts.rglob("*") if path.is_file()) == ["a.inp", "b c #1é.inp", "w.epw"]
    listed = yaml.safe_load((store / run.input_artifacts_filekey).read_text())
    assert listed["weather"] == [
        {"url": (artifacts / "weather/w.epw").as_uri(), "size": 1, "sha256": hashlib.sha256(b"W").hexdigest()}
    ]
    assert len(listed["network"]) == 2


def test_files_of_one_name_and_different_content_are_both_kept(store: Path, tmp_path: Path) -> None:
    texts = {"one": "1", "two": "2", "three": "1"}
    for folder, text in texts.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.inp").write_text(text)
    run = allocate(store, [WithFiles(network=tmp_path / folder / "a.inp") for folder in texts], read_files)
    assert run.scalars()["seen"].tolist() == ["1", "2", "1"]
    urls = list(run.scalars().index.get_level_values("network"))
    assert urls[0] == urls[2] != urls[1]
    assert all(url.endswith("/a.inp") for url in urls)


def test_an_input_that_changes_after_allocation_is_read_as_it_was(store: Path, tmp_path: Path) -> None:
    (tmp_path / "a.inp").write_text("before")
    run = allocate(store, [WithFiles(network=tmp_path / "a.inp")], read_files)
    (tmp_path / "a.inp").write_text("after")
    uploaded = scythe.open_run(run.experiment_id, store=store).specs()["network"].iloc[0]
    assert Path(uploaded.removeprefix("file://")).read_text() == "before"


def test_input_files_that_are_missing_are_all_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "a.inp").write_text("a")
    specs = [
        {"network": tmp_path / "a.inp"},
        {"network": tmp_path / "no.inp"},
        {"network": str(tmp_path), "weather": "nowhere/w.epw"},
    ]
    with pytest.raises(errors.InvalidSpecsError) as caught:
        allocate(store, specs, read_files)
    assert [(row, field, reason.partition(" (")[0]) for row, field, _, reason in caught.value.problems] == [
        (1, "network", "there is no such file"),
        (2, "network", "is a folder; give a file"),
        (2, "weather", "there is no such file"),
    ]
    assert "no.inp" in str(caught.value)
    assert not store.exists()


# ---------------------------------------------------------------------------------------------------------------------
# the run directory


def test_a_run_directory_has_what_1x_put_there(store: Path) -> None:
    run = allocate(store, ROWS)
    folder = store / run.prefix
    assert {path.name for path in folder.iterdir()} == {
        "manifest.yml", "experiment_io_spec.yml", "specs.pq", "scatter-gather", "final",
    }  # fmt: skip
    specs = pd.read_parquet(folder / "specs.pq")
    assert isinstance(specs.index, pd.RangeIndex)
    assert list(specs.columns) == [
        "experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id", "size", "count", "name", "tags",
        "zone", "when",
    ]  # fmt: skip
    assert list(specs["size"]) == [1.5, 2.0]


def test_the_manifest_says_what_was_run_when_where_and_with_what(store: Path, tmp_path: Path) -> None:
    (tmp_path / "a.inp").write_text("a")
    run = allocate(store, [WithFiles(network=tmp_path / "a.inp")], read_files, recursion_map=RecursionMap(factor=4))
    manifest = yaml.safe_load((store / run.manifest_filekey).read_text())
    assert manifest == run.manifest()
    assert list(manifest)[:6] == [
        "workflow_run_id", "experiment_id", "experiment_name", "specs_uri", "io_spec", "input_artifacts",
    ]  # fmt: skip
    assert manifest["experiment_id"] == run.experiment_id
    assert manifest["experiment_name"] == "scythe_experiment_read_files"
    keys = {
        "specs_uri": run.specs_filekey,
        "io_spec": run.io_spec_filekey,
        "input_artifacts": run.input_artifacts_filekey,
    }
    for name, key in keys.items():
        assert manifest[name] == run.as_uri(key) == (store / key).as_uri()
        assert (store / key).is_file()
    assert (manifest["version"], manifest["timestamp"]) == ("v1.0.0", run.timestamp)
    assert (manifest["engine"], manifest["state"]) == ("inline", "finished")
    assert (manifest["total"], manifest["done"], manifest["failed"]) == (1, 1, 0)
    assert manifest["recursion_map"] == {"factor": 4, "max_depth": 10}
    created, ended = (dt.datetime.fromisoformat(manifest[name]) for name in ("created", "ended"))
    assert created <= ended <= dt.datetime.now(dt.UTC)
    made = manifest["provenance"]
    assert made["python"] == sys.version.split()[0]
    assert made["packages"]["pyarrow"] == pa.__version__
    assert len(made["git"]["commit"]) == 40
    assert {"scythe", "platform", "host", "command"} <= set(made)


def test_the_schema_of_input_and_output_is_kept(store: Path) -> None:
    run = allocate(store, ROWS)
    schema = yaml.safe_load((store / run.io_spec_filekey).read_text())
    assert schema["input"]["properties"]["size"]["maximum"] == 100
    assert schema["output"]["properties"]["seen"]["type"] == "string"
    assert "storage_settings" not in schema["input"]["properties"]


def test_a_run_directory_is_never_written_to_by_another_allocation(store: Path) -> None:
    first = allocate(store, ROWS, version="keep")
    before = {path: path.read_bytes() for path in (store / first.prefix).rglob("*") if path.is_file()}
    allocate(store, ROWS[:1], version="keep")
    allocate(store, ROWS[:1], version=first.versioned_experiment.version)
    assert {path: path.read_bytes() for path in (store / first.prefix).rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------------------------------------------------------------
# runs as models, and found by others


class Study(SerializableRunnable, ExperimentInputSpec):
    """A user's model that carries an experiment and a run."""

    generation: int = 0
    before: ExperimentRun | None = None


def test_a_run_survives_json(store: Path) -> None:
    run = allocate(store, ROWS)
    again = ExperimentRun.model_validate_json(run.model_dump_json())
    assert again.experiment_id == run.experiment_id
    assert again.versioned_experiment.base_experiment.runnable is look
    assert again.scalars().equals(run.scalars())


def test_a_users_model_carries_an_experiment_and_a_run(store: Path) -> None:
    study = Study(runnable=look, generation=2, before=allocate(store, ROWS))
    for again in (Study.model_validate_json(study.model_dump_json()), study.model_copy(deep=True)):
        assert again.runnable is look
        assert again.before is not None
        assert len(again.before.scalars()) == 2
    assert Study(runnable="look").runnable is look
    assert json.loads(study.model_dump_json())["runnable"] == "scythe_experiment_look"


def test_an_experiment_can_be_given_under_its_name_and_as_in_1_0(store: Path) -> None:
    settings = ScytheStorageSettings(URL=str(store))
    for base in (
        BaseExperiment(runnable="look", storage_settings=settings),
        BaseExperiment(experiment=look, storage_settings=settings),
        BaseExperiment[Design, Seen](runnable=look, storage_settings=settings),
    ):
        assert base.runnable is look
        assert base.base_id == base.prefix == "scythe_experiment_look"


def test_what_is_not_registered_cannot_be_allocated(store: Path) -> None:
    with pytest.raises(errors.ExperimentTypeNotFound, match="'lok' is registered in this process"):
        experiment(store, "lok").allocate(ROWS)
    with pytest.raises(ValidationError, match="which is not registered; decorate the function"):
        experiment(store, print)
    assert not store.exists()


FINDER = """
import json, sys, warnings
import scythe

full, url = sys.argv[1:]
short = full.removeprefix("scythe_experiment_")
names = ["double", "scythe_experiment_double", "double/v1.0.0", full, "/" + full + "/", short, url]
runs = [scythe.open_run(name) for name in names]
assert len({run.experiment_id for run in runs}) == 1
assert "pyarrow" not in sys.modules
table = runs[0].scalars()
found = [run.experiment_id for run in scythe.find_runs("double")]
print(json.dumps([found, table["y"].tolist(), list(table.index.names)]))
"""


def test_another_process_finds_a_run_by_any_of_its_names(project: Path) -> None:
    made = output_of(
        start(
            """
    from project import *
    run, ref = BaseExperiment(runnable=double).allocate([{"size": 1}, {"size": 2}], engine="inline")
    ref.result()
    print(run.experiment_id, run.as_uri(run.prefix))
    """,
            project,
        )
    ).split()
    found = json.loads(output_of(start(FINDER, project, *made)))
    assert found == [
        [made[0]],
        [2, 4],
        ["experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id", "size"],
    ]


def test_what_is_not_in_the_store_is_reported_with_what_is(store: Path) -> None:
    run = allocate(store, ROWS)
    with pytest.raises(errors.ExperimentNotFoundError, match=r"No experiment 'luck'.*It holds: scythe_experiment_look"):
        scythe.open_run("luck", store=store)
    with pytest.raises(errors.ExperimentVersionNotFoundError, match=r"no version v9\.0\.0 \(it has: v1\.0\.0\)"):
        scythe.open_run("look/v9.0.0", store=store)
    with pytest.raises(errors.ExperimentRunNotFoundError, match=run.timestamp):
        scythe.open_run("look/v1.0.0/2020-01-01_00-00-00", store=store)
    assert scythe.find_runs("luck", store=store) == []
    assert [found.experiment_id for found in scythe.find_runs(store=store)] == [run.experiment_id]


def test_runs_are_found_by_version_and_then_by_time(store: Path) -> None:
    made = [allocate(store, ROWS, version=version) for version in (SemVer(10), SemVer(2), SemVer(10))]
    assert [run.experiment_id for run in scythe.find_runs("look", store=store)] == [
        made[i].experiment_id for i in (1, 0, 2)
    ]
    assert [run.experiment_id for run in scythe.find_runs("look/v2.0.0", store=store)] == [made[1].experiment_id]
    assert scythe.open_run("look", store=store).experiment_id == made[2].experiment_id


class OpenSpec(ExperimentInputSpec):
    number: Any
    anything: Any


@ExperimentRegistry.Register()
def look_open(input_spec: OpenSpec) -> Seen:
    return Seen(seen=repr((input_spec.number, input_spec.anything)))


def test_values_past_the_first_chunk_decide_the_type_of_a_column(store: Path) -> None:
    rows = [{"number": 2**60 + 1, "anything": i} for i in range(20_001)]
    rows[-1] = {"number": 0.5, "anything": "text"}
    run, ref = experiment(store, look_open).allocate(rows)
    kept = run.specs()
    assert kept["number"].tolist() == [row["number"] for row in rows]
    assert kept["anything"].tolist() == [row["anything"] for row in rows]
    ref.result()
    assert run.scalars()["seen"].tolist() == [repr((row["number"], row["anything"])) for row in rows]


def test_nan_in_a_frame_is_none_where_a_field_takes_it_and_nan_where_it_does_not(store: Path) -> None:
    frame = pd.DataFrame({"size": [1.0, 2.0], "count": [3, math.nan], "when": [pd.NaT, pd.Timestamp("2020-01-02")]})
    seen = allocate(store, frame).scalars()["seen"].tolist()
    assert seen == [repr((1.0, 3, "d", [], None, None)), repr((2.0, None, "d", [], None, dt.datetime(2020, 1, 2)))]
    with pytest.raises(errors.InvalidSpecsError, match="row 1: size = nan"):
        allocate(store, pd.DataFrame({"size": [1.0, math.nan]}))
