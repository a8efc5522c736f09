"""What a slot's process and its parent say to each other; plain data, one pickle a message, over a private pipe."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scythe.origins import Origin
from scythe.outcomes import Outcomes
from scythe.registry import Options


@dataclass(frozen=True)
class Work:
    """What a slot has to know about an experiment and a run to run its specs.

    Attributes:
        key: Names it between parent and slot.
        experiment: The experiment's name.
        origin: Where the function is found.
        options: How it wants to be run.
        levels: Index levels of the run's tables; a data frame need not bring them.
        folder: Where the slot makes temporary folders and leaves output files.
    """

    key: str
    experiment: str
    origin: Origin
    options: Options
    levels: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class Batch:
    """Some specs, column by column.

    Attributes:
        work: The key of the work they belong to.
        rows: Their places in specs.pq.
        columns: Their fields.
        json_columns: The columns that hold JSON text.
        extra_columns: The columns that are not fields of the model; there a missing value means a missing field.
        paths: Local paths of the files that file references point at, by URL.
    """

    work: str
    rows: Sequence[int]
    columns: Mapping[str, list[Any]]
    json_columns: frozenset[str] = frozenset()
    extra_columns: frozenset[str] = frozenset()
    paths: Mapping[str, str] = field(default_factory=dict)


# parent to slot


@dataclass(frozen=True)
class Load:
    """Get ready for some work."""

    work: Work


@dataclass(frozen=True)
class Run:
    """Run a batch."""

    batch: Batch


@dataclass(frozen=True)
class Reply:
    """The answer to a request of user code; `error` says why it could not be done."""

    error: str | None = None


# slot to parent


@dataclass(frozen=True)
class Ready:
    """The work is loaded."""


@dataclass(frozen=True)
class Broken:
    """The work cannot be loaded; the text says why."""

    reason: str


@dataclass(frozen=True)
class Report:
    """Outcomes of the batch at hand."""

    outcomes: Outcomes


@dataclass(frozen=True)
class End:
    """The batch is over; positions from `reached` on were not begun."""

    reached: int


@dataclass(frozen=True)
class Launch:
    """User code has allocated a run: run it."""

    job: Any


@dataclass(frozen=True)
class Park:
    """User code waits for a run (or has stopped to): its slot is free meanwhile."""

    parked: bool


class Gauge:
    """A few numbers in memory that parent and slot share: where the slot is in its batch.

    The slot writes its position and then reads the limit; the parent writes the limit and then reads the position. So a
    position from the limit on is either not begun by the slot, or seen by the parent as begun.
    """

    SIZE = 32
    _NOW = struct.Struct("<qdq")
    _LIMIT = struct.Struct("<q")

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def begin(self, position: int, now: float, log: int = 0) -> None:
        """Say that the slot begins a position at a time of the monotonic clock, and where its log stands."""
        self._NOW.pack_into(self._buffer, 0, position, now, log)

    @property
    def current(self) -> tuple[int, float]:
        """The position at hand (-1 between batches) and when it began."""
        position, since, _ = self._NOW.unpack_from(self._buffer, 0)
        return position, since

    @property
    def log(self) -> int:
        """Where the log stood when the position at hand began."""
        return int(self._NOW.unpack_from(self._buffer, 0)[2])

    @property
    def limit(self) -> int:
        """The first position that the slot must not begin."""
        return int(self._LIMIT.unpack_from(self._buffer, 24)[0])

    @limit.setter
    def limit(self, position: int) -> None:
        self._LIMIT.pack_into(self._buffer, 24, position)
