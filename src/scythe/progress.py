"""How far a run is: counts, and how a run stands as its engine last wrote it to the store."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

State = Literal["allocated", "running", "finished", "interrupted", "failed"]

STALE_SECONDS = 30.0
"""An engine that has said nothing for so long has gone."""


class Progress(BaseModel):
    """Counts of a run's specs.

    Attributes:
        done: Specs that succeeded.
        failed: Specs that failed.
        running: Specs that are being run now.
        total: All specs.
        state: How the run stands.
        error: Why it has no final tables, if that is so.
    """

    done: int
    failed: int
    running: int
    total: int
    state: State
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("finished", "interrupted", "failed")


class RunStatus(BaseModel):
    """What an engine writes of a run while it runs it, and when it closes it.

    Attributes:
        state: How the run stands.
        running: Specs that are being run.
        updated: When this was written [s since the epoch].
        engine: The engine's name.
        host: The machine it runs on.
        pid: Its process there.
        error: Why the run has no final tables, if that is so.
    """

    state: State
    running: int = 0
    updated: float
    engine: str
    host: str
    pid: int
    error: str | None = None
