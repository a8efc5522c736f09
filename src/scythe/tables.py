"""Columns, frames and Parquet: how values become columns, how columns of many parts become one, and the MultiIndex.

A column holds its values natively where Arrow has one type for all of them. Where it has not, it holds JSON text, and
the field's metadata says so (`encoding`):

- `mixed`: scalars of several types (`int | str`), or that Arrow cannot hold (integers past 64 bits); tables show text.
- `json`: lists, dicts and models of a spec, and those of results whose types do not agree; never an index level.

What a column becomes follows from its values and not from how they were spread over parts.

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
from scythe.specs import BASE_FIELDS, PLAIN_TYPES, parse_json, render_json, to_plain

Encoding = Literal["plain", "mixed", "json"]

ROW = "scythe:row"
"""The column of every part that tells which spec (its place in specs.pq) a record belongs to."""

SUBINDEX = "sort_subindex"
"""The level that numbers the rows of a spec where it has several."""

_ENCODING = b"scythe.encoding"
_EXACT = b"scythe.exact"
_PANDAS = b"scythe.pandas"
_COLUMN_INDEXES = b"scythe.column_indexes"
_EXACT_FLOATS, _INT64 = (-(2**53), 2**53), (-(2**63), 2**63 - 1)
_RESULT_TYPES = PLAIN_TYPES | {list, dict}


def encoding_of(field: pa.Field) -> Encoding:
    """Return how a column holds its values."""
    return (field.metadata or {}).get(_ENCODING, b"plain").decode()  # type: ignore[no-any-return]


def _field(name: str, type_: pa.DataType, encoding: Encoding = "plain") -> pa.Field:
    return pa.field(name, type_, metadata=None if encoding == "plain" else {_ENCODING: encoding.encode()})


# ---------------------------------------------------------------------------------------------------------------------
# values to columns and back


def encode_column(name: str, values: Sequence[Any], *, exact: bool) -> tuple[pa.Field, pa.Array]:
    """Turn values into a column.

    Args:
        name: The column's name.
        values: The values; whatever `specs.to_plain` takes. Lists and dicts of results hold plain data already.
        exact: Every value comes out as it went in (specs): lists and dicts are JSON text, whatever their shape. Else
            (results) a column is made ready to use: lists and dicts are Arrow's where their types agree, integers that
            meet floats become floats, and times of several zones are in UTC.

    Raises:
        OutputError: A value is of a type that cannot be stored.
    """
    kinds = set(map(type, values))
    if not kinds <= (PLAIN_TYPES if exact else _RESULT_TYPES):
        values = [to_plain(value) for value in values]
        kinds = set(map(type, values))
    kinds.discard(type(None))
    if kinds & {list, dict}:
        array = None if exact else _native(values)
        if array is None:
            return _field(name, pa.string(), "json"), _json_text(values)
        return _field(name, array.type), array
    array = _scalars(kinds, values, exact=exact)
    if array is None:
        return _field(name, pa.string(), "mixed"), _json_text(values)
    field = _field(name, array.type)
    return field.with_metadata({_EXACT: b"1"}) if exact and _is_rigid(array) else field, array


def encode_nested(name: str, values: Sequence[Any]) -> tuple[pa.Field, pa.Array]:
    """Turn the values of a nested field of specs into a column of JSON text, whatever they happen to be.

    Raises:
        OutputError: A value is of a type that cannot be stored.
    """
    return _field(name, pa.string(), "json"), _json_text([to_plain(value) for value in values])


def _scalars(kinds: set[type], values: Sequence[Any], *, exact: bool) -> pa.Array | None:
    """Return the native column of some scalars, or None if there is none that keeps them."""
    try:
        if not kinds:
            return pa.nulls(len(values))
        if kinds == {int}:
            return pa.array(values, pa.int64())
        if kinds == {int, float}:
            lowest, highest = _EXACT_FLOATS if exact else _INT64
            if not all(lowest <= v <= highest for v in values if type(v) is int):
                return None
            return pa.array([None if v is None else float(v) for v in values], pa.float64(), from_pandas=False)
        if kinds == {dt.datetime}:
            zones = {str(v.tzinfo) for v in values if v is not None}
            if len(zones) > 1 and not exact and str(None) not in zones:
                return pa.array([None if v is None else v.astimezone(dt.UTC) for v in values])
            return pa.array(values) if len(zones) == 1 else None
        if kinds == {dt.time} and any(v is not None and v.tzinfo is not None for v in values):
            return None
        return pa.array(values) if len(kinds) == 1 else None
    except (pa.ArrowException, OverflowError, ValueError):
        return None


def _is_rigid(array: pa.Array) -> bool:
    """Tell a column whose values another type would change: integers that floats round, times in a zone."""
    if pa.types.is_timestamp(array.type):
        return array.type.tz is not None
    if not pa.types.is_integer(array.type):
        return False
    extent = pc.min_max(array)
    lowest, highest = _EXACT_FLOATS
    return bool(extent["min"].as_py() < lowest or extent["max"].as_py() > highest)


def _native(values: Sequence[Any]) -> pa.Array | None:
    try:
        array = pa.array(values)
        return pa.array(values, _fill_empty(array.type)) if _has_empty_struct(array.type) else array
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None


_NOTHING = pa.field("", pa.null())
"""The one field of a struct that has none: Parquet cannot hold an empty struct."""


def _fill_empty(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(type_):
        return pa.struct([f.with_type(_fill_empty(f.type)) for f in type_] or [_NOTHING])
    return pa.list_(_fill_empty(type_.value_type)) if pa.types.is_list(type_) else type_


def _has_empty_struct(type_: pa.DataType) -> bool:
    """Tell whether a type has a struct without fields in it, filled or not."""
    if pa.types.is_struct(type_):
        return list(type_) in ([], [_NOTHING]) or any(_has_empty_struct(field.type) for field in type_)
    return _is_list(type_) and _has_empty_struct(type_.value_type)


def _json_text(values: Iterable[Any]) -> pa.Array:
    return pa.array([None if v is None else render_json(v) for v in values], pa.string())


def decode_column(field: pa.Field, array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return a column's values; JSON text is read."""
    values: list[Any] = array.to_pylist()
    if encoding_of(field) == "plain":
        return values
    return [None if v is None else parse_json(v) for v in values]


def shown_column(field: pa.Field, array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column as tables show it: mixed scalars as text."""
    if encoding_of(field) == "mixed":
        return pa.array([None if v is None else _text(v) for v in decode_column(field, array)], pa.string())
    return _json_text(_values(array)) if _has_empty_struct(field.type) else array


def _text(value: Any) -> str:
    plain = to_jsonable_python(value, inf_nan_mode="constants", bytes_mode="base64")
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return text.encode(errors="backslashreplace").decode()


def _values(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    values: list[Any] = array.to_pylist()
    return [_without_filling(value) for value in values] if _has_empty_struct(array.type) else values


def _without_filling(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_filling(item) for name, item in value.items() if name != _NOTHING.name}
    return [_without_filling(item) for item in value] if isinstance(value, list) else value


def needs_text(type_: pa.DataType, *, nulls: bool, largest: int) -> bool:
    """Tell whether pandas would round the integers of an index level: it makes floats of those with missing values."""
    return pa.types.is_integer(type_) and nulls and largest > _EXACT_FLOATS[1]


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
        metadata = _unify_metadata(metadata, schema.metadata or {})
        for field in schema:
            known = fields.get(field.name)
            fields[field.name] = field if known is None else _unify_fields(known, field)
    return pa.schema(list(fields.values()), metadata=metadata or None)


def _unify_metadata(a: dict[bytes, bytes], b: dict[bytes, bytes]) -> dict[bytes, bytes]:
    merged = {**b, **a}
    if _COLUMN_INDEXES in a and _COLUMN_INDEXES in b:
        one, other = json.loads(a[_COLUMN_INDEXES]), json.loads(b[_COLUMN_INDEXES])
        merged[_COLUMN_INDEXES] = json.dumps(_unify_column_indexes(one, other)).encode()
    return merged


def _unify_column_indexes(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how pandas restores the names of columns: where frames do not agree, they stay the text they are here."""
    if len(a) != len(b):
        return [_PLAIN_COLUMN_INDEX]
    return [
        x if x == y else {**_PLAIN_COLUMN_INDEX, "name": x["name"] if x["name"] == y["name"] else None}
        for x, y in zip(a, b, strict=True)
    ]


def _unify_fields(a: pa.Field, b: pa.Field) -> pa.Field:
    if a.equals(b, check_metadata=True):
        return a
    metadata = {**(b.metadata or {}), **(a.metadata or {})}
    encodings = {encoding_of(a), encoding_of(b)}
    if pa.types.is_null(a.type) or pa.types.is_null(b.type):
        winner = b if pa.types.is_null(a.type) else a
        return winner.with_metadata(metadata | (winner.metadata or {})) if metadata else winner
    if encodings == {"plain"}:
        type_ = _unify_types(a.type, b.type)
        if type_ is not None and all(f.type == type_ for f in (a, b) if _EXACT in (f.metadata or {})):
            return a.with_type(type_).with_metadata(metadata or None)
    is_nested = "json" in encodings or any(pa.types.is_nested(f.type) for f in (a, b))
    return pa.field(a.name, pa.string(), metadata={**metadata, _ENCODING: b"json" if is_nested else b"mixed"})


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
    if types.is_decimal(a) and types.is_decimal(b):
        scale = max(a.scale, b.scale)
        return _decimal(max(a.precision - a.scale, b.precision - b.scale) + scale, scale)
    if _is_list(a) and _is_list(b):
        value = _unify_types(a.value_type, b.value_type)
        return None if value is None else pa.list_(value)
    if types.is_struct(a) and types.is_struct(b):
        merged = unify_schemas([pa.schema(list(a)), pa.schema(list(b))])
        if any(encoding_of(field) != "plain" for field in merged):
            return None
        return pa.struct([field for field in merged if field != _NOTHING] or [_NOTHING])
    return None


def _decimal(precision: int, scale: int) -> pa.DataType | None:
    if precision > 76:  # the widest there is
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


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
        return _json_text(_values(column))
    if column.type == target.type:
        return column
    if pa.types.is_dictionary(target.type):
        values = column.cast(target.type.value_type)
        return pc.dictionary_encode(values.combine_chunks()).cast(target.type)
    if pa.types.is_floating(target.type):
        return column.cast(target.type, safe=False)  # past 2^53 integers are rounded
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
        tables: The parts under that schema.
    """
    seen: dict[str, dict[str, int]] = {field.name: {} for field in schema if encoding_of(field) == "mixed"}
    if not seen:
        return None
    for table in tables:
        rows = table.column(ROW).to_pylist()
        for column, kinds in seen.items():
            for row, value in zip(rows, decode_column(table.schema.field(column), table.column(column)), strict=True):
                if value is not None:
                    kind = type(value).__name__
                    kinds[kind] = min(row, kinds.get(kind, row))
    for column, kinds in seen.items():
        if len(kinds) > 1:
            return TableClashError(name, column, sorted(kinds.items(), key=lambda item: item[1]))
    return None


# ---------------------------------------------------------------------------------------------------------------------
# pandas' metadata, built by hand: every index level is a column, whatever made it


def frame_to_table(frame: Any, *, drop_levels: Iterable[str]) -> pa.Table:
    """Turn a user's data frame into a table of columns that remember what pandas knew about them.

    A frame's own index is kept. An integer index without a name numbers the rows: it is the level `sort_subindex`,
    which a frame of one row (or none) does without.

    Args:
        frame: A pandas DataFrame.
        drop_levels: The spec's levels, which every table gets anyway: left out of an index that was made from the spec,
            which is one that has the spec's id or place.
    """
    import pandas as pd

    levels = set(drop_levels).intersection(frame.index.names)
    if not levels.isdisjoint(BASE_FIELDS):
        frame = frame.reset_index(level=list(levels), drop=True)
    index = frame.index
    if index.nlevels == 1 and index.name is None and pd.api.types.is_integer_dtype(index.dtype):
        frame = frame.rename_axis(index=SUBINDEX)
    is_numbered = frame.index.name == SUBINDEX and index.equals(pd.RangeIndex(len(frame)))
    table = pa.Table.from_pandas(frame, preserve_index=True)
    described = json.loads(table.schema.metadata[b"pandas"])
    entries = {entry["field_name"]: entry for entry in described["columns"]}
    if len(frame) == 0 or (len(frame) == 1 and is_numbered):
        table = table.drop_columns(described["index_columns"])
    if len(frame) == 0:  # its columns are known, their types are not
        table = pa.table([pa.nulls(0)] * table.num_columns, names=table.column_names)
    fields = []
    for field in table.schema:
        is_level = field.name in described["index_columns"]
        entry = {**entries[field.name], "is_level": is_level, "arrow_type": str(field.type)}
        fields.append(field.with_metadata({_PANDAS: json.dumps(entry).encode()}))
    metadata = {_COLUMN_INDEXES: json.dumps(described["column_indexes"]).encode()} if len(frame.columns) else None
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
    if known and known["arrow_type"] == str(field.type):
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
    """Return stored specs as a pandas DataFrame: lists and dicts as such, integers exact where some are missing."""
    import pandas as pd

    frame = table.replace_schema_metadata(None).to_pandas()
    for column, data in zip(table.schema, table.columns, strict=True):
        if encoding_of(column) != "plain":
            frame[column.name] = pd.Series(decode_column(column, data), frame.index, dtype=object)
        elif pa.types.is_integer(column.type) and data.null_count:
            frame[column.name] = pd.Series(data.to_pylist(), frame.index, dtype="Int64")
    return frame
