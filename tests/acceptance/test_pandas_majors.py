"""A run that was written with one major version of pandas reads the same with the other."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scythe import BaseExperiment, ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry, ExperimentRun
from scythe.runs import SpecsFailedWarning
from scythe.settings import ScytheStorageSettings

VARIABLE = "SCYTHE_TEST_PANDAS2_PYTHON"


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Design(ExperimentInputSpec):
    whole: int
    whole_or_none: int | None
    large_or_none: int | None
    ratio: float
    flag: bool
    flag_or_none: bool | None
    text: str
    text_or_none: str | None
    color: Color
    either: int | str
    when: dt.datetime
    when_in_utc: dt.datetime | None
    day: dt.date
    span: dt.timedelta

    @property
    def computed_features(self) -> dict[str, Any]:
        return {"label": f"#{self.whole}", "twice": 2 * self.whole}


class Result(ExperimentOutputSpec):
    whole: int
    whole_or_none: int | None
    flag: bool
    text: str | None
    when: dt.datetime
    when_in_utc: dt.datetime | None
    span: dt.timedelta
    series: list[float]


@ExperimentRegistry.Register(retries=0)
def write_everything(input_spec: Design) -> Result:
    i = input_spec.whole
    if i == 3:
        raise ValueError("no solution für 3")
    hours = pd.date_range("2020-01-01", periods=2, freq="h", tz="Europe/Berlin", name="hour")
    frame = pd.DataFrame(
        {
            "f32": np.float32([i, 0.1]),
            "Int64": pd.array([i, None], dtype="Int64"),
            "boolean": pd.array([True, None], dtype="boolean"),
            "string": pd.array(["ü", None], dtype="string"),
            "text": ["a", None],
            "category": pd.Categorical(["low", None], categories=["high", "low"], ordered=True),
            "berlin": hours,
            "naive": pd.to_datetime(["2020-01-01", None]),
            "span": pd.to_timedelta([1, None], unit="s"),
        },
        index=hours,
    )
    deep = pd.DataFrame(
        np.ones((2, 2)), columns=pd.MultiIndex.from_tuples([("p", 1), ("q", 2)], names=["kind", "node"])
    )
    zones = pd.DataFrame({7: [1.5], 8: [2.5]}, index=pd.Index(["north"], name="zone", dtype="category"))
    return Result(
        whole=i,
        whole_or_none=i if i else None,
        flag=i > 1,
        text=None if i else "é",
        when=dt.datetime(2020, 1, 1, 1, 2, 3, 456),
        when_in_utc=None if i else dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        span=dt.timedelta(seconds=i),
        series=[0.5] * i,
        dataframes={"hours": frame, "deep": deep, "zones": zones},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ExperimentRun:
    settings = ScytheStorageSettings(URL=str(tmp_path_factory.mktemp("majors")))
    specs = [
        Design(
            whole=i, whole_or_none=None if i == 1 else i, large_or_none=None if i == 1 else 2**60 + i, ratio=i / 3,
            flag=bool(i % 2), flag_or_none=None if i == 1 else True, text=f"ü{i}", text_or_none=None if i == 1 else "",
            color=Color.BLUE, either="a" if i == 2 else i, when=dt.datetime(2020, 1, 1 + i, 1, 2, 3, 4),
            when_in_utc=None if i == 1 else dt.datetime(2020, 7, 1 + i, tzinfo=dt.UTC), day=dt.date(2020, 1, 1 + i),
            span=dt.timedelta(days=i, microseconds=1),
        )
        for i in range(4)
    ]  # fmt: skip
    experiment = BaseExperiment(runnable=write_everything, storage_settings=settings)
    run, ref = experiment.allocate(specs, engine="inline")
    with pytest.warns(SpecsFailedWarning):
        ref.result()
    return run


DESCRIBE = """
import datetime, json, sys
import pandas as pd

def plain(value):
    if hasattr(value, "tolist") and not isinstance(value, (str, bytes)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    return value if isinstance(value, (bool, int, str)) else repr(value)

def dtype(values):
    text = str(values.dtype)  # text is of another type in each major version
    return "object" if text == "str" else text

def describe(path):
    frame = pd.read_parquet(path)
    levels = [frame.index.get_level_values(i) for i in range(frame.index.nlevels)]
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    return {
        "levels": [[plain(level.name), dtype(level), [plain(v) for v in level]] for level in levels],
        "columns": [[plain(column.name), dtype(column), [plain(v) for v in column]] for column in columns],
        "names": [plain(list(frame.columns.names)), dtype(frame.columns)],
        "categories": [[list(c.cat.categories), c.cat.ordered] for c in columns if c.dtype == "category"],
    }

def main():
    print(json.dumps([pd.__version__, {path: describe(path) for path in sys.argv[1:]}]))
"""


@pytest.fixture(scope="module")
def pandas2() -> str:
    """The interpreter that has pandas 2."""
    python = os.environ.get(VARIABLE)
    if python:
        return python
    reason = (
        f"{VARIABLE} is not set: `make test` sets it; by hand, make a virtual environment with 'pandas<3' and pyarrow "
        "and name its python"
    )
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def described(run: ExperimentRun, pandas2: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What pandas 2 and the pandas here find in each final table."""
    folder = Path(str(run.store.folder))  # type: ignore[attr-defined]
    paths = {Path(key).stem: str(folder / key) for key in run.list_results_files()}
    found = subprocess.run(
        [pandas2, "-W", "error", "-c", DESCRIBE + "\nmain()", *paths.values()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    version, there = json.loads(found.stdout)
    assert version.startswith("2."), f"{VARIABLE} has pandas {version}"
    names: dict[str, Any] = {}
    exec(DESCRIBE, names)
    here = {name: json.loads(json.dumps(names["describe"](path))) for name, path in paths.items()}
    return {name: there[path] for name, path in paths.items()}, here


TABLES = ["scalars", "errors", "tasks", "hours", "deep", "zones"]


def test_every_final_table_is_compared(described: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert sorted(described[0]) == sorted(described[1]) == sorted(TABLES)


@pytest.mark.parametrize("part", ["levels", "columns", "names", "categories"])
@pytest.mark.parametrize("table", TABLES)
def test_both_majors_find_the_same_names_types_and_values(
    table: str, part: str, described: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    there, here = described
    assert there[table][part] == here[table][part]


def test_the_comparison_covers_the_types_that_differ_between_majors(
    described: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    there, _ = described
    levels = {name: kind for name, kind, _ in there["scalars"]["levels"]}
    assert levels == {
        "experiment_id": "object", "sort_index": "int64", "workflow_run_id": "object", "root_workflow_run_id": "object",
        "whole": "int64", "whole_or_none": "float64", "large_or_none": "object", "ratio": "float64", "flag": "bool",
        "flag_or_none": "object", "text": "object", "text_or_none": "object", "color": "object", "either": "object",
        "when": "datetime64[us]", "when_in_utc": "datetime64[us, UTC]", "day": "object", "span": "timedelta64[us]",
        "label": "object", "twice": "int64",
    }  # fmt: skip
    columns = {name: kind for name, kind, _ in there["hours"]["columns"]}
    assert columns["category"] == "category"
    assert columns["berlin"] == "datetime64[us, Europe/Berlin]"
    assert (columns["f32"], columns["Int64"], columns["boolean"]) == ("float32", "Int64", "boolean")
