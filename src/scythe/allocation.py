"""Allocation: from whatever the user has to a validated specs.pq.

Rows stream through in chunks: each is validated, turned into columns and set aside in a temporary file. Only when every
row is known to be good does anything reach the store.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AliasChoices, BaseModel, ValidationError

from scythe.errors import (
    ExperimentSpecsMismatchError,
    InvalidColumnsError,
    InvalidSpecsError,
    OutputError,
    SpecError,
)
from scythe.files import is_url
from scythe.specs import (
    BASE_FIELDS,
    ExperimentInputSpec,
    accepts_none,
    field_shape,
    file_fields,
    serialized_fields,
    spec_id,
    to_plain,
)
from scythe.tables import conform, decode_column, encode_column, encode_nested, encoding_of, unify_schemas
from scythe.transfer import find_file_problem, find_url_problem

_PANDAS_INDEX = re.compile("|__index_level_[0-9]+__")
"""What pandas calls an index without a name that it writes along, in a CSV file and in a Parquet file."""

CHUNK = 20_000
"""Specs in a row group of specs.pq, which is what can be read alone."""

SHOWN_ROWS = 20

_HELD = 256
"""Specs held at a time. Few enough that Python's garbage collector need not look at them again and again."""

_MISSING = object()
_WHOLE = "(the whole spec)"
_SAMPLE = 8
_MAX_VALUE_TEXT = 80

Specs: TypeAlias = Any
"""One spec, or an iterable of specs or dicts, a DataFrame, an Arrow table, or the path of a Parquet or CSV file."""


# ---------------------------------------------------------------------------------------------------------------------
# whatever the user has, as chunks of specs or dicts


def iterate_rows(specs: Specs, model: type[ExperimentInputSpec]) -> Iterator[list[Any]]:
    """Yield a batch's rows in chunks; each row is a spec or a dict of its fields.

    Raises:
        InvalidColumnsError: A table's columns are not the model's fields.
        SpecError: It is nothing that holds specs.
    """
    if isinstance(specs, BaseModel):
        yield [specs]
    elif isinstance(specs, str | Path):
        yield from _file_rows(Path(specs), model)
    elif any(base.__name__ == "DataFrame" and base.__module__.startswith("pandas") for base in type(specs).__mro__):
        yield from _frame_rows(specs, model)
    elif isinstance(specs, pa.RecordBatch):
        yield from _arrow_rows(pa.Table.from_batches([specs]), model)
    elif hasattr(specs, "__arrow_c_stream__"):  # Arrow's own tables, and those of others that speak its protocol
        yield from _arrow_rows(pa.table(specs), model)
    elif isinstance(specs, Mapping) or not isinstance(specs, Iterable):
        raise SpecError(
            f"specs is a {type(specs).__name__}; give a list (or any iterable) of {model.__name__} or dicts, a "
            "DataFrame, an Arrow table, the path of a Parquet or CSV file, or one spec"
        )
    else:
        rows = iter(specs)
        while chunk := list(islice(rows, CHUNK)):
            yield chunk


def _file_rows(path: Path, model: type[ExperimentInputSpec]) -> Iterator[list[dict[str, Any]]]:
    problem = find_file_problem(path)
    if problem is not None:
        raise SpecError(f"specs={str(path)!r}: {problem}")
    try:
        match path.suffix.lower():
            case ".parquet" | ".pq":
                with pq.ParquetFile(path) as file:
                    names = [name for name in file.schema_arrow.names if not _PANDAS_INDEX.fullmatch(name)]
                    _check_columns(names, model)
                    for batch in file.iter_batches(CHUNK, columns=names):
                        yield _rows(pa.Table.from_batches([batch]), model)
            case ".csv":
                yield from _csv_rows(path, model)
            case other:
                raise SpecError(
                    f"specs={str(path)!r}: a file that ends with {other!r} is not read; use .parquet, .pq or .csv"
                )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SpecError(f"specs={str(path)!r} cannot be read: {error}") from error


def _csv_rows(path: Path, model: type[ExperimentInputSpec]) -> Iterator[list[dict[str, Any]]]:
    """Read cells as text, for the model to make of them what its fields are.

    An empty cell is None where the field takes that, and empty text elsewhere.
    """
    from pyarrow import csv

    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as reader:
        names = [name for name in reader.schema.names if not _PANDAS_INDEX.fullmatch(name)]
    _check_columns(names, model)
    convert = csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
    )
    optional = [name for name in names if accepts_none(model, _field_names(model)[name])]
    with csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
        for batch in reader:
            rows = _rows(pa.Table.from_batches([batch]), model)
            yield [row | {name: None for name in optional if row[name] == ""} for row in rows]


def _frame_rows(frame: Any, model: type[ExperimentInputSpec]) -> Iterator[list[dict[str, Any]]]:
    levels = [name for name in frame.index.names if name in model.model_fields and name not in frame.columns]
    if levels:
        frame = frame.reset_index(level=levels)
    _check_columns([str(name) for name in frame.columns], model)
    for start in range(0, len(frame), CHUNK):
        part = frame.iloc[start : start + CHUNK]
        fields = _field_names(model)
        columns = {str(name): _series_values(part[name], fields[str(name)], model) for name in part.columns}
        yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _series_values(series: Any, name: str, model: type[ExperimentInputSpec]) -> list[Any]:
    """Return a column's values; what pandas calls missing is None where the field takes None."""
    values = series.tolist()
    if field_shape(model, name) == "nested":
        values = [_parse_nested(value) for value in values]
    if not series.isna().any():
        return values  # type: ignore[no-any-return]
    missing = None if accepts_none(model, name) else _MISSING
    return [
        (value if missing is _MISSING and isinstance(value, float) else None) if na else value
        for value, na in zip(values, series.isna().tolist(), strict=True)
    ]


def _arrow_rows(table: pa.Table, model: type[ExperimentInputSpec]) -> Iterator[list[dict[str, Any]]]:
    _check_columns(table.column_names, model)
    for start in range(0, table.num_rows, CHUNK):
        yield _rows(table.slice(start, CHUNK), model)


def _rows(table: pa.Table, model: type[ExperimentInputSpec]) -> list[dict[str, Any]]:
    columns = {}
    for column, data in zip(table.schema, table.columns, strict=True):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            data = data.cast(pa.timestamp("us", column.type.tz), safe=False)
        values = decode_column(column, data)
        name = _field_names(model).get(column.name, column.name)
        if field_shape(model, name) == "nested" and encoding_of(column) == "plain":
            values = [_parse_nested(value) for value in values]
        columns[column.name] = values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _parse_nested(value: Any) -> Any:
    """Read a nested value that a table holds as JSON text; what is not JSON is left for the model to refuse."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _field_names(model: type[ExperimentInputSpec]) -> dict[str, str]:
    """Return the fields of a model by everything they may be called in a row: their names and their aliases."""
    fields: dict[str, str] = {}
    for name, info in model.model_fields.items():
        given = info.validation_alias
        aliases = given.choices if isinstance(given, AliasChoices) else [given]
        fields |= {alias: name for alias in (name, info.alias, *aliases) if isinstance(alias, str)}
    return fields


def _check_columns(names: Sequence[str], model: type[ExperimentInputSpec]) -> None:
    fields = _field_names(model)
    problems = []
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        problems.append(f"it has more than one column {_listed(repeated)}")
    unknown = [name for name in dict.fromkeys(names) if name not in fields]
    for name in unknown:
        close = difflib.get_close_matches(name, fields, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        problems.append(f"column {name!r} is no field of the model{hint}; rename or drop it, or add the field")
    given = {fields[name] for name in names if name in fields}
    missing = [n for n, info in model.model_fields.items() if info.is_required() and n not in given]
    if missing:
        problems.append(f"it lacks the required column {_listed(missing)}")
    if problems:
        raise InvalidColumnsError(model.__name__, problems)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


# ---------------------------------------------------------------------------------------------------------------------
# validation


@dataclass
class ValidatedSpecs:
    """All rows of a batch, good ones, in a temporary file.

    Attributes:
        path: The file.
        schema: One schema for all its row groups.
        total: How many specs there are.
        files: Local files that file references point at, by field.
    """

    path: Path
    schema: pa.Schema
    total: int
    files: dict[str, dict[str, Path]] = field(default_factory=dict)

    def extra_columns(self, model: type[BaseModel]) -> frozenset[str]:
        """Return the columns that are no fields of the model."""
        return frozenset(self.schema.names) - set(model.model_fields)


def validate_specs(
    specs: Specs, model: type[ExperimentInputSpec], folder: Path, *, fetches_files: bool = True
) -> ValidatedSpecs:
    """Validate every row of a batch and set the rows aside as columns.

    Args:
        specs: The batch; see `Specs`.
        model: The experiment's input model.
        folder: A temporary folder.
        fetches_files: Whether files behind URLs will be fetched, and so have to be where they can be.

    Raises:
        InvalidSpecsError: Rows are bad; all of them were looked at.
        InvalidColumnsError: A table's columns are not the model's fields.
        ExperimentSpecsMismatchError: A row is a spec of another model.
        SpecError: There are no rows, or they cannot be stored.
    """
    validator = _Validator(model, fetches_files=fetches_files)
    path = folder / "validated.pq"
    schemas: list[pa.Schema] = []
    pieces: list[Path] = []
    for chunk in iterate_rows(specs, model):
        columns = _Columns(model)
        for start in range(0, len(chunk), _HELD):
            good = validator.check(chunk[start : start + _HELD])
            if validator.bad_rows == 0:
                if not schemas and start == 0:
                    _check_round_trip(good[:_SAMPLE], model)
                columns.extend(good)
        if validator.bad_rows == 0:
            table = columns.to_table()
            schemas.append(table.schema)
            pieces.append(folder / f"validated-{len(pieces)}.arrow")
            with pa.OSFile(str(pieces[-1]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    if validator.bad_rows:
        raise InvalidSpecsError(
            model.__name__,
            validator.problems,
            bad_rows=validator.bad_rows,
            total=validator.total,
            shown=SHOWN_ROWS,
        )
    if validator.total == 0:
        raise SpecError("There are no specs: the batch is empty. Nothing was written or started.")
    schema = unify_schemas(schemas)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for piece in pieces:
            with pa.memory_map(str(piece)) as source:
                writer.write_table(conform(pa.ipc.open_file(source).read_all(), schema), row_group_size=CHUNK)
            piece.unlink()
    return ValidatedSpecs(path, schema, validator.total, validator.files)


class _Validator:
    """Validates rows and remembers what was wrong."""

    def __init__(self, model: type[ExperimentInputSpec], *, fetches_files: bool) -> None:
        self._model = model
        self._fetches_files = fetches_files
        self._validate: Callable[..., ExperimentInputSpec] = model.__pydantic_validator__.validate_python
        self._files = file_fields(model)
        self._names = _field_names(model)
        self._nested = [
            n for n in model.model_fields if field_shape(model, n) == "nested" and n not in serialized_fields(model)
        ]
        self._file_problems: dict[Path, str | None] = {}
        self.files: dict[str, dict[str, Path]] = {name: {} for name in self._files}
        self.problems: list[tuple[int, str, str, str]] = []
        self.bad_rows = 0
        self.total = 0

    def check(self, rows: Sequence[Any]) -> list[ExperimentInputSpec]:
        """Return the rows as specs; bad ones are left out and remembered."""
        good = []
        for number, row in enumerate(rows, start=self.total):
            spec = self._check_row(number, row)
            if spec is not None:
                good.append(spec)
        self.total += len(rows)
        return good

    def _check_row(self, number: int, row: Any) -> ExperimentInputSpec | None:
        if isinstance(row, self._model):
            values = row.__dict__ if not row.__pydantic_extra__ else {**row.__dict__, **row.__pydantic_extra__}
            if self._nested:  # as plain data, which is what a worker gets: pydantic trusts models as they are
                try:
                    values = values | {name: to_plain(values[name]) for name in self._nested if name in values}
                except OutputError as error:
                    self._add(number, [(_WHOLE, row, str(error))])
                    return None
        elif isinstance(row, Mapping):
            values = dict(row)
            unknown = [name for name in values if name not in self._names]
            if unknown:
                self._add(
                    number,
                    [(str(n), values[n], "is no field of the model; rename or drop it") for n in unknown],
                )
                return None
        else:
            raise ExperimentSpecsMismatchError(self._model, type(row), row=number)
        try:
            spec = self._validate(values, strict=False, by_alias=True, by_name=True)
        except ValidationError as error:
            self._add(
                number,
                [
                    (
                        ".".join(map(str, e["loc"])) or _WHOLE,
                        _MISSING if e["type"] == "missing" else e["input"],
                        e["msg"],
                    )
                    for e in error.errors(include_url=False, include_context=False)
                ],
            )
            return None
        except Exception as error:  # a validator of the user's that fails instead of refusing
            self._add(number, [(_WHOLE, values, f"its validation failed with {type(error).__name__}: {error}")])
            return None
        problems = self._check_files(spec) if self._files else []
        if problems:
            self._add(number, problems)
            return None
        return spec

    def _check_files(self, spec: ExperimentInputSpec) -> list[tuple[str, Any, str]]:
        problems = []
        for name in self._files:
            reference = getattr(spec, name)
            if reference is None:
                continue
            if is_url(reference):
                if self._fetches_files and (problem := find_url_problem(str(reference))) is not None:
                    problems.append((name, str(reference), problem))
                continue
            path = Path(reference)
            if path not in self._file_problems:
                self._file_problems[path] = find_file_problem(path)
            problem = self._file_problems[path]
            if problem is not None:
                problems.append((name, str(path), problem))
            self.files[name][str(path)] = path
        return problems

    def _add(self, number: int, problems: list[tuple[str, Any, str]]) -> None:
        self.bad_rows += 1
        if self.bad_rows <= SHOWN_ROWS:
            self.problems += [(number, name, _shown(value), reason) for name, value, reason in problems]


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "(missing)"
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MAX_VALUE_TEXT else f"{text[:_MAX_VALUE_TEXT]}…"


# ---------------------------------------------------------------------------------------------------------------------
# specs to columns


class _Columns:
    """Collects specs column by column."""

    def __init__(self, model: type[ExperimentInputSpec]) -> None:
        self._model = model
        self._own = serialized_fields(model)
        self._fields: dict[str, list[Any]] = {name: [] for name in model.model_fields if name != "storage_settings"}
        self._extras: dict[str, list[Any]] = {}
        self._count = 0

    def extend(self, specs: Sequence[ExperimentInputSpec]) -> None:
        """Add specs."""
        for name, values in self._fields.items():
            if name in self._own:
                values += [spec.model_dump(mode="json", include={name})[name] for spec in specs]
            else:
                values += [spec.__dict__[name] for spec in specs]
        extras = [spec.__pydantic_extra__ or {} for spec in specs]
        for name in dict.fromkeys(name for extra in extras for name in extra):
            self._extras.setdefault(name, [_MISSING] * self._count)
        for name, values in self._extras.items():
            values += [extra.get(name, _MISSING) for extra in extras]
        self._count += len(specs)

    def to_table(self) -> pa.Table:
        """Return the specs as columns."""
        encoded = [
            _encode_column(name, values, nested=field_shape(self._model, name) == "nested")
            for name, values in self._fields.items()
        ]
        encoded += [_encode_extra(name, values) for name, values in self._extras.items()]
        return pa.table([array for _, array in encoded], schema=pa.schema([column for column, _ in encoded]))


def _encode(specs: Sequence[ExperimentInputSpec], model: type[ExperimentInputSpec]) -> pa.Table:
    columns = _Columns(model)
    columns.extend(specs)
    return columns.to_table()


def _encode_column(name: str, values: list[Any], *, nested: bool = False) -> tuple[pa.Field, pa.Array]:
    try:
        return encode_nested(name, values) if nested else encode_column(name, values, exact=True)
    except OutputError as error:
        raise SpecError(f"field {name!r}: {error}") from error


def _encode_extra(name: str, given: list[Any]) -> tuple[pa.Field, pa.Array]:
    """Encode an extra field; a spec that lacks it has no value there, one where it is None has the JSON text `null`."""
    column, array = _encode_column(name, [None if value is _MISSING else value for value in given])
    if not any(value is None for value in given):
        return column, array
    mixed = [None if value is _MISSING else json.dumps(None) if value is None else _MISSING for value in given]
    text = conform(pa.table([array], schema=pa.schema([column])), pa.schema([_as_json(column)])).column(0).to_pylist()
    merged = [stored if value is _MISSING else value for stored, value in zip(text, mixed, strict=True)]
    return _as_json(column), pa.array(merged, pa.string())


def _as_json(column: pa.Field) -> pa.Field:
    encoding = b"json" if encoding_of(column) == "json" else b"mixed"
    return pa.field(column.name, pa.string(), metadata={b"scythe.encoding": encoding})


def _check_round_trip(specs: Sequence[ExperimentInputSpec], model: type[ExperimentInputSpec]) -> None:
    """Make sure that specs come out of storage as they went in.

    Raises:
        SpecError: A field changes, for one whose validator may not be run twice.
    """
    before = _encode(specs, model)
    again = []
    for number, row in enumerate(_rows(before, model)):
        values = {n: v for n, v in row.items() if n in model.model_fields or before[n][number].is_valid}
        try:
            again.append(
                model.__pydantic_validator__.validate_python(values, strict=False, by_alias=True, by_name=True)
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise SpecError(
                f"field {'.'.join(map(str, first['loc']))!r} of {model.__name__} cannot be read back from storage "
                f"({first['msg']}); a validator must accept what it returned itself"
            ) from error
    after = _encode(again, model)
    for name in before.column_names:
        a, b = (
            before.column(name).to_pylist(),
            after.column(name).to_pylist() if name in after.column_names else None,
        )
        if repr(a) != repr(b):
            example = next(((x, y) for x, y in zip(a, b or a, strict=True) if repr(x) != repr(y)), (a, b))
            raise SpecError(
                f"field {name!r} of {model.__name__} changes when it is stored and read back "
                f"({_shown(example[0])} becomes {_shown(example[1])}). A worker validates specs again, so a validator "
                "must leave alone what it returned itself."
            )


# ---------------------------------------------------------------------------------------------------------------------
# columns to specs.pq


def write_specs(
    specs: ValidatedSpecs,
    target: Path,
    *,
    experiment_id: str,
    root_id: str,
    urls: Mapping[str, Mapping[str, str]],
    overwrite_sort_index: bool,
    overwrite_experiment_id: bool,
    inject_ids: bool,
) -> None:
    """Write specs.pq: the validated rows in sort order, with their ids and the URLs of their files.

    Args:
        specs: The validated rows.
        target: The file to write.
        experiment_id: The run.
        root_id: The run's id; those of its specs follow from it.
        urls: The URL of each uploaded file by field and path.
        overwrite_sort_index: Number the specs from 0 in the order given; else they are put in order of theirs.
        overwrite_experiment_id: Put the run's id in place of what the specs have.
        inject_ids: Give each spec its own id.
    """
    schema = _final_schema(specs.schema)
    with pq.ParquetFile(specs.path) as file, pq.ParquetWriter(target, schema, compression="zstd") as writer:
        row = 0
        for table in _in_order(file, sort=not overwrite_sort_index):
            rows = range(row, row + table.num_rows)
            row = rows.stop
            columns = {
                "workflow_run_id": [spec_id(root_id, i) for i in rows] if inject_ids else None,
                "root_workflow_run_id": [root_id] * len(rows),
                "experiment_id": [experiment_id] * len(rows) if overwrite_experiment_id else None,
                "sort_index": list(rows) if overwrite_sort_index else None,
                **{name: [by_path.get(v, v) for v in table.column(name).to_pylist()] for name, by_path in urls.items()},
            }
            arrays = [
                table.column(f.name).cast(f.type) if columns.get(f.name) is None else pa.array(columns[f.name], f.type)
                for f in schema
            ]
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=CHUNK)


def _final_schema(schema: pa.Schema) -> pa.Schema:
    types = {"experiment_id": pa.string(), "sort_index": pa.int64()}
    types |= {"workflow_run_id": pa.string(), "root_workflow_run_id": pa.string()}
    fields = [f.with_type(types.get(f.name, f.type)) for f in schema]
    return pa.schema(sorted(fields, key=lambda f: f.name not in BASE_FIELDS))


def _in_order(file: pq.ParquetFile, *, sort: bool) -> Iterator[pa.Table]:
    if not sort:
        for group in range(file.metadata.num_row_groups):
            yield file.read_row_group(group)
        return
    table = file.read().sort_by("sort_index")
    for start in range(0, table.num_rows, CHUNK):
        yield table.slice(start, CHUNK)
