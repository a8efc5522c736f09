"""Recording: what an engine does to a run in the store, from its first outcome to its final tables."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scythe.errors import ObjectNotFoundError, ScytheError, StoreError
from scythe.files import is_url
from scythe.gathering import outcome_counts, write_tables
from scythe.keys import RunKeys
from scythe.manifest import update_manifest
from scythe.outcomes import FILE, Outcomes
from scythe.parts import PartWriter
from scythe.progress import STALE_SECONDS, Progress, RunStatus, State
from scythe.stores import Store
from scythe.transfer import upload_output

STATUS_SECONDS = 2.0
_FLUSH_SECONDS = (0.5, 5.0)
"""How long outcomes wait to be written: at the start of a run, and when it has gone on for minutes."""


class Recorder:
    """Takes one run's outcomes and writes them to the store; safe for use by several threads.

    Args:
        store: Where the run is.
        run: Its keys.
        total: How many specs it has.
        engine: The engine's name.
        writer: A name for the parts that no other writer of this run has (hex digits).
        output_fields: Columns that tables have even if no spec gives them, by table.
    """

    def __init__(
        self,
        store: Store,
        run: RunKeys,
        *,
        total: int,
        engine: str,
        writer: str,
        output_fields: Mapping[str, Sequence[str]],
    ) -> None:
        self._store = store
        self._run = run
        self._engine = engine
        self._output_fields = output_fields
        self._writer = PartWriter(store, run, writer=writer)
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._began = self._flushed = time.monotonic()
        self._told = 0.0
        self.total = total
        self.done, self.failed = outcome_counts(store, run)

    @property
    def complete(self) -> bool:
        """Whether every spec has an outcome."""
        return self.done + self.failed >= self.total

    def record(self, outcomes: Outcomes, ids: Mapping[int, tuple[str, str | None]]) -> None:
        """Take outcomes in; output files are uploaded first, so that no row points at a file that is not there.

        Args:
            outcomes: The outcomes.
            ids: The run prefix and the id under which a row's output files are kept, by row; a spec without an id goes
                by its row.
        """
        for name, values in outcomes.columns.items():
            if name.startswith(FILE):
                outcomes.columns[name] = [
                    reference
                    if reference is None or is_url(reference)
                    else self._upload(name, reference, row, *ids[row])
                    for row, reference in zip(outcomes.rows, values, strict=True)
                ]
        with self._lock:
            self._writer.add(outcomes)
            self.done += outcomes.done
            self.failed += outcomes.failed

    def _upload(self, column: str, reference: str, row: int, prefix: str, spec_id: str | None) -> str:
        path = Path(reference)
        field = column.removeprefix(FILE)
        url = upload_output(self._store, path, prefix=prefix, field=field, spec_id=spec_id or str(row))
        shutil.rmtree(path.parent, ignore_errors=True)
        return url

    def flush(self, *, now: bool = False, running: int = 0) -> None:
        """Write outcomes that have waited long enough, and say how the run stands.

        Args:
            now: Write whatever there is.
            running: How many specs are being run.
        """
        clock = time.monotonic()
        shortest, longest = _FLUSH_SECONDS
        wait = min(longest, max(shortest, (clock - self._began) / 20))
        with self._flush_lock:
            if now or clock - self._flushed >= wait:
                self._flushed = clock
                with self._lock:
                    flush = self._writer.take()
                flush()
            if clock - self._told >= STATUS_SECONDS:
                self._told = clock
                self.tell("running", running=running)

    def tell(self, state: State, *, running: int = 0, error: str | None = None) -> None:
        """Write how the run stands."""
        status = RunStatus(
            state=state, running=running, updated=time.time(), engine=self._engine, host=socket.gethostname(),
            pid=os.getpid(), error=error,
        )  # fmt: skip
        self._store.put(self._run.status, status.model_dump_json().encode())

    def progress(self, *, running: int, state: State, error: str | None = None) -> Progress:
        """Say how far the run is."""
        return Progress(done=self.done, failed=self.failed, running=running, total=self.total, state=state, error=error)

    def close(self, *, interrupted: bool = False, error: str | None = None) -> tuple[State, str | None]:
        """Write the final tables, if every spec has an outcome, and close the run.

        Returns:
            How the run stands, and why it has no final tables.
        """
        self.flush(now=True)
        state: State = "failed" if error else "interrupted" if interrupted else "finished"
        tables: list[str] = []
        if state == "finished":
            try:
                tables = write_tables(self._store, self._run, output_fields=self._output_fields)
            except ScytheError as clash:
                if isinstance(clash, StoreError):
                    raise
                state, error = "failed", str(clash)
        update_manifest(
            self._store,
            self._run,
            state=state,
            done=self.done,
            failed=self.failed,
            tables=tables,
            error=error,
        )
        self.tell(state, error=error)
        return state, error


def read_progress(store: Store, run: RunKeys, total: int) -> Progress:
    """Say how far a run is, from the store alone: a listing and one small object."""
    done, failed = outcome_counts(store, run)
    status = read_status(store, run)
    if status is None:
        return Progress(done=done, failed=failed, running=0, total=total, state="allocated")
    gone = status.state == "running" and _is_gone(status)
    return Progress(
        done=done,
        failed=failed,
        running=0 if gone else status.running,
        total=total,
        state="interrupted" if gone else status.state,
        error=status.error,
    )


def _is_gone(status: RunStatus) -> bool:
    """Tell whether the engine that wrote a status has died: it is silent, or its process here is no more."""
    if time.time() - status.updated > STALE_SECONDS:
        return True
    if status.host != socket.gethostname():
        return False
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def read_status(store: Store, run: RunKeys) -> RunStatus | None:
    """Return what the engine last said of a run, or None if it has said nothing."""
    try:
        return RunStatus.model_validate_json(store.get(run.status))
    except ObjectNotFoundError:
        return None
