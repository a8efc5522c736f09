"""The parent's handle on a slot's process: start it, give it a batch, take its outcomes, end it."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from scythe.execution.messages import (
    Batch,
    Broken,
    End,
    Gauge,
    Launch,
    Load,
    Park,
    Ready,
    Reply,
    Report,
    Run,
    Work,
)
from scythe.outcomes import Outcomes

TICK_SECONDS = 0.1
"""How often a parent that waits looks at the time and at what else there is to do."""

_BOOTSTRAP = """\
import sys, json
with open(sys.argv[1]) as file:
    settings = json.load(file)
sys.path[:], sys.argv[:] = settings["path"], settings["argv"]
from scythe.execution.slot import main
main(*settings["slot"])
"""


class SlotDiedError(Exception):
    """The process ended in the middle of something.

    Attributes:
        exit_code: Its exit code; minus the signal's number if one ended it.
        output: The last lines it wrote.
        position: The position of its batch it was at; -1 between batches.
        seconds: For how long it had been there.
    """

    def __init__(self, exit_code: int, output: str, *, position: int, seconds: float) -> None:
        super().__init__(exit_code, output)
        self.exit_code = exit_code
        self.output = output
        self.position = position
        self.seconds = seconds

    @property
    def message(self) -> str:
        """What happened, for people."""
        hint = " (the system may have run out of memory)" if self.exit_code == -signal.SIGKILL else ""
        return f"the worker process died: {self.cause}{hint}"

    @property
    def cause(self) -> str:
        """What ended it, as users know it: `SIGSEGV`, `exit code 3`."""
        if self.exit_code < 0:
            with suppress(ValueError):
                return signal.Signals(-self.exit_code).name
        return f"exit code {self.exit_code}"


class LoadError(Exception):
    """The process cannot load the experiment; the text says why."""


class SlotProcess:
    """One slot's process; for use by one thread."""

    def __init__(self, folder: Path, *, number: int, worker: str) -> None:
        self._log = folder / f"slot-{number}.log"
        gauge_path = folder / f"slot-{number}.gauge"
        gauge_path.write_bytes(bytes(Gauge.SIZE))
        with gauge_path.open("r+b") as file:
            self._buffer = mmap.mmap(file.fileno(), Gauge.SIZE)
        self.gauge = Gauge(self._buffer)
        self._connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        settings_path = folder / f"slot-{number}.json"
        # The script's arguments are there when its module is loaded, as in the process that began.
        settings = {
            "path": [str(entry) for entry in sys.path],
            "argv": sys.argv,
            "slot": [theirs.fileno(), lifeline, str(gauge_path), worker],
        }
        try:
            settings_path.write_text(json.dumps(settings))
            with self._log.open("w+b") as log:
                self._process = subprocess.Popen(
                    [sys.executable, *_interpreter_flags(), "-c", _BOOTSTRAP, str(settings_path)],
                    pass_fds=[theirs.fileno(), lifeline],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except BaseException:
            self._let_go()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        _alive.add(self)
        self._loaded: set[str] = set()
        self._files: dict[str, object] = {}

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def now(self) -> tuple[int, float]:
        """The position it is at (-1 between batches), and for how many seconds it has been."""
        position, since = self.gauge.current
        return position, time.monotonic() - since

    def suits(self, work: Work) -> bool:
        """Tell whether it can load a work as it is now: it has not imported another version of its file."""
        origin = work.origin
        return origin.path is None or self._files.get(origin.path, origin.stamp) == origin.stamp

    def load(self, work: Work, *, on_request: Callable[[Launch | Park], Reply]) -> Iterator[None]:
        """Have the process load an experiment, if it has not yet; yield now and then.

        Raises:
            LoadError: It cannot.
            SlotDiedError: It died of it.
        """
        if work.key in self._loaded:
            return
        self.gauge.begin(-1, time.monotonic())
        self._send(Load(work))
        while True:
            message = self._receive()
            match message:
                case Ready():
                    self._loaded.add(work.key)
                    if work.origin.path is not None:
                        self._files[work.origin.path] = work.origin.stamp
                    return
                case Broken(reason):
                    raise LoadError(reason)
                case Launch() | Park():
                    self._send(on_request(message))
                case None:
                    yield

    def run(self, batch: Batch, *, on_request: Callable[[Launch | Park], Reply]) -> Iterator[Outcomes | End | None]:
        """Run a batch: yield outcomes as they come, None when nothing does for a moment, and at last its end.

        Raises:
            SlotDiedError: The process died.
        """
        self.gauge.begin(-1, time.monotonic())
        self.gauge.limit = len(batch.rows)
        self._send(Run(batch))
        while True:
            message = self._receive()
            match message:
                case Report(outcomes):
                    yield outcomes
                case End():
                    yield message
                    return
                case Launch() | Park():
                    self._send(on_request(message))
                case None:
                    yield None

    def _send(self, message: Any) -> None:
        try:
            self._connection.send_bytes(pickle.dumps(message, protocol=5))
        except OSError:
            raise self._death() from None

    def _receive(self) -> Any:
        """Return the next message, or None if none comes within a tick."""
        try:
            if self._connection.poll(TICK_SECONDS):
                return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._death() from None
        if self._process.poll() is not None and not self._connection.poll(0):
            raise self._death()
        return None

    def _death(self) -> SlotDiedError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self.kill()
        position, seconds = self.now
        return SlotDiedError(self._process.returncode, self.output(), position=position, seconds=seconds)

    def output(self, limit: int = 4096) -> str:
        """Return the last lines that the position at hand wrote."""
        try:
            with self._log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self.gauge.log, end - limit))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def kill(self) -> None:
        """End the process, and what it started, at once."""
        if self._connection.closed:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _alive.discard(self)
        self._let_go()

    def _let_go(self) -> None:
        """Close our ends of the pipes."""
        self._connection.close()
        os.close(self._lifeline)


_alive: set[SlotProcess] = set()


def _forget() -> None:
    """In a forked child: these are the parent's; holding on to them would keep slots alive that have lost it."""
    while _alive:
        _alive.pop()._let_go()


os.register_at_fork(after_in_child=_forget)


def _interpreter_flags() -> list[str]:
    """Return the options this Python was started with: warnings, -X, -O and the like."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]
