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
from dataclasses import dataclass
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
sys.path[:] = json.loads(sys.argv[1])
from scythe.execution.slot import main
main(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:7])
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
    def cause(self) -> str:
        """What ended it, as users know it: `SIGSEGV`, `exit code 3`."""
        if self.exit_code < 0:
            with suppress(ValueError):
                return signal.Signals(-self.exit_code).name
        return f"exit code {self.exit_code}"


class LoadError(Exception):
    """The process cannot load the experiment; the text says why."""


@dataclass(frozen=True)
class Tick:
    """Nothing came for a moment: the position the slot is at, and for how many seconds it has been."""

    position: int
    seconds: float


class SlotProcess:
    """One slot's process. To be used, and kept, by the thread that made it: the process ends with that thread."""

    def __init__(self, folder: Path, *, number: int, worker: str) -> None:
        self._log = folder / f"slot-{number}.log"
        gauge_path = folder / f"slot-{number}.gauge"
        gauge_path.write_bytes(bytes(Gauge.SIZE))
        with gauge_path.open("r+b") as file:
            self._buffer = mmap.mmap(file.fileno(), Gauge.SIZE)
        self.gauge = Gauge(self._buffer)
        self._connection, theirs = Pipe()
        arguments = [
            json.dumps(sys.path),
            str(theirs.fileno()),
            str(os.getpid()),
            str(gauge_path),
            str(self._log),
            worker,
        ]
        self._process = subprocess.Popen(
            [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _BOOTSTRAP, *arguments],  # type: ignore[attr-defined]
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._loaded: set[str] = set()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def load(self, work: Work) -> None:
        """Have the process load an experiment, if it has not yet.

        Raises:
            LoadError: It cannot.
            SlotDiedError: It died of it.
        """
        if work.key in self._loaded:
            return
        self._send(Load(work))
        while True:
            match self._receive():
                case Ready():
                    self._loaded.add(work.key)
                    return
                case Broken(reason):
                    raise LoadError(reason)

    def run(self, batch: Batch, *, on_request: Callable[[Launch | Park], Reply]) -> Iterator[Outcomes | Tick | End]:
        """Run a batch: yield outcomes as they come, a tick when nothing does, and at last its end.

        Raises:
            SlotDiedError: The process died; `gauge.current` tells at which position.
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
                    position, since = self.gauge.current
                    yield Tick(position, time.monotonic() - since)

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
        position, since = self.gauge.current
        return SlotDiedError(
            self._process.returncode, self.output(), position=position, seconds=time.monotonic() - since
        )

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
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
