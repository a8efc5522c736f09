"""Input and output specs: the typed models users write, and the rules about their fields.

What a field's annotation can hold decides how its values travel and whether they become an index level:
a *scalar* (numbers, text, times, enums, file references, unions of them) does, anything *nested* (lists, dicts,
models) does not, and an *open* field (`Any`, extra fields) is judged by its values.
"""

from __future__ import annotations

import datetime as dt
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from decimal import Decimal
from enum import Enum, StrEnum
from functools import lru_cache
from pathlib import Path, PurePath
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NewType,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
)
from uuid import UUID

from pydantic import (
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    SkipValidation,
    WithJsonSchema,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_jsonable_python

from scythe.errors import OutputError
from scythe.files import FileMarker
from scythe.keys import result_key
from scythe.settings import ScytheStorageSettings

if TYPE_CHECKING:
    import pandas as pd

ComputedFeatureValue: TypeAlias = int | float | bool | str | dt.datetime | dt.date | dt.timedelta | None
"""What a computed feature may be: anything that can be an index level."""

BASE_FIELDS = ("experiment_id", "sort_index", "workflow_run_id", "root_workflow_run_id")
"""Fields of every input spec that say which spec of which run it is; the first index levels."""

PLAIN_TYPES = frozenset({
    int, float, bool, str, bytes, type(None), dt.datetime, dt.date, dt.time, dt.timedelta,
})  # fmt: skip
"""Types of values that are stored as they are."""

Shape = Literal["scalar", "nested", "open"]


class BaseSpec(BaseModel):
    """A typed description of what goes into a simulation or comes out of it."""

    model_config = ConfigDict(
        extra="allow", arbitrary_types_allowed=True, validate_by_name=True, validate_by_alias=True
    )


class ExperimentInputSpec(BaseSpec):
    """The input of one simulation; subclass it and add your fields.

    Attributes:
        experiment_id: The run the spec belongs to; set by `allocate`.
        sort_index: The spec's place in the run, from 0; set by `allocate`.
        workflow_run_id: The spec's own id, the same whenever it is run again; names its output files.
        root_workflow_run_id: The id of the run.
        storage_settings: Where the run is kept.
    """

    experiment_id: str = ""
    sort_index: int = Field(default=0, ge=0)
    workflow_run_id: str | None = None
    root_workflow_run_id: str | None = None
    storage_settings: SkipJsonSchema[ScytheStorageSettings | None] = Field(default=None, repr=False)

    @property
    def computed_features(self) -> dict[str, ComputedFeatureValue]:
        """Values derived from the inputs that become index levels too; override it to give some."""
        return {}

    @property
    def prefix(self) -> str:
        """The prefix of the run's keys."""
        return self.experiment_id

    def construct_output_key(self, field_name: str, path: Path | str) -> str:
        """Return the key under which an output file of this spec is kept.

        Args:
            field_name: The output field that refers to the file.
            path: The file; only its last suffix matters.
        """
        return result_key(self.prefix, field_name, self.workflow_run_id or str(self.sort_index), Path(path).suffix)

    def log(self, msg: str) -> None:
        """Write a line to the output of the simulation; the last lines are kept with a spec that fails."""
        print(msg, flush=True)

    def make_multiindex(
        self,
        additional_index_data: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        n_rows: int = 1,
        include_sort_subindex: bool = True,
        additional_excludes: Iterable[str] = frozenset(),
    ) -> pd.MultiIndex:
        """Build the index that this spec's rows have in every table of results.

        Args:
            additional_index_data: Further levels: one mapping for all rows, or one for each row.
            n_rows: How many rows the index has; a sequence of mappings sets it by its length.
            include_sort_subindex: Number the rows in a last level `sort_subindex` where there is more than one.
            additional_excludes: Names of levels to leave out.

        Returns:
            An index of `n_rows` rows whose levels are the ids, the fields in order of definition, the computed
            features and the additional data.

        Raises:
            ValueError: `n_rows` and the number of mappings differ, or the additional data has the name of a level.
        """
        import pandas as pd

        extra: list[Mapping[str, Any]]
        if additional_index_data is None or isinstance(additional_index_data, Mapping):
            extra = [additional_index_data or {}] * n_rows
        else:
            extra = list(additional_index_data)
            if n_rows not in (1, len(extra)):
                raise ValueError(f"n_rows={n_rows}, but additional_index_data has {len(extra)} rows; give one of them")
        excludes = set(additional_excludes)
        levels = {name: value for name, value in self._index_data().items() if name not in excludes}
        added = dict.fromkeys(name for row in extra for name in row)
        if taken := [name for name in added if name in levels]:
            raise ValueError(f"additional_index_data has {taken[0]!r}, which is a level anyway; call it something else")
        columns = {name: [value] * len(extra) for name, value in levels.items()}
        columns |= {name: [row.get(name) for row in extra] for name in added}
        if include_sort_subindex and len(extra) > 1:
            columns["sort_subindex"] = list(range(len(extra)))
        return pd.MultiIndex.from_frame(pd.DataFrame(columns))

    def _index_data(self) -> dict[str, Any]:
        model = type(self)
        data: dict[str, Any] = {}
        for name, value in {**self.__dict__, **(self.__pydantic_extra__ or {})}.items():
            if name == "storage_settings" or (name in model.model_fields and field_shape(model, name) == "nested"):
                continue
            plain = to_plain(value)
            if not isinstance(plain, list | dict):
                data[name] = plain
        return data | {name: to_plain(value) for name, value in self.computed_features.items()}


def _check_frame(value: Any) -> Any:
    """Accept a pandas DataFrame, and a Series as a frame of one column."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "pandas":
        if kind.__name__ == "Series":
            return value.to_frame(name="value" if value.name is None else value.name)
        if any(base.__name__ == "DataFrame" for base in kind.__mro__):
            return value
    raise ValueError(f"give a pandas DataFrame, not {kind.__module__}.{kind.__qualname__}")


if TYPE_CHECKING:
    DataFrameField: TypeAlias = pd.DataFrame
else:
    DataFrameField = Annotated[
        SkipValidation[Any],
        BeforeValidator(_check_frame),
        WithJsonSchema({"type": "object", "title": "DataFrame"}),
    ]


class ExperimentOutputSpec(BaseSpec):
    """The output of one simulation; subclass it and add your fields.

    Scalars become columns of the table `scalars`, file references those of `result_file_refs`.

    Attributes:
        dataframes: Tables of this spec by name; those of all specs are concatenated into one table a name.
    """

    dataframes: dict[str, DataFrameField] = Field(default_factory=dict, repr=False)


_R = TypeVar("_R")


def _cached(function: Callable[[type[BaseModel]], _R]) -> Callable[[type[BaseModel]], _R]:
    """Remember what a function said of each model."""
    return lru_cache(maxsize=1024)(function)


_SCALARS = (
    int, float, complex, str, bytes, dt.date, dt.time, dt.timedelta, Decimal, UUID, Enum, PurePath, AnyUrl,
)  # fmt: skip


def annotation_leaves(annotation: Any) -> list[Any]:
    """Return the alternatives an annotation allows, aliases and `Annotated` taken away, `None` left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return annotation_leaves(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [leaf for arg in get_args(annotation) for leaf in annotation_leaves(arg)]
    if annotation in (None, type(None)):
        return []
    if isinstance(annotation, NewType):
        return annotation_leaves(annotation.__supertype__)
    if hasattr(annotation, "__value__"):  # a TypeAliasType
        return annotation_leaves(annotation.__value__)
    if origin is Literal:
        return [type(value) for value in get_args(annotation) if value is not None]
    return [annotation]


def annotation_shape(annotation: Any) -> Shape:
    """Say whether an annotation holds scalars, something nested, or anything at all."""
    shapes = {_leaf_shape(leaf) for leaf in annotation_leaves(annotation)}
    return "nested" if "nested" in shapes else "open" if "open" in shapes else "scalar"


def _leaf_shape(leaf: Any) -> Shape:
    if leaf in (Any, object) or isinstance(leaf, TypeVar):
        return "open"
    if get_origin(leaf) is not None:
        return "nested"
    if isinstance(leaf, type):
        if issubclass(leaf, BaseModel | list | dict | tuple | set | frozenset) or is_dataclass(leaf):
            return "nested"
        if issubclass(leaf, _SCALARS) or leaf.__module__.startswith("pydantic"):
            return "scalar"
    return "open"


@_cached
def field_shapes(model: type[BaseModel]) -> Mapping[str, Shape]:
    """Return the shape of every field of a model."""
    return {name: annotation_shape(info.annotation) for name, info in model.model_fields.items()}


def field_shape(model: type[BaseModel], name: str) -> Shape:
    """Return the shape of one field; an extra one is open."""
    return field_shapes(model).get(name, "open")


@_cached
def file_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of a model that hold a file reference, optional ones included."""
    return tuple(
        name
        for name, info in model.model_fields.items()
        if any(isinstance(mark, FileMarker) for mark in info.metadata) or _is_file_annotation(info.annotation)
    )


def _is_file_annotation(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return any(isinstance(mark, FileMarker) for mark in annotation.__metadata__)
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_file_annotation(arg) for arg in get_args(annotation))
    return False


@_cached
def text_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the fields whose annotation mixes text or times with numbers; a table keeps them as text."""
    return frozenset(
        name
        for name, info in model.model_fields.items()
        if field_shape(model, name) == "scalar" and len(_families(info.annotation)) > 1
    )


def _families(annotation: Any) -> set[str]:
    families = set()
    for leaf in annotation_leaves(annotation):
        kinds = {type(member.value) for member in leaf} if issubclass(leaf, Enum) else {leaf}
        for kind in kinds:
            if issubclass(kind, int | float):
                families.add("number")
            elif issubclass(kind, dt.date | dt.time | dt.timedelta | bytes):
                families.add(kind.__name__)
            else:
                families.add("text")
    return families


def accepts_none(model: type[BaseModel], name: str) -> bool:
    """Tell whether a field may be None."""
    info = model.model_fields.get(name)
    return info is None or annotation_shape(info.annotation) == "open" or _has_none(info.annotation)


def _has_none(annotation: Any) -> bool:
    if annotation in (None, type(None)):
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return _has_none(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(_has_none(arg) for arg in get_args(annotation))
    return origin is Literal and None in get_args(annotation)


@_cached
def serialized_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the fields for which the model brings a serializer of its own."""
    names = {
        name for decorator in model.__pydantic_decorators__.field_serializers.values() for name in decorator.info.fields
    }
    return frozenset(model.model_fields) if "*" in names else frozenset(names)


def to_plain(value: Any) -> Any:
    """Turn a value into plain data: a scalar that a column can hold, or lists and dicts of such.

    Raises:
        OutputError: The value is of a type that cannot be stored.
    """
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, StrEnum | Enum):
        return to_plain(value.value)
    if isinstance(value, PurePath | AnyUrl | Decimal | UUID):
        return str(value)
    if isinstance(value, dt.datetime | dt.timedelta):  # pandas' own, which know NaT
        return None if value != value else _to_standard(value)
    for plain in (bool, int, float, str):  # NumPy's float64 and the like
        if isinstance(value, plain):
            return str.__str__(value) if plain is str else plain(value)
    if isinstance(value, SecretStr | SecretBytes):
        raise OutputError("a secret is not stored; let the simulation read it from its environment")
    if hasattr(value, "dtype") or type(value).__name__ == "NAType":
        return to_plain(_from_library(value))
    try:
        return to_jsonable_python(
            value, by_alias=False, inf_nan_mode="constants", bytes_mode="base64", fallback=_from_library
        )
    except ValueError as error:
        raise OutputError(
            f"a value of type {type(value).__name__} cannot be stored; make it a number, text, a date, a list, a dict "
            "or a pydantic model"
        ) from error


_TAG = "scythe:"
_TAGGED: Mapping[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    dt.datetime: (dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.date: (dt.date.isoformat, dt.date.fromisoformat),
    dt.time: (dt.time.isoformat, dt.time.fromisoformat),
    dt.timedelta: (lambda value: value // dt.timedelta(microseconds=1), lambda n: dt.timedelta(microseconds=n)),
    bytes: (lambda value: value.hex(), bytes.fromhex),
}
"""Scalars that JSON has no notation for, and how they are written and read."""


def render_json(value: Any) -> str:
    """Write a plain value as JSON text that `parse_json` reads.

    NaN, infinities and integers of any size stay what they are. A time is told from a text that looks like one; within
    lists and dicts it is left to the model to tell.
    """
    if type(value) in _TAGGED:
        write, _ = _TAGGED[type(value)]
        value = {_TAG + type(value).__name__: write(value)}
    return json.dumps(to_jsonable_python(value, inf_nan_mode="constants", bytes_mode="base64"))


def parse_json(text: str) -> Any:
    """Read what `render_json` wrote."""
    value = json.loads(text)
    if isinstance(value, dict) and len(value) == 1:
        for kind, (_, read) in _TAGGED.items():
            if (tag := _TAG + kind.__name__) in value:
                return read(value[tag])
    return value


def _to_standard(value: Any) -> Any:
    """Turn pandas' own into those of the standard library; nanoseconds are cut off."""
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime(warn=False)
    return value.to_pytimedelta() if hasattr(value, "to_pytimedelta") else value


def _from_library(value: Any) -> Any:
    """Unwrap what NumPy and pandas wrap: their scalars and arrays, and what pandas calls missing."""
    if type(value).__name__ == "NAType":
        return None
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if type(value).__module__ == "numpy" and kind in ("m", "M"):
        value = value.astype(f"{kind}8[us]")  # of nanoseconds, NumPy makes plain integers
    unwrap = getattr(value, "tolist", None) or getattr(value, "item", None)
    if unwrap is None:
        raise ValueError(f"unknown type {type(value).__name__}")
    return unwrap()


def spec_id(root_id: str, row: int) -> str:
    """Return the id of a spec: the same for a spec of a run, however often it is run.

    It has the form of a UUID; the run's id gives the first three quarters and the row the last.

    >>> spec_id("0b8e7f7c-7c0e-4d0a-9f5c-3d8f2a6b1c4e", 255)
    '0b8e7f7c-7c0e-4d0a-9f5c-0000000000ff'
    """
    return f"{root_id[:24]}{row:012x}"
