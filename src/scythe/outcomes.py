"""Outcomes: what became of specs, as plain data that crosses processes.

Column names tell what a column is for: `out:` a scalar output, `ref:` an output file, `feature:` a computed feature,
`task:` how the spec ran, `error:` why it failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SCALAR, FILE, FEATURE, TASK, ERROR = "out:", "ref:", "feature:", "task:", "error:"

SCALARS, FILES, ERRORS, TASKS = "scalars", "result_file_refs", "errors", "tasks"
"""The tables every run may have; users' data frames have other names."""

RESERVED_TABLES = frozenset({SCALARS, FILES, ERRORS, TASKS})

ERROR_FIELDS = ("class", "type", "message", "traceback", "output")
STARTED = TASK + "started"
"""The one column of seconds since the epoch; a table shows it as a time."""

TASK_FIELDS = ("attempts", "worker", "host", "started", "seconds", "peak_memory")


@dataclass
class Outcomes:
    """Some specs' outcomes, column by column.

    Attributes:
        rows: The specs' places in specs.pq.
        ok: Whether each succeeded.
        columns: Values by column name, one for each row.
        frames: By frame name, the row of a spec and its frame as an Arrow stream.
    """

    rows: list[int]
    ok: list[bool]
    columns: dict[str, list[Any]]
    frames: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many succeeded."""
        return sum(self.ok)

    @property
    def failed(self) -> int:
        """How many failed."""
        return len(self.ok) - self.done


class OutcomeList:
    """Collects outcomes one by one."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._ok: list[bool] = []
        self._values: list[dict[str, Any]] = []
        self._frames: dict[str, list[tuple[int, bytes]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: int, values: dict[str, Any], frames: Iterable[tuple[str, bytes]] = (), *, ok: bool) -> None:
        """Add one spec's outcome.

        Args:
            row: Its place in specs.pq.
            values: Values by column name; a name that other specs have and this one has not is a missing value.
            frames: Its data frames by name, as Arrow streams.
            ok: Whether it succeeded.
        """
        self._rows.append(row)
        self._ok.append(ok)
        self._values.append(values)
        for name, stream in frames:
            self._frames.setdefault(name, []).append((row, stream))

    def take(self) -> Outcomes:
        """Return what was added, and begin anew."""
        names = dict.fromkeys(name for values in self._values for name in values)
        columns = {name: [values.get(name) for values in self._values] for name in names}
        taken = Outcomes(self._rows, self._ok, columns, self._frames)
        self.__init__()  # type: ignore[misc]
        return taken


def failure(kind: str, type_: str, message: str, *, traceback: str = "", output: str = "") -> dict[str, Any]:
    """Return the values of a failed spec.

    Args:
        kind: The class of failure: `error` (an exception), `crashed`, `timed_out`, `invalid_output`.
        type_: The exception's type, or the signal's name.
        message: What it said.
        traceback: Where it came from.
        output: The last lines the simulation wrote.
    """
    values = {"class": kind, "type": type_, "message": message, "traceback": traceback, "output": output}
    return {ERROR + name: value for name, value in values.items()}


def task(*, attempts: int, worker: str, host: str, started: float, seconds: float, peak_memory: int) -> dict[str, Any]:
    """Return the values that say how a spec ran.

    Args:
        attempts: How often it was tried.
        worker: The worker's name.
        host: The machine's name.
        started: When its last attempt began [s since the epoch].
        seconds: How long it took.
        peak_memory: Peak memory of its process so far [bytes].
    """
    return {
        "task:attempts": attempts, "task:worker": worker, "task:host": host, "task:started": started,
        "task:seconds": seconds, "task:peak_memory": peak_memory,
    }  # fmt: skip
