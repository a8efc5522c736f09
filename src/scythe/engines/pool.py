"""The slots of this process, and the runs they work on.

A thread for each slot takes ranges of specs from the runs at hand, sized by how long specs take, and gives them to the
slot's process; a keeper thread writes parts, and merges them when a run is complete.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from scythe.display import ProgressBar, say_stopped
from scythe.engines.base import Job
from scythe.engines.ranges import LocalRun, Range
from scythe.errors import EngineError, ScytheError
from scythe.execution.batches import output_ids
from scythe.execution.messages import Batch, End, Launch, Park, Reply
from scythe.execution.process import LoadError, SlotDiedError, SlotProcess
from scythe.outcomes import OutcomeList, Outcomes, failure, task
from scythe.progress import Progress

_STUCK_SECONDS = 0.25
_LONG_SECONDS = 1.0
_MAX_DEATHS = 3
_KEEPER_SECONDS = 0.1
_GRACE_SECONDS = 0.5
_STOP_SECONDS = 30.0


class Pool:
    """The slots of this process, and the runs they work on.

    It lives while there are runs: its processes have imported the user's modules as they were when the run began, and
    must not outlive that.
    """

    def __init__(self, slots: int, unwritten: dict[str, Progress]) -> None:
        self.slots = slots
        self.changed = threading.Condition()
        self.folder = Path(tempfile.mkdtemp(prefix="scythe-"))
        self._unwritten = unwritten
        self._runs: list[LocalRun] = []
        self._arriving: set[str] = set()
        """Prefixes of runs that are being opened: the pool waits for them."""
        self._threads: list[SlotThread] = []
        self._parked = 0
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="scythe-keeper")

    # ------------------------------------------------------------------------------------------------- for callers

    def add(self, job: Job, *, parent: LocalRun | None = None) -> bool:
        """Take a job in; False if the pool is winding up and a new one is needed."""
        with self.changed:
            if self._closed:
                return False
            if job.prefix in self._arriving or any(run.job.prefix == job.prefix for run in self._runs):
                raise EngineError(f"Run {job.prefix} is being run already; wait for it with run.wait().")
            self._arriving.add(job.prefix)
            if self._keeper.ident is None:
                self._keeper.start()
        try:
            run = LocalRun(job, parent=parent, folder=self.folder)
            run.recorder.tell("running")
        except BaseException:
            with self.changed:
                self._arriving.remove(job.prefix)
            raise
        with self.changed:
            self._arriving.remove(job.prefix)
            self._unwritten.pop(job.prefix, None)
            run.stopping = parent is not None and parent.stopping
            self._runs.append(run)
            self._runs.sort(key=lambda r: -r.depth)  # tasks wait for the runs they allocated: those go first
            self._staff()
            self.changed.notify_all()
        return True

    def progress(self, prefix: str) -> Progress | None:
        """Say how far a run is, or None if it is not here."""
        # No lock: it is the main thread that asks, often, and Ctrl-C may come between taking a lock and knowing of it.
        return next((run.progress() for run in tuple(self._runs) if run.job.prefix == prefix), None)

    def stop(self, prefix: str | None = None) -> None:
        """Stop a run (or all) and the runs its tasks allocated, and wait until what they have is in the store."""
        with self.changed:
            for run in self._runs:
                run.stopping |= run.belongs_to(prefix)
            self.changed.notify_all()
            self.changed.wait_for(lambda: not any(run.belongs_to(prefix) for run in self._runs), timeout=_STOP_SECONDS)

    def end(self) -> None:
        """At the end of Python: stop what Ctrl-C kept it from waiting for."""
        with self.changed:
            interrupted = bool(self._runs)
        if interrupted:
            self.stop()
            self._keeper.join(timeout=_STOP_SECONDS)
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)  # as Python ends that meets Ctrl-C: the shell must hear of it

    # --------------------------------------------------------------------------------------------- for slot threads

    def take(self, thread: SlotThread) -> tuple[LocalRun, int, int] | None:
        """Return the next range to run, waiting for one; None if the pool is closed."""
        with self.changed:
            thread.busy = False
            while not self._closed:
                if self._n_busy < self.slots + self._parked:
                    for run in self._runs:
                        if run.pending and not run.ending:
                            thread.busy = True
                            return (run, *run.take(self.slots))
                self.changed.wait(timeout=1)
            return None

    def hungry(self) -> bool:
        """Tell whether slots are idle because everything is handed out."""
        with self.changed:
            free = min(len(self._threads), self.slots + self._parked) > self._n_busy
            return free and not any(run.pending for run in self._runs if not run.ending)

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

    @property
    def _n_busy(self) -> int:
        return sum(thread.busy for thread in self._threads)

    def _staff(self) -> None:
        """Start the slots that are wanted: no more than there is work for."""
        wanted = min(self.slots + self._parked, self._parked + sum(r.n_pending + r.in_flight for r in self._runs))
        while len(self._threads) < wanted:
            thread = SlotThread(self, len(self._threads))
            try:
                thread.start()
            except RuntimeError as error:  # from Python 3.12 on, none can be started once the script has ended
                if len(self._threads) <= self._parked:
                    for run in self._runs:
                        run.error = run.error or f"{error}; wait for runs before the script ends: ref.result()"
                return
            self._threads.append(thread)

    # -------------------------------------------------------------------------------------------------- the keeper

    def _keep(self) -> None:
        bar: ProgressBar | None = None
        while True:
            with self.changed:
                runs = list(self._runs)
                if not runs and not self._arriving:
                    self._closed = True
                    self.changed.notify_all()
                    break
            for run in runs:
                self._look_after(run)
            if not threading.main_thread().is_alive():
                with suppress(Exception):  # a terminal that is gone is no reason to stop
                    bar = bar or ProgressBar()
                    self._show(bar, runs)
            with self.changed:
                self.changed.wait(timeout=_KEEPER_SECONDS)
        if bar is not None:
            with suppress(Exception):
                bar.close()
        for thread in self._threads:
            thread.join(timeout=_STOP_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.end)

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
            over = run.in_flight == 0 and (run.n_pending == 0 or run.ending)
            if run.parent is not None and run.parent.ending and run.parent.in_flight:
                over = False  # first ends who waits for it
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
            run.state, run.error = "failed", run.error or reason
            self._unwritten[run.job.prefix] = run.progress()
            with suppress(Exception):
                run.recorder.tell("failed", error=run.error)
        with suppress(Exception):
            run.reader.close()
        shutil.rmtree(run.folder, ignore_errors=True)
        with self.changed:
            self._runs.remove(run)
            self.changed.notify_all()
        if run.state == "interrupted" and not threading.main_thread().is_alive():
            with suppress(Exception):
                say_stopped(run.job.prefix, run.progress())


class SlotThread(threading.Thread):
    """Feeds one slot's process."""

    def __init__(self, pool: Pool, number: int) -> None:
        super().__init__(name=f"scythe-slot-{number}")
        self._pool = pool
        self._number = number
        self._worker = f"ScytheWorker--Local-{number}"
        self._host = socket.gethostname()
        self._process: SlotProcess | None = None
        self._waits = 0
        """For how many runs the spec at hand waits."""
        self.busy = False

    def run(self) -> None:
        """Take ranges and run them until the pool closes."""
        try:
            while (taken := self._pool.take(self)) is not None:
                self._run_range(*taken)
        finally:
            self._end_process()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._waits:
            self._waits = 0
            self._pool.park(parked=False)

    def _run_range(self, run: LocalRun, first: int, end: int) -> None:
        rows = Range(self._pool.changed, run, first, end)
        try:
            self._run_batch(run, rows, run.reader.read(first, end))
        except SlotDiedError as death:
            self._end_process()
            self._bury(run, rows, death)
        except Exception as error:  # whatever it is, the run must not wait for this slot
            self._end_process()  # what it still has to say belongs to nobody
            self._pool.fail(run, _reason(error))
        finally:
            rows.give_back()

    def _run_batch(self, run: LocalRun, rows: Range, batch: Batch) -> None:
        process = self._ready_process(run)
        if process is None:
            return
        rows.begun = True
        began = time.monotonic()
        limit = run.job.options.execution_timeout.total_seconds()
        ids = output_ids(batch)
        grace_ends: float | None = None
        for event in process.run(batch, on_request=lambda message: self._answer(run, message)):
            now = time.monotonic()
            if isinstance(event, Outcomes):
                run.recorder.record(event, ids)
                rows.advance(len(event.rows))
            elif isinstance(event, End):
                run.deaths = 0
                break
            position, seconds = process.now
            if position >= rows.done and seconds > limit:
                self._time_out(run, rows, position, seconds, limit)
                break
            if run.ending:
                process.gauge.limit = 0
                grace_ends = grace_ends or now + _GRACE_SECONDS
                if now > grace_ends or self._waits:  # a spec must not see that the run it waits for was stopped
                    self._end_process()
                    break
            elif (seconds > _STUCK_SECONDS or now - began > _LONG_SECONDS) and self._pool.hungry():
                self._share(process, rows)
        if rows.done:
            with self._pool.changed:
                run.learn(time.monotonic() - began, rows.done)

    def _ready_process(self, run: LocalRun) -> SlotProcess | None:
        """Return a process that has loaded the experiment, or None if the run ended before it had."""
        if self._process is not None and not self._process.suits(run.work):
            self._end_process()
        if self._process is None:
            self._process = SlotProcess(self._pool.folder, number=self._number, worker=self._worker)
        for _ in self._process.load(run.work, on_request=lambda message: self._answer(run, message)):
            if run.ending:
                self._end_process()
                return None
        return self._process

    def _answer(self, run: LocalRun, message: Launch | Park) -> Reply:
        try:
            if isinstance(message, Launch):
                self._pool.add(message.job, parent=run)
                return Reply()
        except (ScytheError, OSError) as error:
            return Reply(str(error))
        before, self._waits = self._waits, self._waits + (1 if message.parked else -1)
        if bool(before) != bool(self._waits):
            self._pool.park(parked=message.parked)
        return Reply()

    def _share(self, process: SlotProcess, rows: Range) -> None:
        """Give back what lies behind the spec at hand, for slots that have nothing to do."""
        position, _ = process.now
        limit = position + 1
        if position < 0 or limit >= rows.kept:
            return
        process.gauge.limit = limit
        now_at, _ = process.now
        if now_at == position:  # else the slot moved on, and gives back the rest when it meets the limit
            rows.share(limit)

    def _time_out(self, run: LocalRun, rows: Range, position: int, seconds: float, limit: float) -> None:
        assert self._process is not None
        output = self._process.output()
        self._end_process()
        message = f"stopped after {seconds:.1f} s; execution_timeout is {limit:g} s"
        why = failure("timed_out", "TimeoutError", message, output=output)
        self._fail_spec(run, rows, position, why, seconds)

    def _bury(self, run: LocalRun, rows: Range, death: SlotDiedError) -> None:
        """Find out what killed the process: a spec, or something between specs."""
        if rows.begun and rows.done <= death.position < rows.kept:
            why = failure("crashed", death.cause, death.message, output=death.output)
            self._fail_spec(run, rows, death.position, why, death.seconds)
            return
        with self._pool.changed:
            run.deaths += 1
            hopeless = run.deaths >= _MAX_DEATHS
        if hopeless:
            when = "between specs" if rows.begun else "as they load the experiment"
            self._pool.fail(run, f"worker processes die {when}: {death.message}. Their last output:\n{death.output}")

    def _fail_spec(self, run: LocalRun, rows: Range, position: int, why: dict[str, object], seconds: float) -> None:
        """Record a spec that took its process along; those before it that were not reported are run again."""
        how = task(
            attempts=1, worker=self._worker, host=self._host, started=time.time() - seconds, seconds=seconds,
            peak_memory=0,
        )  # fmt: skip
        outcomes = OutcomeList()
        outcomes.add(rows.first + position, {**why, **how}, ok=False)
        run.recorder.record(outcomes.take(), {})
        rows.lose(position)


def _reason(error: Exception) -> str:
    """Say why a run cannot go on; what nobody expected comes with its traceback."""
    if isinstance(error, LoadError):
        return f"a worker process cannot load the experiment:\n{error}"
    if isinstance(error, ScytheError | OSError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error))
