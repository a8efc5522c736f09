"""Which rows of a run are to do, in a slot's hands, or done."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from scythe.engines.base import Job
from scythe.execution.batches import BatchReader
from scythe.execution.messages import Work
from scythe.gathering import finished_rows
from scythe.keys import RunKeys
from scythe.progress import Progress, State
from scythe.recording import Recorder
from scythe.stores import open_store
from scythe.tree import missing_ranges

BATCH_SECONDS = 0.25
MAX_BATCH = 5_000
_GROWTH = 8


class LocalRun:
    """A run in the pool: what is still to do, and what to do with what was done.

    Its counters are guarded by the pool's lock.
    """

    def __init__(self, job: Job, *, parent: LocalRun | None, folder: Path) -> None:
        self.job = job
        self.parent = parent
        """The run whose task allocated it."""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.keys = RunKeys(job.prefix)
        store = open_store(job.store_url)
        self.recorder = Recorder(
            store, self.keys, total=job.total, engine="local", writer=uuid.uuid4().hex[:8],
            output_fields=job.output_fields,
        )  # fmt: skip
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
        key = self.folder.name
        self.work = Work(key, job.experiment, job.origin, job.options, job.levels, str(self.folder))
        fetched = job.file_columns if job.options.auto_fetch_files else ()
        self.reader = BatchReader(store, self.keys, work=key, file_columns=fetched, extra_columns=job.extra_columns)
        whole = [(0, job.total)] if self.recorder.done + self.recorder.failed == 0 else None
        finished: Iterable[bool] = [] if whole else finished_rows(store, self.keys, job.total)
        self.pending = deque(whole or missing_ranges(finished))
        self.n_pending = sum(end - first for first, end in self.pending)
        self.in_flight = 0
        self.state: State = "running"
        self.error: str | None = None
        self.stopping = False
        self.deaths = 0
        """How often in a row a process died without a spec to blame."""
        self._seconds: float | None = None
        self._last_size = 0

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to run."""
        return self.n_pending == 0 and self.in_flight == 0

    @property
    def ending(self) -> bool:
        """Whether no more of it is to be run."""
        return self.stopping or self.error is not None

    def belongs_to(self, prefix: str | None) -> bool:
        """Tell whether it is the run of that prefix, or one that a task of it allocated; None means any."""
        run: LocalRun | None = self
        while run is not None:
            if prefix in (None, run.job.prefix):
                return True
            run = run.parent
        return False

    def take(self, slots: int) -> tuple[int, int]:
        """Take the next range: about `BATCH_SECONDS` of work, less towards the end, so that slots end together."""
        size = 1 if self._seconds is None else int(BATCH_SECONDS / max(self._seconds, 1e-7))
        size = min(size, MAX_BATCH, max(1, self._last_size * _GROWTH), -(-self.n_pending // (2 * slots)))
        first, end = self.pending.popleft()
        cut = min(end, first + max(1, size))
        if cut < end:
            self.pending.appendleft((cut, end))
        self._last_size = cut - first
        self.n_pending -= cut - first
        self.in_flight += cut - first
        return first, cut

    def give_back(self, first: int, end: int) -> None:
        """Put rows back that were taken and not run."""
        if end > first:
            self.pending.appendleft((first, end))
            self.n_pending += end - first
            self.in_flight -= end - first

    def learn(self, seconds: float, count: int) -> None:
        """Take note of how long some specs took, the newest counting most."""
        each = seconds / max(count, 1)
        self._seconds = each if self._seconds is None else 0.5 * self._seconds + 0.5 * each

    def progress(self) -> Progress:
        """Say how far the run is."""
        return self.recorder.progress(running=self.in_flight, state=self.state, error=self.error)


class Range:
    """A range of rows in a slot's hands: which have an outcome, and which go back."""

    def __init__(self, changed: threading.Condition, run: LocalRun, first: int, end: int) -> None:
        self._changed = changed
        self._run = run
        self.first = first
        self.kept = end - first
        """Positions from here on are no longer this slot's."""
        self.done = 0
        self.begun = False
        """Whether the slot has got it."""
        self._lost: int | None = None

    def advance(self, count: int) -> None:
        """The next positions have an outcome."""
        with self._changed:
            self.done += count
            self._run.in_flight -= count

    def share(self, limit: int) -> None:
        """Positions from the limit on go to others, now."""
        with self._changed:
            self._run.give_back(self.first + limit, self.first + self.kept)
            self.kept = limit
            self._changed.notify_all()

    def lose(self, position: int) -> None:
        """A position that was not reported has got an outcome."""
        with self._changed:
            self._lost = position
            self._run.in_flight -= 1

    def give_back(self) -> None:
        """Give back what has no outcome."""
        with self._changed:
            lost = self.kept if self._lost is None else self._lost
            self._run.give_back(self.first + lost + 1, self.first + self.kept)
            self._run.give_back(self.first + self.done, self.first + lost)
            self._changed.notify_all()
