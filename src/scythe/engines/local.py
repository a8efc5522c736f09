"""The embedded engine: a pool of worker processes on this machine, one a slot.

A thread for each slot takes ranges of specs from the runs at hand, sized by how long specs take, and gives them to the
slot's process; a keeper thread writes parts, and merges them when a run is complete. A run that a task allocates is
handed up to the process that owns the pool, and the slot of a task that waits is free meanwhile: so runs nest to any
depth on one slot.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from scythe.display import ProgressBar
from scythe.engines.base import Engine, Job
from scythe.errors import EngineError, ScytheError
from scythe.execution import slot as slot_process
from scythe.execution.batches import BatchReader, output_ids
from scythe.execution.messages import Batch, End, Launch, Park, Reply, Work
from scythe.execution.process import LoadError, SlotDiedError, SlotProcess, Tick
from scythe.gathering import finished_rows
from scythe.keys import RunKeys
from scythe.outcomes import Outcomes, failure, task
from scythe.progress import Progress, State
from scythe.recording import Recorder
from scythe.settings import slots as default_slots
from scythe.stores import open_store
from scythe.tree import missing_ranges

BATCH_SECONDS = 0.25
MAX_BATCH = 5_000
_GROWTH = 8
_STUCK_SECONDS = 0.25
_MAX_DEATHS = 3
_KEEPER_SECONDS = 0.1


class LocalEngine(Engine):
    """The embedded engine; all its runs in a process share one pool."""

    name: ClassVar[str] = "local"

    def __init__(self, *, slots: int | None = None) -> None:
        """Make an engine.

        Args:
            slots: How many specs run at once; see `settings.slots` for the default.
        """
        self._slots = slots
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._ended: dict[str, Progress] = {}
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """In a forked child: the pool is the parent's."""
        self._lock = threading.Lock()
        self._pool = None

    @override
    def start(self, job: Job) -> None:
        if (slot := slot_process.current()) is not None:
            slot.request(Launch(job))
            return
        with self._lock:
            if self._pool is None or not self._pool.add(job, depth=0):
                self._pool = Pool(self._slots or default_slots(), self._ended)
                atexit.register(self._pool.stop)
                self._pool.add(job, depth=0)

    @override
    def stop(self, prefix: str) -> None:
        if self._pool is not None:
            self._pool.stop(prefix)

    @override
    def watch(self, prefix: str) -> Progress | None:
        if self._pool is not None and (progress := self._pool.progress(prefix)) is not None:
            return progress
        return self._ended.get(prefix)

    @override
    @contextmanager
    def waiting(self) -> Iterator[None]:
        slot = slot_process.current()
        if slot is None:
            yield
            return
        slot.request(Park(True))
        try:
            yield
        finally:
            slot.request(Park(False))


class LocalRun:
    """A run in the pool: what is still to do, and what to do with what was done.

    Its counters are guarded by the pool's lock.
    """

    def __init__(self, job: Job, *, depth: int, folder: Path) -> None:
        self.job = job
        self.depth = depth
        self.keys = RunKeys(job.prefix)
        store = open_store(job.store_url)
        self.recorder = Recorder(
            store, self.keys, total=job.total, engine=LocalEngine.name, writer=uuid.uuid4().hex[:8],
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
        self._seconds: float | None = None
        self._last_size = 0
        self.deaths = 0

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to run."""
        return self.n_pending == 0 and self.in_flight == 0

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


class Pool:
    """The slots of this process, and the runs they work on.

    It lives while there are runs: its processes have imported the user's modules as they were when the run began, and
    must not outlive that.
    """

    def __init__(self, slots: int, ended: dict[str, Progress]) -> None:
        self.slots = slots
        self.changed = threading.Condition()
        self.folder = Path(tempfile.mkdtemp(prefix="scythe-"))
        self._ended = ended
        self._runs: list[LocalRun] = []
        self._threads: list[SlotThread] = []
        self._number = 0
        self._parked = 0
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="scythe-keeper")
        self._keeping = False

    # ------------------------------------------------------------------------------------------------- for callers

    def add(self, job: Job, *, depth: int) -> bool:
        """Take a job in; False if the pool is winding up and a new one is needed."""
        run = LocalRun(job, depth=depth, folder=self.folder) if not self._closed else None
        with self.changed:
            if run is None or self._closed:
                return False
            if any(other.job.prefix == job.prefix for other in self._runs):
                raise EngineError(f"Run {job.prefix} is being run already; wait for it with run.wait().")
            self._ended.pop(job.prefix, None)
            self._runs.append(run)
            self._runs.sort(key=lambda r: -r.depth)  # tasks wait for the runs they allocated: those go first
            self._staff()
            if not self._keeping:
                self._keeping = True
                self._keeper.start()
            self.changed.notify_all()
        run.recorder.tell("running")
        return True

    def progress(self, prefix: str) -> Progress | None:
        """Say how far a run is, or None if it is not here."""
        with self.changed:
            return next((run.progress() for run in self._runs if run.job.prefix == prefix), None)

    def stop(self, prefix: str | None = None) -> None:
        """Stop a run (or all), and wait until what it has is in the store."""
        with self.changed:
            for run in self._runs:
                run.stopping |= prefix in (None, run.job.prefix)
            self.changed.notify_all()
            if threading.current_thread() is not self._keeper:
                self.changed.wait_for(
                    lambda: not any(prefix in (None, run.job.prefix) for run in self._runs), timeout=30
                )
        if prefix is None and self._keeping:
            self._keeper.join(timeout=30)

    # --------------------------------------------------------------------------------------------- for slot threads

    def take(self, thread: SlotThread) -> tuple[LocalRun, int, int] | None:
        """Return the next range to run, waiting for one; None if the thread is not needed any more."""
        with self.changed:
            while True:
                if self._closed or len(self._threads) > self.slots + self._parked:
                    self._threads.remove(thread)
                    return None
                for run in self._runs:
                    if run.pending and not run.stopping and run.error is None:
                        return (run, *run.take(self.slots))
                self.changed.wait(timeout=1)

    def hungry(self) -> bool:
        """Tell whether slots are idle because everything is handed out."""
        with self.changed:
            busy = sum(thread.busy for thread in self._threads)
            return busy < len(self._threads) and not any(run.pending for run in self._runs)

    def park(self, *, parked: bool) -> None:
        """Take note that a task began, or ceased, to wait for another run."""
        with self.changed:
            self._parked += 1 if parked else -1
            self._staff()
            self.changed.notify_all()

    def fail(self, run: LocalRun, reason: str) -> None:
        """Give a run up: it cannot be run here."""
        with self.changed:
            run.error = run.error or reason
            self.changed.notify_all()

    def _staff(self) -> None:
        """Start the slots that are wanted: no more than there is work for."""
        wanted = min(self.slots + self._parked, self._parked + sum(r.n_pending + r.in_flight for r in self._runs))
        while len(self._threads) < wanted:
            thread = SlotThread(self, self._number)
            self._number += 1
            self._threads.append(thread)
            thread.start()

    # -------------------------------------------------------------------------------------------------- the keeper

    def _keep(self) -> None:
        bar: ProgressBar | None = None
        try:
            while True:
                with self.changed:
                    runs = list(self._runs)
                    if not runs:
                        self._closed = True
                        break
                for run in runs:
                    self._look_after(run)
                if not threading.main_thread().is_alive():
                    bar = bar or ProgressBar()
                    self._show(bar, runs)
                with self.changed:
                    self.changed.wait(timeout=_KEEPER_SECONDS)
        finally:
            if bar is not None:
                bar.close()
            with self.changed:
                self._closed = True
                self.changed.notify_all()
                threads = list(self._threads)
            for thread in threads:
                thread.join(timeout=10)
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(Exception):
                atexit.unregister(self.stop)

    def _show(self, bar: ProgressBar, runs: list[LocalRun]) -> None:
        """The script has ended and its runs have not: show them, or stop them if Ctrl-C ended it."""
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            with self.changed:
                for run in self._runs:
                    run.stopping = True
        for run in runs:
            bar.show(run.job.prefix, run.progress())

    def _look_after(self, run: LocalRun) -> None:
        """Write what a run has, and close it when it is over."""
        with self.changed:
            over = run.complete or ((run.stopping or run.error is not None) and run.in_flight == 0)
            running = min(run.in_flight, len(self._threads))
        try:
            if not over:
                run.recorder.flush(running=running)
                return
            interrupted = run.stopping and not run.complete
            run.state, run.error = run.recorder.close(interrupted=interrupted, error=run.error)
        except Exception as error:  # whoever waits for the run must hear of it, whatever it is
            reason = f"its results cannot be written: {type(error).__name__}: {error}"
            if not over:
                self.fail(run, reason)
                return
            run.state, run.error = "failed", reason
        run.reader.close()
        shutil.rmtree(run.folder, ignore_errors=True)
        with self.changed:
            self._ended[run.job.prefix] = run.progress()
            self._runs.remove(run)
            self.changed.notify_all()


class SlotThread(threading.Thread):
    """Feeds one slot's process."""

    def __init__(self, pool: Pool, number: int) -> None:
        super().__init__(name=f"scythe-slot-{number}")
        self._pool = pool
        self._number = number
        self._worker = f"ScytheWorker--Local-{number}"
        self._host = socket.gethostname()
        self._process: SlotProcess | None = None
        self.busy = False

    def run(self) -> None:
        """Take ranges and run them until there are none."""
        try:
            while (taken := self._pool.take(self)) is not None:
                run, first, end = taken
                self.busy = True
                try:
                    self._run_range(run, first, end)
                except BaseException as error:  # whatever it is, the run must not wait for this slot
                    self._pool.fail(run, f"{type(error).__name__} in slot {self._number}: {error}")
                    if not isinstance(error, ScytheError | OSError):
                        raise
                finally:
                    self.busy = False
        finally:
            self._end_process()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _run_range(self, run: LocalRun, first: int, end: int) -> None:
        progress = _RangeProgress(self._pool, run, first, end)
        try:
            batch = run.reader.read(first, end)
            self._run_batch(run, batch, progress)
        except LoadError as error:
            self._pool.fail(run, f"a worker process cannot load the experiment:\n{error}")
            self._end_process()
        except SlotDiedError as death:
            self._process = None
            self._bury(run, death, progress)
        finally:
            progress.give_back()

    def _run_batch(self, run: LocalRun, batch: Batch, progress: _RangeProgress) -> None:
        if self._process is None:
            self._process = SlotProcess(self._pool.folder, number=self._number, worker=self._worker)
        progress.loading = True
        self._process.load(run.work)
        progress.loading = False
        began = time.monotonic()
        limit = run.job.options.execution_timeout.total_seconds()
        ids = output_ids(batch)
        for event in self._process.run(batch, on_request=lambda message: self._answer(run, message)):
            if isinstance(event, Outcomes):
                run.recorder.record(event, ids)
                progress.advance(len(event.rows))
            elif isinstance(event, End):
                run.deaths = 0
            elif event.position >= 0:
                if event.seconds > limit:
                    self._time_out(run, progress, event, limit)
                    return
                if event.seconds > _STUCK_SECONDS and self._pool.hungry():
                    self._share(batch, progress, event)
            if run.stopping or run.error is not None:
                self._end_process()
                return
        if progress.done:
            with self._pool.changed:
                run.learn(time.monotonic() - began, progress.done)

    def _answer(self, run: LocalRun, message: Launch | Park) -> Reply:
        try:
            if isinstance(message, Launch):
                self._pool.add(message.job, depth=run.depth + 1)
            else:
                self._pool.park(parked=message.parked)
        except (ScytheError, OSError) as error:
            return Reply(str(error))
        return Reply()

    def _share(self, batch: Batch, progress: _RangeProgress, tick: Tick) -> None:
        """Give back what lies behind a spec that takes long, for slots that have nothing to do."""
        assert self._process is not None
        limit = tick.position + 1
        if limit >= progress.kept:
            return
        self._process.gauge.limit = limit
        position, _ = self._process.gauge.current
        if position == tick.position:  # else the slot moved on, and gives back the rest when it meets the limit
            progress.share(limit)

    def _time_out(self, run: LocalRun, progress: _RangeProgress, tick: Tick, limit: float) -> None:
        assert self._process is not None
        output = self._process.output()
        self._end_process()
        message = f"stopped after {tick.seconds:.1f} s; execution_timeout is {limit:g} s"
        self._fail_spec(
            run,
            progress,
            tick.position,
            failure("timed_out", "TimeoutError", message, output=output),
            tick.seconds,
        )

    def _bury(self, run: LocalRun, death: SlotDiedError, progress: _RangeProgress) -> None:
        """Find out what killed the process: a spec, or getting ready for one."""
        if run.stopping:
            return
        if progress.loading:
            self._pool.fail(
                run,
                f"a worker process died ({death.cause}) as it loaded the experiment. Its last output:\n{death.output}",
            )
            return
        position, seconds = death.position, death.seconds
        if position < progress.done:
            run.deaths += 1
            if run.deaths >= _MAX_DEATHS:
                self._pool.fail(run, f"worker processes keep dying ({death.cause}) between specs:\n{death.output}")
            return
        message = f"the worker process died: {death.cause}"
        self._fail_spec(run, progress, position, failure("crashed", death.cause, message, output=death.output), seconds)

    def _fail_spec(
        self, run: LocalRun, progress: _RangeProgress, position: int, why: dict[str, object], seconds: float
    ) -> None:
        """Record a spec that took its process along; those before it that were not reported are run again."""
        started = datetime.fromtimestamp(time.time() - seconds, UTC)
        how = task(attempts=1, worker=self._worker, host=self._host, started=started, seconds=seconds, peak_memory=0)
        outcomes = Outcomes()
        outcomes.add(progress.first + position, {**why, **how}, ok=False)
        run.recorder.record(outcomes, {})
        progress.lose(position)


class _RangeProgress:
    """Which rows of a range have an outcome, and which go back."""

    def __init__(self, pool: Pool, run: LocalRun, first: int, end: int) -> None:
        self._pool = pool
        self._run = run
        self.first = first
        self.kept = end - first
        """Positions from here on are no longer this slot's."""
        self.done = 0
        self.loading = False
        self._lost: int | None = None

    def advance(self, count: int) -> None:
        """The next positions have an outcome."""
        self.done += count
        with self._pool.changed:
            self._run.in_flight -= count

    def share(self, limit: int) -> None:
        """Positions from the limit on go to others, now."""
        with self._pool.changed:
            self._run.give_back(self.first + limit, self.first + self.kept)
            self._pool.changed.notify_all()
        self.kept = limit

    def lose(self, position: int) -> None:
        """A position that was not reported has got an outcome."""
        self._lost = position
        with self._pool.changed:
            self._run.in_flight -= 1

    def give_back(self) -> None:
        """Give back what has no outcome."""
        with self._pool.changed:
            start, lost = self.done, self._lost
            if lost is not None:
                self._run.give_back(self.first + lost + 1, self.first + self.kept)
                self._run.give_back(self.first + start, self.first + lost)
            else:
                self._run.give_back(self.first + start, self.first + self.kept)
            self._pool.changed.notify_all()
