from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scythe.tables import (
    ROW,
    assemble,
    concat,
    conform,
    decode_column,
    encode_column,
    encoding_of,
    find_clash,
    frame_levels,
    frame_to_table,
    needs_text,
    shown_column,
    specs_frame,
    unify_schemas,
)

# ---------------------------------------------------------------------------------------------------------------------
# values

integers = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**80), 2**80),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64]),
)
floats = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324]))
texts = st.one_of(st.text(), st.text(st.characters()), st.sampled_from(["", "null", "NaN", "\ud800", "a\0b", "1"]))
json_scalars = st.one_of(st.none(), st.booleans(), integers, floats, texts)
nested = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, floats, st.text()),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=6,
)
zones = st.sampled_from(
    [dt.UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), dt.timezone(dt.timedelta(hours=1))]
)
times = st.datetimes(min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30))
aware = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1), timezones=zones, allow_imaginary=False)

KINDS = {
    "bool": st.booleans(),
    "int": integers,
    "float": floats,
    "str": texts,
    "bytes": st.binary(),
    "datetime": times,
    "date": st.dates(),
    "time": st.times(),
    "timedelta": st.timedeltas(),
}


def columns_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(st.none(), values), max_size=8)


def same(a: Any, b: Any) -> bool:
    """Compare values and types; NaN is NaN."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    return type(a) is type(b) and a == b


def stored(values: Sequence[Any], *, exact: bool = True) -> pa.Table:
    field, array = encode_column("x", values, exact=exact)
    return pa.table([array], schema=pa.schema([field]))


def read(table: pa.Table) -> list[Any]:
    return decode_column(table.schema.field("x"), table.column("x"))


def round_trip(table: pa.Table) -> pa.Table:
    """Send a table through Parquet, as every table goes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return pq.read_table(pa.BufferReader(sink.getvalue()))


# ---------------------------------------------------------------------------------------------------------------------
# specs: exact


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_values_of_one_kind_come_out_as_they_went_in(kind: str, data: st.DataObject) -> None:
    values = data.draw(columns_of(KINDS[kind]))
    table = round_trip(stored(values))
    if encoding_of(table.schema.field("x")) == "plain":
        assert all(map(same, read(table), values))
    else:  # what Arrow cannot hold is text for the model to read
        assert kind in ("int", "str", "timedelta")
        assert [v is None for v in read(table)] == [v is None for v in values]
        assert kind == "timedelta" or all(map(same, read(table), values))


@given(columns_of(aware))
def test_times_in_zones_keep_their_instant_and_their_offset(values: list[dt.datetime | None]) -> None:
    for value, time in zip(read(round_trip(stored(values))), values, strict=True):
        if time is not None:
            again = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
            assert again.isoformat() == time.isoformat()


@given(st.lists(json_scalars, max_size=8))
def test_scalars_of_several_kinds_come_out_as_they_went_in(values: list[Any]) -> None:
    found = read(round_trip(stored(values)))
    if {type(v) for v in values} <= {int, float, type(None)}:  # integers among floats are floats, of the same value
        values = [
            float(v) if isinstance(v, int) and not isinstance(f, int) else v for v, f in zip(values, found, strict=True)
        ]
    assert all(map(same, found, values))


@given(st.lists(nested, max_size=6))
def test_nested_values_come_out_as_they_went_in(values: list[Any]) -> None:
    if any(isinstance(value, list | dict) for value in values):
        table = round_trip(stored(values))
        assert encoding_of(table.schema.field("x")) == "json"
        assert all(map(same, read(table), values))


@given(st.lists(st.lists(nested, max_size=4), min_size=1, max_size=4))
def test_chunks_put_together_are_what_was_put_in(chunks: list[list[Any]]) -> None:
    found = read(round_trip(concat([stored(chunk) for chunk in chunks])))
    values = [value for chunk in chunks for value in chunk]
    assert len(found) == len(values)
    for value, again in zip(values, found, strict=True):
        assert same(again, value) or (type(value) is int and type(again) is float and again == value)


@given(st.lists(columns_of(aware), min_size=2, max_size=3))
def test_chunks_of_several_zones_keep_their_offsets(chunks: list[list[dt.datetime | None]]) -> None:
    found = read(concat([stored(chunk) for chunk in chunks]))
    for value, time in zip(found, [time for chunk in chunks for time in chunk], strict=True):
        if time is not None:
            again = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
            assert again.isoformat() == time.isoformat()


# ---------------------------------------------------------------------------------------------------------------------
# results: ready to use, and the same however they were spread over parts

result_values = st.one_of(
    *(columns_of(kind) for name, kind in KINDS.items() if name != "timedelta"),
    columns_of(aware),
    columns_of(st.timedeltas(dt.timedelta(days=-1000), dt.timedelta(days=1000))),
    columns_of(st.integers(-(2**60), 2**60) | floats),
    columns_of(json_scalars),
    columns_of(st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9) | st.none(), max_size=2)),
    columns_of(st.lists(st.integers(-9, 9) | st.floats(-9, 9), max_size=2)),
    columns_of(st.dictionaries(st.sampled_from("ab"), st.dictionaries(st.sampled_from("cd"), st.text(), max_size=2))),
    columns_of(st.lists(st.dictionaries(st.sampled_from("ab"), st.booleans(), max_size=2), max_size=2)),
    columns_of(st.lists(st.integers(0, 3) | st.text(max_size=2), max_size=2)),
    columns_of(st.dictionaries(st.sampled_from("ab"), times | st.none(), max_size=2)),
    columns_of(st.lists(st.dates() | st.text(max_size=2), max_size=2)),
    columns_of(st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)),
)


def shown(table: pa.Table) -> list[Any]:
    return shown_column(table.schema.field("x"), table.column("x")).to_pylist()  # type: ignore[no-any-return]


@given(result_values, st.data())
def test_a_result_column_is_the_same_however_it_was_spread_over_parts(values: list[Any], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    parts = [stored(values[a:b], exact=False) for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    whole, merged = stored(values, exact=False), round_trip(concat(parts))
    assert merged.schema.field("x").type == whole.schema.field("x").type
    assert encoding_of(merged.schema.field("x")) == encoding_of(whole.schema.field("x"))
    clash = find_clash("scalars", whole.schema, [whole.add_column(0, ROW, [range(len(values))])])
    assert clash is not None or all(map(same, shown(merged), shown(whole)))


def test_integers_that_meet_floats_become_floats() -> None:
    for table in (stored([1, 2.5], exact=False), concat([stored([1], exact=False), stored([2.5], exact=False)])):
        assert table.schema.field("x").type == pa.float64()
        assert read(table) == [1.0, 2.5]


def test_lists_and_dicts_whose_types_agree_are_native() -> None:
    table = concat([stored([[1]], exact=False), stored([[2.5], None, []], exact=False)])
    assert shown(table) == [[1.0], None, [2.5], None, []] or shown(table) == [[1.0], [2.5], None, []]
    table = concat([stored([{}], exact=False), stored([{"a": 1}], exact=False)])
    assert table.schema.field("x").type == pa.struct([("a", pa.int64())])


def test_dicts_without_any_key_are_shown_as_text() -> None:
    assert shown(round_trip(stored([{}, None, {}], exact=False))) == ["{}", None, "{}"]


def test_lists_and_dicts_whose_types_do_not_agree_are_shown_as_json() -> None:
    assert shown(concat([stored([[1]], exact=False), stored([["a"]], exact=False)])) == ["[1]", '["a"]']


def test_integers_past_64_bits_are_shown_as_text() -> None:
    assert shown(stored([2**64, None, -1], exact=False)) == [str(2**64), None, "-1"]


def test_text_that_is_no_unicode_is_shown_escaped() -> None:
    assert shown(round_trip(stored(["a\udce9", "ü"], exact=False))) == ["a\\udce9", "ü"]


# ---------------------------------------------------------------------------------------------------------------------
# clashes


def records(rows: list[int], values: list[Any]) -> pa.Table:
    return stored(values, exact=False).add_column(0, ROW, [rows])


def clash_of(*parts: pa.Table) -> Any:
    schema = unify_schemas([part.schema for part in parts])
    return find_clash("scalars", schema, [conform(part, schema) for part in parts])


def test_a_clash_names_the_column_the_types_and_the_first_spec_of_each() -> None:
    error = clash_of(records([4, 5], [1, 2]), records([2, 9], ["a", None]), records([7], [True]))
    assert (error.table, error.column) == ("scalars", "x")
    assert error.types == [("str", 2), ("int", 4), ("bool", 7)]


def test_a_clash_within_one_part_is_the_same() -> None:
    assert clash_of(records([2, 4, 9], ["a", 1, "b"])).types == [("str", 2), ("int", 4)]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5],
        [1, None],
        [2**63, 1],
        [2**70, -1],
        ["a", "\ud800"],
        [[1], ["a"]],
        [{}, {"a": 1}],
        [{"a": 1}, [1]],
        [True],
    ],
)
def test_what_goes_together_is_no_clash(values: list[Any]) -> None:
    assert clash_of(*(records([i], [value]) for i, value in enumerate(values))) is None
    assert clash_of(records(list(range(len(values))), values)) is None


def test_of_several_mixed_columns_the_one_that_clashes_is_reported() -> None:
    def part(row: int, big: int, y: Any) -> pa.Table:
        columns = {"big": [big], "y": [y]}
        encoded = [encode_column(name, values, exact=False) for name, values in columns.items()]
        table = pa.table([array for _, array in encoded], schema=pa.schema([field for field, _ in encoded]))
        return table.add_column(0, ROW, [[row]])

    assert clash_of(part(0, 2**70, 1), part(1, 5, "a")).column == "y"


# ---------------------------------------------------------------------------------------------------------------------
# schemas


CATEGORY = pa.dictionary(pa.int8(), pa.string())


@pytest.mark.parametrize(
    ("a", "b", "together"),
    [
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.uint8(), pa.uint16(), pa.uint16()),
        (pa.int8(), pa.uint32(), pa.int64()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.null(), pa.string(), pa.string()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("ns", "Europe/Berlin")),
        (pa.duration("ms"), pa.duration("us"), pa.duration("us")),
        (pa.decimal128(3, 2), pa.decimal128(5, 1), pa.decimal128(6, 2)),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.float64())),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (CATEGORY, pa.string(), pa.string()),
        (CATEGORY, pa.dictionary(pa.int16(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
    ],
)  # fmt: skip
def test_two_types_become_one_that_holds_both(a: pa.DataType, b: pa.DataType, together: pa.DataType) -> None:
    for first, second in ((a, b), (b, a)):
        schema = unify_schemas([pa.schema([("x", first)]), pa.schema([("x", second)])])
        assert schema.field("x") == pa.field("x", together)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pa.int64(), pa.string()),
        (pa.bool_(), pa.int64()),
        (pa.date32(), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.int64(), pa.duration("us")),
    ],
)
def test_two_types_that_do_not_go_together_make_a_mixed_column(a: pa.DataType, b: pa.DataType) -> None:
    schema = unify_schemas([pa.schema([("x", a)]), pa.schema([("x", b)])])
    assert encoding_of(schema.field("x")) == "mixed"


def test_columns_stand_in_the_order_in_which_they_first_appear() -> None:
    schemas = [pa.schema([("a", pa.int64())]), pa.schema([("b", pa.int64()), ("a", pa.int64())])]
    assert unify_schemas(schemas).names == ["a", "b"]
    table = concat([pa.table({"a": [1]}), pa.table({"b": [2], "a": [3]})])
    assert table.to_pydict() == {"a": [1, 3], "b": [None, 2]}


@pytest.mark.parametrize(
    ("type_", "nulls", "largest", "expected"),
    [
        (pa.int64(), True, 2**53 + 1, True),
        (pa.int64(), True, 2**53, False),
        (pa.int64(), False, 2**60, False),
        (pa.float64(), True, 2**60, False),
    ],
)
def test_pandas_would_round_large_integers_among_missing_ones(
    type_: pa.DataType, nulls: bool, largest: int, expected: bool
) -> None:
    assert needs_text(type_, nulls=nulls, largest=largest) is expected


# ---------------------------------------------------------------------------------------------------------------------
# users' data frames

LEVELS = ("experiment_id", "sort_index", "size")


def spec_index(n: int, **more: Sequence[Any]) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(
        pd.DataFrame({"experiment_id": ["e"] * n, "sort_index": [0] * n, "size": [1.5] * n, **more})
    )


@pytest.mark.parametrize(
    ("index", "levels"),
    [
        (None, ["sort_subindex"]),
        (pd.Index([3, 5]), ["sort_subindex"]),
        (pd.RangeIndex(4, 6), ["sort_subindex"]),
        (pd.Index([3, 5], name="hour"), ["hour"]),
        (pd.date_range("2020-01-01", periods=2), ["__index_level_0__"]),
        (pd.Index(["a", "b"]), ["__index_level_0__"]),
        (pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["hour", "zone"]), ["hour", "zone"]),
        (pd.Index([3.0, 5.0], name="size"), ["size"]),
        (spec_index(2), ["sort_subindex"]),
        (spec_index(2, sort_subindex=[0, 1]), ["sort_subindex"]),
        (spec_index(2, hour=[7, 9]), ["hour"]),
        (spec_index(2, hour=[7, 9], sort_subindex=[0, 1]), ["hour", "sort_subindex"]),
    ],
)
def test_a_frame_keeps_the_levels_of_its_index_that_are_not_the_specs(index: Any, levels: list[str]) -> None:
    table = frame_to_table(pd.DataFrame({"a": [1, 2]}, index=index), drop_levels=LEVELS)
    assert frame_levels(table.schema) == levels
    assert table.column("a").to_pylist() == [1, 2]


@pytest.mark.parametrize("index", [None, spec_index(1)])
def test_a_frame_of_one_row_is_not_numbered(index: Any) -> None:
    assert frame_levels(frame_to_table(pd.DataFrame({"a": [1]}, index=index), drop_levels=LEVELS).schema) == []


def test_a_frame_of_one_row_keeps_an_index_of_its_own() -> None:
    for index, levels in ((pd.Index([0], name="hour"), ["hour"]), (pd.Index([7]), ["sort_subindex"])):
        table = frame_to_table(pd.DataFrame({"a": [1]}, index=index), drop_levels=LEVELS)
        assert frame_levels(table.schema) == levels


@pytest.mark.parametrize(
    "empty",
    [
        pd.DataFrame(),
        pd.DataFrame(columns=["a", "b"]),
        pd.DataFrame({"a": []}, index=pd.Index([], name="when", dtype="datetime64[ns]")),
        pd.DataFrame({"a": pd.Series([], dtype="str")}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_empty_frame_says_nothing_about_types_levels_and_names(empty: pd.DataFrame, first: bool) -> None:
    full = frame_to_table(pd.DataFrame({"a": [1, 2]}, index=pd.Index([7, 9], name="hour")), drop_levels=LEVELS)
    tables = [frame_to_table(empty, drop_levels=LEVELS), full]
    table = concat(tables if first else tables[::-1])
    assert frame_levels(table.schema) == ["hour"]
    assert table.column("a").to_pylist() == [1, 2]
    assert table.schema.field("a").type == pa.int64()


def test_a_column_name_that_two_frames_read_differently_stays_text() -> None:
    frames = [
        pd.DataFrame({"a": [1.0]}),
        pd.DataFrame({1: [2.0]}),
        pd.DataFrame({"b": [3.0]}).rename_axis(columns="kind"),
    ]
    table = concat([frame_to_table(frame, drop_levels=LEVELS) for frame in frames])
    frame = assemble(pa.table({}), table.select([]), table).to_pandas()
    assert list(frame.columns) == ["a", "1", "b"]


def test_columns_of_several_levels_meet_columns_of_one() -> None:
    deep = pd.DataFrame([[1.0]], columns=pd.MultiIndex.from_tuples([("a", 1)]))
    table = concat([frame_to_table(frame, drop_levels=LEVELS) for frame in (deep, pd.DataFrame({"b": [2.0]}))])
    frame = assemble(pa.table({}), table.select([]), table).to_pandas()
    assert list(frame.columns) == ["('a', '1')", "b"]


# ---------------------------------------------------------------------------------------------------------------------
# assembled tables


def test_pandas_restores_the_index_of_an_assembled_table_by_itself() -> None:
    levels = pa.table({"sort_index": [0, 0, 1], "size": [1.5, 1.5, 2.5]})
    own = pa.table({"hour": [7, 9, 7]})
    frame = round_trip(assemble(levels, own, pa.table({"y": [1.0, 2.0, 3.0]}))).to_pandas()
    assert list(frame.index.names) == ["sort_index", "size", "hour"]
    assert list(frame.index) == [(0, 1.5, 7), (0, 1.5, 9), (1, 2.5, 7)]
    assert list(frame.columns) == ["y"]


def test_a_level_and_a_column_of_one_name_are_both_kept() -> None:
    frame = round_trip(assemble(pa.table({"size": [1, 2]}), pa.table({}), pa.table({"size": ["a", "b"]}))).to_pandas()
    assert list(frame.index.get_level_values("size")) == [1, 2]
    assert list(frame["size"]) == ["a", "b"]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1.5, 2.5], dtype="float32"),
        pd.Series([1, 2], dtype="int8"),
        pd.Series([1, None], dtype="Int64"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([1.5, None], dtype="Float32"),
        pd.Series(["a", None], dtype="string"),
        pd.Series(["a", "b"]),
        pd.Series(pd.Categorical(["hi", "lo"], categories=["lo", "mid", "hi"], ordered=True)),
        pd.Series(pd.Categorical(["z", "a"], categories=["z", "unused", "a"])),
        pd.Series(pd.to_datetime(["2020-01-01", "2020-07-01"])).dt.tz_localize("Europe/Berlin"),
        pd.Series(pd.to_datetime(["2020-01-01", None]).astype("datetime64[ns]")),
        pd.Series(pd.to_timedelta([1, None], unit="s")),
        pd.Series(pd.period_range("2020", periods=2, freq="M")),
        pd.Series(pd.interval_range(0, 2)),
        pd.Series([dt.date(2020, 1, 1), None], dtype=object),
        pd.Series([b"\xff", None], dtype=object),
    ],
    ids=lambda values: str(values.dtype).partition("[")[0] + "-" + type(values.iloc[0]).__name__,
)
def test_the_types_of_a_frame_are_restored_from_two_parts(values: pd.Series[Any]) -> None:
    parts = [frame_to_table(pd.DataFrame({"a": values.iloc[i : i + 1]}), drop_levels=LEVELS) for i in (0, 1)]
    table = round_trip(concat([round_trip(part) for part in parts]))
    frame = round_trip(assemble(pa.table({}), table.select([]), table.select(["a"]))).to_pandas()
    pd.testing.assert_series_equal(frame["a"].reset_index(drop=True), values, check_names=False)


@pytest.mark.parametrize(
    "columns",
    [
        pd.Index(["a", "b"], name="kind"),
        pd.Index([1, 2]),
        pd.Index([1, 2], name="node"),
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["kind", "node"]),
        pd.DatetimeIndex(["2020-01-01", "2020-01-02"], name="day"),
    ],
)
def test_the_names_of_columns_are_restored(columns: pd.Index[Any]) -> None:
    table = frame_to_table(pd.DataFrame(np.ones((2, 2)), columns=columns), drop_levels=LEVELS)
    own = frame_levels(table.schema)
    data = table.select([name for name in table.column_names if name not in own])
    frame = round_trip(assemble(pa.table({}), table.select(own), data)).to_pandas()
    pd.testing.assert_index_equal(frame.columns, columns)


def test_specs_are_shown_with_lists_and_dicts_as_such() -> None:
    columns = {"a": [1, None], "b": [[1], {"c": None}], "c": [1, "a"], "d": [math.nan, 2.0]}
    encoded = [encode_column(name, values, exact=True) for name, values in columns.items()]
    frame = specs_frame(pa.table([array for _, array in encoded], schema=pa.schema([field for field, _ in encoded])))
    assert list(frame.columns) == ["a", "b", "c", "d"]
    assert frame["b"].tolist() == [[1], {"c": None}]
    assert frame["c"].tolist() == [1, "a"]
    assert frame["a"].tolist() == [1, pd.NA]
