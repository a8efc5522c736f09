"""Outcomes: what became of specs, as plain data that crosses processes.

Column names tell what a column is for: `out:` a scalar output, `ref:` an output file, `feature:` a computed feature,
`task:` how the spec ran, `error:` why it failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCALAR, FILE, FEATURE, TASK, ERROR = "out:", "ref:", "feature:", "task:", "error:"

SCALARS, FILES, ERRORS, TASKS = "scalars", "result_file_refs", "errors", "tasks"
"""The tables every run may have; users' data frames have other names."""

RESERVED_TABLES = frozenset({SCALARS, FILES, ERRORS, TASKS})

ERROR_FIELDS = ("class", "type", "message", "traceback", "output")
TASK_FIELDS = ("attempts", "worker", "host", "started", "seconds", "peak_memory")


@dataclass
class Outcomes:
    """Some specs' outcomes.

    Attributes:
        rows: The specs' places in specs.pq.
        ok: Whether each succeeded.
        values: Each outcome's values by column name; a name that is missing is a missing value.
        frames: By frame name, the row of a spec and its frame as an Arrow stream.
    """

    rows: list[int] = field(default_factory=list)
    ok: list[bool] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    frames: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)

    def add(self, row: int, values: dict[str, Any], *, ok: bool) -> None:
        """Add one spec's outcome."""
        self.rows.append(row)
        self.ok.append(ok)
        self.values.append(values)

    @property
    def done(self) -> int:
        """How many succeeded."""
        return sum(self.ok)

    @property
    def failed(self) -> int:
        """How many failed."""
        return len(self.ok) - self.done

    def columns(self) -> Mapping[str, list[Any]]:
        """Return the values by column, in order of first appearance."""
        names = dict.fromkeys(name for values in self.values for name in values)
        return {name: [values.get(name) for values in self.values] for name in names}


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


def task(*, attempts: int, worker: str, host: str, started: Any, seconds: float, peak_memory: int) -> dict[str, Any]:
    """Return the values that say how a spec ran.

    Args:
        attempts: How often it was tried.
        worker: The worker's name.
        host: The machine's name.
        started: When its last attempt began (UTC).
        seconds: How long it took.
        peak_memory: Peak memory of its process so far [bytes].
    """
    return {
        "task:attempts": attempts, "task:worker": worker, "task:host": host, "task:started": started,
        "task:seconds": seconds, "task:peak_memory": peak_memory,
    }  # fmt: skip
