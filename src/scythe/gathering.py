"""Gathering: merges the parts of a run into its tables, a window of specs at a time.

Two passes: the first reads only the schemas and unifies them; the second streams windows of specs, each joined with
its index levels from specs.pq, to the writer. Memory holds one window and the parts that overlap it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scythe.errors import ObjectNotFoundError, TableClashError
from scythe.keys import OUTCOMES, PartKey, RunKeys, frame_parts_name, parse_frame_parts_name
from scythe.outcomes import (
    ERROR,
    ERROR_FIELDS,
    ERRORS,
    FEATURE,
    FILE,
    FILES,
    RESERVED_TABLES,
    SCALAR,
    SCALARS,
    TASK,
    TASK_FIELDS,
    TASKS,
)
from scythe.parts import OK, find_parts, open_parquet
from scythe.specs import BASE_FIELDS
from scythe.stores import Store
from scythe.tables import (
    ROW,
    SUBINDEX,
    assemble,
    conform,
    encoding_of,
    find_clash,
    frame_levels,
    needs_text,
    shown_column,
    unify_schemas,
)

_PREFIXES = {SCALARS: SCALAR, FILES: FILE, ERRORS: ERROR, TASKS: TASK}


class SpecTable:
    """The specs of a run as stored: read by ranges of rows, with the rule for which columns are index levels."""

    def __init__(self, store: Store, run: RunKeys) -> None:
        self._source = store.open(run.specs)
        self._file = pq.ParquetFile(self._source)
        self.schema: pa.Schema = self._file.schema_arrow
        self.total: int = self._file.metadata.num_rows
        metadata = self._file.metadata
        starts = [0]
        for i in range(metadata.num_row_groups):
            starts.append(starts[-1] + metadata.row_group(i).num_rows)
        self.starts = starts

    def __enter__(self) -> SpecTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._source.close()

    @property
    def windows(self) -> list[tuple[int, int]]:
        """The ranges of rows that can be read alone, first row and end."""
        return list(zip(self.starts[:-1], self.starts[1:], strict=True))

    def read(self, first: int, end: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows from `first` up to `end`."""
        groups = [i for i, (a, b) in enumerate(self.windows) if a < end and b > first]
        if not groups:
            return self.schema.empty_table()
        table = self._file.read_row_groups(groups, columns=None if columns is None else list(columns))
        return table.slice(first - self.starts[groups[0]], end - first)

    @property
    def level_names(self) -> list[str]:
        """The columns that become index levels: the ids, then the fields, without the nested ones."""
        names = [field.name for field in self.schema if encoding_of(field) != "json"]
        return [*(n for n in BASE_FIELDS if n in names), *(n for n in names if n not in BASE_FIELDS)]

    def text_levels(self) -> frozenset[str]:
        """The integer levels that pandas would round; they are shown as text."""
        found = set()
        metadata = self._file.metadata
        for i, column in enumerate(self.schema):
            if not pa.types.is_integer(column.type):
                continue
            nulls, largest = False, 0
            for group in range(metadata.num_row_groups):
                stats = metadata.row_group(group).column(i).statistics
                if stats is None:
                    continue
                nulls |= bool(stats.null_count)
                if stats.has_min_max:
                    largest = max(largest, abs(stats.min), abs(stats.max))
            if needs_text(column.type, nulls=nulls, largest=largest):
                found.add(column.name)
        return frozenset(found)


class Gatherer:
    """Reads the tables of one run from its parts."""

    def __init__(self, store: Store, run: RunKeys, *, output_fields: Mapping[str, Sequence[str]]) -> None:
        """Open a run for gathering.

        Args:
            store: Where the run is.
            run: Its keys.
            output_fields: Columns that a table has even if no part has them yet, by table name.
        """
        self._store = store
        self._run = run
        self._output_fields = output_fields
        self._parts = find_parts(store, run)
        self._schema = unify_schemas([_part_schema(store, part) for part in self._parts])

    def windows(self, name: str) -> Iterator[pa.Table]:
        """Yield a table window by window, in row order, all under one schema.

        Args:
            name: `scalars`, `result_file_refs`, `errors`, `tasks` or the name of a data frame.

        Raises:
            TableClashError: A column has values of types that do not go together.
        """
        if name in RESERVED_TABLES:
            return self._outcome_windows(name)
        return self._frame_windows(name)

    def read(self, name: str) -> pa.Table:
        """Return a whole table; an empty one where there is nothing."""
        return pa.concat_tables(list(self.windows(name)))

    def _outcome_windows(self, name: str) -> Iterator[pa.Table]:
        columns = self._outcome_columns(name)
        self._check(name, _select(self._schema, [ROW, OK, *columns]), self._parts)
        schema = _select(self._schema, [ROW, OK, *columns, *self._features()])
        for specs, records in self._joined(self._parts, schema):
            if name in (SCALARS, FILES):
                records = records.filter(records.column(OK))
            elif name == ERRORS:
                records = records.filter(pc.invert(records.column(OK)))
            yield self._assemble(specs, records, [], columns)

    def _outcome_columns(self, name: str) -> dict[str, str]:
        """Return a table's columns: what they are called in parts, and in the table."""
        if name == TASKS:
            return {OK: OK, **{TASK + field: field for field in TASK_FIELDS}}
        if name == ERRORS:
            how = {TASK + field: field for field in TASK_FIELDS if field != "peak_memory"}
            return {**{ERROR + field: field for field in ERROR_FIELDS}, **how}
        prefix = SCALAR if name == SCALARS else FILE
        declared = [prefix + field for field in self._output_fields.get(name, ())]
        found = [column for column in self._schema.names if column.startswith(prefix)]
        return {column: column.removeprefix(prefix) for column in dict.fromkeys([*declared, *found])}

    def _frame_windows(self, name: str) -> Iterator[pa.Table]:
        parts = find_parts(self._store, self._run, frame_parts_name(name))
        frame_schema = unify_schemas([_part_schema(self._store, part) for part in parts])
        own = frame_levels(frame_schema)
        columns = {n: n for n in frame_schema.names if n != ROW and n not in own}
        self._check(name, frame_schema, parts)
        with SpecTable(self._store, self._run) as specs_table:
            levels = {*specs_table.level_names, *(feature.removeprefix(FEATURE) for feature in self._features())}
        own = [n for n in own if n not in levels or not self._repeats_level(n, parts, frame_schema)]
        for specs, records in self._frame_records(parts, frame_schema):
            yield self._assemble(specs, records, own, columns)

    def _frame_records(self, parts: Sequence[PartKey], schema: pa.Schema) -> Iterator[tuple[_SpecWindow, pa.Table]]:
        """Yield each window of specs with the records of their frames, and the computed features of each record."""
        outcome_schema = _select(self._schema, [ROW, OK, *self._features()])
        frames = _PartStream(self._store, parts, schema)
        for specs, records in self._joined(self._parts, outcome_schema):
            records = records.filter(records.column(OK))
            frame = frames.window(specs.first, specs.end, unique=False)
            positions = pc.index_in(frame.column(ROW), value_set=records.column(ROW).combine_chunks())
            frame = frame.filter(pc.is_valid(positions))
            spec_records = records.take(positions.filter(pc.is_valid(positions)))
            for feature in self._features():
                frame = frame.append_column(outcome_schema.field(feature), spec_records.column(feature))
            if SUBINDEX in schema.names:  # frames of one row are not numbered
                position = frame.schema.get_field_index(SUBINDEX)
                filled = pc.fill_null(frame.column(position), 0)
                frame = frame.set_column(position, frame.schema.field(position), filled)
            yield specs, frame

    def _repeats_level(self, name: str, parts: Sequence[PartKey], schema: pa.Schema) -> bool:
        """Tell whether a level of a frame's own index says what the level of that name says of its spec."""
        return all(
            records.column(name).to_pylist() == self._levels(specs, records).column(name).to_pylist()
            for specs, records in self._frame_records(parts, schema)
        )

    def _features(self) -> list[str]:
        return [n for n in self._schema.names if n.startswith(FEATURE)]

    def _check(self, name: str, schema: pa.Schema, parts: Sequence[PartKey]) -> None:
        tables = (conform(_read_part(self._store, part), schema) for part in parts)
        error = find_clash(name, schema, tables)
        if error is not None:
            prefix = _PREFIXES.get(name, "")
            raise TableClashError(name, error.column.removeprefix(prefix), error.types)

    def _joined(self, parts: Sequence[PartKey], schema: pa.Schema) -> Iterator[tuple[_SpecWindow, pa.Table]]:
        """Yield each window of specs with the outcome records in it, one a spec."""
        stream = _PartStream(self._store, parts, schema)
        with SpecTable(self._store, self._run) as specs:
            names, text = specs.level_names, specs.text_levels()
            for first, end in specs.windows:
                window = _SpecWindow(first, end, specs.read(first, end, names).select(names), text)
                yield window, stream.window(first, end, unique=True)

    def _assemble(self, specs: _SpecWindow, records: pa.Table, own: list[str], columns: Mapping[str, str]) -> pa.Table:
        levels = self._levels(specs, records)
        fields, arrays = [], []
        for column, shown in columns.items():
            if column in records.schema.names:
                field = records.schema.field(column)
                arrays.append(shown_column(field, records.column(column)))
                fields.append(field.with_name(shown).with_type(arrays[-1].type))
            else:
                fields.append(pa.field(shown, pa.null()))
                arrays.append(pa.nulls(records.num_rows))
        table = pa.table(arrays, schema=pa.schema(fields, metadata=records.schema.metadata))
        return assemble(levels, records.select(own), table)

    def _levels(self, specs: _SpecWindow, records: pa.Table) -> pa.Table:
        levels = specs.levels(records.column(ROW))
        for name in self._features():
            level = shown_column(records.schema.field(name), records.column(name))
            levels = levels.append_column(pa.field(name.removeprefix(FEATURE), level.type), level)
        return levels


@dataclass(frozen=True)
class _SpecWindow:
    first: int
    end: int
    table: pa.Table
    text: frozenset[str]

    def levels(self, rows: pa.ChunkedArray) -> pa.Table:
        picked = self.table.take(pc.subtract(rows, self.first))
        shown = [shown_column(f, column) for f, column in zip(picked.schema, picked.columns, strict=True)]
        arrays = [a.cast(pa.string()) if n in self.text else a for n, a in zip(picked.column_names, shown, strict=True)]
        return pa.table(arrays, names=picked.schema.names)


class _PartStream:
    """Reads parts window by window; a part is held while windows overlap it."""

    def __init__(self, store: Store, parts: Sequence[PartKey], schema: pa.Schema) -> None:
        self._store = store
        self._schema = schema
        self._ahead = sorted(parts, key=lambda part: part.first, reverse=True)
        self._held: list[tuple[PartKey, pa.Table, Any]] = []

    def window(self, first: int, end: int, *, unique: bool) -> pa.Table:
        """Return the records of the rows from `first` up to `end`, in row order.

        Args:
            first: The first row.
            end: The row behind the last.
            unique: Keep one record a row: a spec that ran twice has two, of which a success wins. Else keep those of
                one part.
        """
        while self._ahead and self._ahead[-1].first < end:
            part = self._ahead.pop()
            table = conform(_read_part(self._store, part, self._schema.names), self._schema)
            self._held.append((part, table, table.column(ROW).to_numpy()))
        slices = []
        owners = []
        for number, (_, table, rows) in enumerate(self._held):
            a, b = np.searchsorted(rows, [first, end])
            if b > a:
                slices.append(table.slice(a, b - a))
                owners.append(np.full(b - a, number))
        self._held = [held for held in self._held if held[0].last >= end]
        if not slices:
            return self._schema.empty_table()
        merged = pa.concat_tables(slices)
        rows = merged.column(ROW).to_numpy()
        owner = np.concatenate(owners)
        worse = ~merged.column(OK).to_numpy(zero_copy_only=False) if unique else owner
        order = np.lexsort((np.arange(len(rows)), worse, rows))
        rows, owner = rows[order], owner[order]
        is_first = np.ones(len(rows), bool)
        is_first[1:] = rows[1:] != rows[:-1]
        if not unique:  # all records of the part that a row's first record is from
            first_owner = owner[is_first][np.cumsum(is_first) - 1]
            is_first = owner == first_owner
        return merged.take(order[is_first])


def _part_schema(store: Store, part: PartKey) -> pa.Schema:
    with open_parquet(store, part.render()) as file:
        return file.schema_arrow


def _read_part(store: Store, part: PartKey, columns: Sequence[str] | None = None) -> pa.Table:
    with open_parquet(store, part.render()) as file:
        return file.read(columns=columns if columns is None else [n for n in file.schema_arrow.names if n in columns])


def _select(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    fields = [schema.field(n) for n in dict.fromkeys(names) if n in schema.names]
    if ROW not in schema.names:
        fields = [pa.field(ROW, pa.int64()), pa.field(OK, pa.bool_()), *fields]
    return pa.schema(fields, metadata=schema.metadata)


def frame_names(store: Store, run: RunKeys) -> list[str]:
    """Return the names of the users' data frames that have parts."""
    names = store.list_folders(run.parts())
    return sorted(frame for name in names if (frame := parse_frame_parts_name(name)) is not None)


def write_tables(
    store: Store,
    run: RunKeys,
    *,
    output_fields: Mapping[str, Sequence[str]],
) -> list[str]:
    """Merge all parts of a run into its final tables, and return the tables' names.

    Each table appears whole or not at all. `errors` is written if a spec failed, `scalars` and `result_file_refs` if
    there is anything in them.

    Args:
        store: Where the run is.
        run: Its keys.
        output_fields: Columns a table has even where no spec gave them; see `Gatherer`.
    """
    gatherer = Gatherer(store, run, output_fields=output_fields)
    written = []
    with tempfile.TemporaryDirectory(prefix="scythe-gather-") as folder:
        for name in [SCALARS, FILES, ERRORS, TASKS, *frame_names(store, run)]:
            path = Path(folder, "table.pq")
            if _write(gatherer.windows(name), path, keep_empty=name == TASKS):
                store.put(run.table(name), path)
                written.append(name)
            else:
                store.delete(run.table(name))
    return written


def _write(windows: Iterator[pa.Table], path: Path, *, keep_empty: bool) -> bool:
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        for table in windows:
            names = _level_names(table.schema)
            if len(names) == table.num_columns and not keep_empty:
                return False  # index levels only: there is nothing in it
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            if table.num_rows:
                writer.write_table(table)
                rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return writer is not None and (rows > 0 or keep_empty)


def _level_names(schema: pa.Schema) -> list[str]:
    """Return the columns that are index levels, as pandas' metadata in the schema names them."""
    return list(json.loads(schema.metadata[b"pandas"])["index_columns"])


def read_parquet(store: Store, key: str) -> pa.Table:
    """Return a Parquet object as a table."""
    with open_parquet(store, key) as file:
        return file.read()


def outcome_counts(store: Store, run: RunKeys) -> tuple[int, int]:
    """Return how many specs succeeded and how many failed, from the keys of the parts alone."""
    parts = find_parts(store, run, OUTCOMES)
    return sum(part.done for part in parts), sum(part.failed for part in parts)


def finished_rows(store: Store, run: RunKeys, total: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return, for every spec, whether it has an outcome.

    A part that grows while it is read is listed again; see `PartWriter`.
    """
    for _ in range(20):
        finished = np.zeros(total, bool)
        try:
            for part in find_parts(store, run):
                with open_parquet(store, part.render()) as file:
                    finished[file.read(columns=[ROW]).column(ROW).to_numpy()] = True
        except ObjectNotFoundError:
            continue
        return finished
    raise ObjectNotFoundError(run.parts(OUTCOMES), store.url)
