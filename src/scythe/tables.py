"""Columns, frames and Parquet: how values become columns, how columns of many parts become one, and the MultiIndex.

A column holds its values natively where Arrow has one type for all of them. Where it has not, it holds JSON text, and
the field's metadata says so (`encoding`):

- `mixed`: scalars of several types (`int | str`, integers past 64 bits); an index level shows them as text.
- `json`: lists, dicts and models of a spec; such a column is never an index level.

Knows no store: what comes in and goes out are Arrow tables.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import to_jsonable_python

from scythe.errors import TableClashError
from scythe.specs import PLAIN_TYPES, to_plain

Encoding = Literal["plain", "mixed", "json"]

ROW = "row"
"""The column of every part that tells which spec (its place in specs.pq) a record belongs to."""

_ENCODING = b"scythe.encoding"
_PANDAS = b"scythe.pandas"
_COLUMN_INDEXES = b"scythe.column_indexes"
_EXACT_FLOAT = 2**53


def encoding_of(field: pa.Field) -> Encoding:
    """Return how a column holds its values."""
    return (field.metadata or {}).get(_ENCODING, b"plain").decode()  # type: ignore[no-any-return]


def _field(name: str, type_: pa.DataType, encoding: Encoding = "plain") -> pa.Field:
    return pa.field(name, type_, metadata=None if encoding == "plain" else {_ENCODING: encoding.encode()})


# ---------------------------------------------------------------------------------------------------------------------
# values to columns and back


def encode_column(name: str, values: Sequence[Any], *, nested: Literal["json", "native"]) -> tuple[pa.Field, pa.Array]:
    """Turn values into a column.

    Args:
        name: The column's name.
        values: The values; whatever `specs.to_plain` takes.
        nested: Keep lists and dicts as JSON text (specs: exact, whatever their shape) or as Arrow lists and structs
            (results: ready to use) where their types agree.

    Raises:
        OutputError: A value is of a type that cannot be stored.
    """
    kinds = set(map(type, values))
    if not kinds <= PLAIN_TYPES:
        values = [to_plain(value) for value in values]
        kinds = set(map(type, values))
    kinds.discard(type(None))
    if kinds & {list, dict}:
        if nested == "native" and (array := _native(values)) is not None:
            return _field(name, array.type), array
        return _field(name, pa.string(), "json"), _json_text(values)
    array = _scalars(kinds, values)
    if array is None:
        return _field(name, pa.string(), "mixed"), _json_text(values)
    return _field(name, array.type), array


def _scalars(kinds: set[type], values: Sequence[Any]) -> pa.Array | None:
    """Return the native column of some scalars, or None if there is none that keeps them exactly."""
    try:
        if not kinds:
            return pa.nulls(len(values))
        if kinds == {int}:
            try:
                return pa.array(values, pa.int64())
            except OverflowError:
                return pa.array(values, pa.uint64())
        if kinds == {int, float}:
            exact = all(abs(v) <= _EXACT_FLOAT for v in values if type(v) is int)
            return pa.array(values, pa.float64(), from_pandas=False) if exact else None
        if kinds == {dt.datetime}:
            zones = {str(v.tzinfo) for v in values if v is not None}
            return pa.array(values) if len(zones) == 1 else None
        if kinds == {dt.time} and any(v is not None and v.tzinfo is not None for v in values):
            return None
        return pa.array(values) if len(kinds) == 1 else None
    except (pa.ArrowException, OverflowError, ValueError):
        return None


def _native(values: Sequence[Any]) -> pa.Array | None:
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None
    return None if _has_empty_struct(array.type) else array


def _has_empty_struct(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_):
        return type_.num_fields == 0 or any(_has_empty_struct(type_.field(i).type) for i in range(type_.num_fields))
    return pa.types.is_list(type_) and _has_empty_struct(type_.value_type)


def _json_text(values: Iterable[Any]) -> pa.Array:
    return pa.array([None if v is None else render_json(v) for v in values], pa.string())


def render_json(value: Any) -> str:
    """Write a value as JSON text; NaN, infinities and integers of any size stay what they are."""
    return json.dumps(to_jsonable_python(value, inf_nan_mode="constants", bytes_mode="base64"))


def decode_column(field: pa.Field, array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return a column's values; JSON text is read."""
    values: list[Any] = array.to_pylist()
    if encoding_of(field) == "plain":
        return values
    return [None if v is None else json.loads(v) for v in values]


def index_level(field: pa.Field, array: pa.Array | pa.ChunkedArray, *, exact: bool) -> pa.Array | pa.ChunkedArray:
    """Return a spec column as an index level.

    Args:
        field: The column's field.
        array: Its values.
        exact: Whether pandas can hold the level natively; `needs_text` tells.
    """
    if encoding_of(field) == "mixed":
        return pa.array([None if v is None else _text(v) for v in decode_column(field, array)], pa.string())
    return array if exact else array.cast(pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def needs_text(type_: pa.DataType, *, nulls: bool, largest: int) -> bool:
    """Tell whether pandas would round the integers of an index level: it makes floats of those with missing values."""
    return pa.types.is_integer(type_) and nulls and largest > _EXACT_FLOAT


# ---------------------------------------------------------------------------------------------------------------------
# many schemas to one


def unify_schemas(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return one schema that holds the columns of all, in order of first appearance.

    A column that is missing or all missing somewhere takes the type it has elsewhere, integers become floats where
    floats join them, and structs get the fields of all. Types that do not go together make a `mixed` column, which is
    what a column of specs may be; in a table of results `find_clash` reports it.
    """
    fields: dict[str, pa.Field] = {}
    metadata: dict[bytes, bytes] = {}
    for schema in schemas:
        metadata = {**(schema.metadata or {}), **metadata}
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else _unify_fields(known, field)
    return pa.schema(list(fields.values()), metadata=metadata or None)


def _unify_fields(a: pa.Field, b: pa.Field) -> pa.Field:
    if a.equals(b, check_metadata=True):
        return a
    metadata = {**(b.metadata or {}), **(a.metadata or {})}
    encodings = {encoding_of(a), encoding_of(b)}
    if pa.types.is_null(a.type) or pa.types.is_null(b.type):
        winner = b if pa.types.is_null(a.type) else a
        return winner.with_metadata(metadata | (winner.metadata or {})) if metadata else winner
    if encodings == {"plain"} and (type_ := _unify_types(a.type, b.type)) is not None:
        return a.with_type(type_).with_metadata(metadata or None)
    encoding = b"json" if "json" in encodings else b"mixed"
    return pa.field(a.name, pa.string(), metadata={**metadata, _ENCODING: encoding})


def _unify_types(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, or None."""
    types = pa.types
    if a == b:
        return a
    if types.is_null(a) or types.is_null(b):
        return b if types.is_null(a) else a
    if types.is_dictionary(a) and types.is_dictionary(b):
        value = _unify_types(a.value_type, b.value_type)
        return None if value is None else pa.dictionary(pa.int32(), value, ordered=a.ordered and b.ordered)
    if types.is_dictionary(a) or types.is_dictionary(b):
        return _unify_types(
            a.value_type if types.is_dictionary(a) else a, b.value_type if types.is_dictionary(b) else b
        )
    if types.is_integer(a) and types.is_integer(b):
        signed = types.is_signed_integer(a) and types.is_signed_integer(b)
        unsigned = types.is_unsigned_integer(a) and types.is_unsigned_integer(b)
        widest = a if a.bit_width >= b.bit_width else b
        return widest if signed or unsigned else None if 64 in (a.bit_width, b.bit_width) else pa.int64()
    if (types.is_integer(a) or types.is_floating(a)) and (types.is_integer(b) or types.is_floating(b)):
        return pa.float64()
    if types.is_timestamp(a) and types.is_timestamp(b) and (a.tz is None) == (b.tz is None):
        return pa.timestamp(_finer(a.unit, b.unit), tz=a.tz if a.tz == b.tz else "UTC")
    if types.is_duration(a) and types.is_duration(b):
        return pa.duration(_finer(a.unit, b.unit))
    if _is_text(a) and _is_text(b):
        return pa.large_string()
    if _is_list(a) and _is_list(b):
        value = _unify_types(a.value_type, b.value_type)
        return None if value is None else pa.list_(value)
    if types.is_struct(a) and types.is_struct(b):
        merged = unify_schemas([pa.schema(list(a)), pa.schema(list(b))])
        return None if any(encoding_of(field) != "plain" for field in merged) else pa.struct(list(merged))
    return None


def _finer(a: str, b: str) -> str:
    return max(a, b, key=["s", "ms", "us", "ns"].index)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table to a schema that `unify_schemas` made for it."""
    if table.schema.equals(schema, check_metadata=True):
        return table
    columns = []
    for field in schema:
        position = table.schema.get_field_index(field.name)
        if position < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            columns.append(_conform_column(table.schema.field(position), table.column(position), field))
    return pa.table(columns, schema=schema)


def _conform_column(source: pa.Field, column: pa.ChunkedArray, target: pa.Field) -> Any:
    if encoding_of(target) != "plain" and encoding_of(source) == "plain":
        return _json_text(column.to_pylist())
    if column.type == target.type:
        return column
    if pa.types.is_dictionary(target.type):
        values = column.cast(target.type.value_type)
        return pc.dictionary_encode(values.combine_chunks()).cast(target.type)
    try:
        return column.cast(target.type)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(column.to_pylist(), target.type)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables below each other under one schema."""
    schema = unify_schemas([table.schema for table in tables])
    return pa.concat_tables([conform(table, schema) for table in tables])


def find_clash(name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> TableClashError | None:
    """Return the error to raise for a column whose values cannot go together, if there is one.

    Args:
        name: The table's name, for the message.
        schema: The unified schema of the tables.
        tables: The parts, each with the column `row`.
    """
    clashing = [field.name for field in schema if encoding_of(field) == "mixed"]
    if not clashing:
        return None
    column = clashing[0]
    seen: dict[str, int] = {}
    for table in tables:
        position = table.schema.get_field_index(column)
        if position < 0:
            continue
        field = table.schema.field(position)
        for row, value in zip(table.column(ROW).to_pylist(), decode_column(field, table.column(position)), strict=True):
            if value is not None:
                kind = type(value).__name__
                seen[kind] = min(row, seen.get(kind, row))
    return TableClashError(name, column, sorted(seen.items(), key=lambda item: item[1]))


# ---------------------------------------------------------------------------------------------------------------------
# pandas' metadata, built by hand: every index level is a column, whatever made it


def frame_to_table(frame: Any, *, drop_levels: Iterable[str]) -> pa.Table:
    """Turn a user's data frame into a table of columns that remember what pandas knew about them.

    Args:
        frame: A pandas DataFrame.
        drop_levels: Levels of its index to leave out: those of the spec, which every table gets anyway.
    """
    import pandas as pd

    drop = [name for name in frame.index.names if name is not None and name in set(drop_levels)]
    if drop and len(drop) == frame.index.nlevels:
        frame = frame.reset_index(drop=True)
        frame.index.name = "sort_subindex"
    elif drop:
        frame = frame.reset_index(level=drop, drop=True)
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None:
        frame = frame.rename_axis(index="sort_subindex")
    table = pa.Table.from_pandas(frame, preserve_index=True)
    described = json.loads(table.schema.metadata[b"pandas"])
    entries = {entry["field_name"]: entry for entry in described["columns"]}
    fields = []
    for field in table.schema:
        entry = {**entries[field.name], "is_level": field.name in described["index_columns"]}
        fields.append(field.with_metadata({_PANDAS: json.dumps(entry).encode()}))
    metadata = {_COLUMN_INDEXES: json.dumps(described["column_indexes"]).encode()}
    return pa.table(table.columns, schema=pa.schema(fields, metadata=metadata))


def frame_levels(schema: pa.Schema) -> list[str]:
    """Return the columns of a frame's parts that were levels of its own index."""
    return [field.name for field in schema if _pandas_entry(field).get("is_level")]


def _pandas_entry(field: pa.Field) -> dict[str, Any]:
    text = (field.metadata or {}).get(_PANDAS)
    return json.loads(text) if text else {}


_PLAIN_COLUMN_INDEX = {
    "name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
    "metadata": {"encoding": "UTF-8"},
}  # fmt: skip


def assemble(levels: pa.Table, own_levels: pa.Table, columns: pa.Table) -> pa.Table:
    """Put a table of results together so that pandas restores its index by itself.

    Args:
        levels: The spec's index levels.
        own_levels: Levels of the user's own index, behind them.
        columns: The columns.

    Returns:
        One table whose pandas metadata names all levels. A level that has the name of a column is stored under another
        name; pandas shows it under its own.
    """
    taken = set(columns.schema.names)
    fields: list[pa.Field] = []
    arrays: list[Any] = []
    entries: list[dict[str, Any]] = []
    index_names: list[str] = []
    for part in (levels, own_levels):
        for field, array in zip(part.schema, part.columns, strict=True):
            stored = field.name
            if stored in taken:
                stored = f"__index_level_{len(fields)}__"
            taken.add(stored)
            index_names.append(stored)
            entries.append(_describe(field, stored))
            fields.append(pa.field(stored, field.type))
            arrays.append(array)
    for field, array in zip(columns.schema, columns.columns, strict=True):
        entries.append(_describe(field, field.name))
        fields.append(pa.field(field.name, field.type))
        arrays.append(array)
    column_indexes = (columns.schema.metadata or {}).get(_COLUMN_INDEXES)
    pandas = {
        "index_columns": index_names,
        "column_indexes": json.loads(column_indexes) if column_indexes else [_PLAIN_COLUMN_INDEX],
        "columns": entries,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.0",
    }
    return pa.table(arrays, schema=pa.schema(fields, metadata={b"pandas": json.dumps(pandas).encode()}))


def _describe(field: pa.Field, stored: str) -> dict[str, Any]:
    """Describe a column as pandas does; what a user's frame said of it holds while its type is still the same."""
    known = _pandas_entry(field)
    pandas_type, numpy_type, metadata = _pandas_types(field.type)
    if known and known["pandas_type"] == pandas_type:
        numpy_type, metadata = known["numpy_type"], known["metadata"]
    return {
        "name": known.get("name", field.name),
        "field_name": stored,
        "pandas_type": pandas_type,
        "numpy_type": numpy_type,
        "metadata": metadata,
    }


def _pandas_types(type_: pa.DataType) -> tuple[str, str, dict[str, Any] | None]:
    types = pa.types
    if types.is_null(type_):
        return "empty", "object", None
    if types.is_boolean(type_):
        return "bool", "bool", None
    if types.is_integer(type_) or types.is_floating(type_):
        name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(type_), str(type_))
        return name, name, None
    if _is_text(type_):
        return "unicode", "object", None
    if types.is_binary(type_) or types.is_large_binary(type_):
        return "bytes", "object", None
    if types.is_timestamp(type_):
        if type_.tz is None:
            return "datetime", f"datetime64[{type_.unit}]", None
        return "datetimetz", f"datetime64[{type_.unit}]", {"timezone": type_.tz}
    if types.is_date(type_):
        return "date", "object", None
    if types.is_time(type_):
        return "time", "object", None
    if types.is_duration(type_):
        return "timedelta", f"timedelta64[{type_.unit}]", None
    if types.is_dictionary(type_):
        return "categorical", "int32", {"num_categories": None, "ordered": type_.ordered}
    return "object", "object", None


def specs_frame(table: pa.Table) -> Any:
    """Return stored specs as a pandas DataFrame, lists and dicts as such."""
    frame = table.replace_schema_metadata(None).to_pandas()
    for column in table.schema:
        if encoding_of(column) != "plain":
            frame[column.name] = decode_column(column, table.column(column.name))
    return frame
