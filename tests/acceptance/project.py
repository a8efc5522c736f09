"""A user's project in a temporary folder, and what is left of it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import scythe
from scythe import ExperimentRun

TIMEOUT = 120.0
"""Nothing here takes nearly as long; a test that waits for this has found something that hangs."""

MODELS = """
import os, sys, time
from scythe import BaseExperiment, ExperimentInputSpec, ExperimentOutputSpec, ExperimentRegistry

class Design(ExperimentInputSpec):
    x: int

class Result(ExperimentOutputSpec):
    y: int
"""

STUDY = f"""{MODELS}
@ExperimentRegistry.Register()
def simulate(input_spec: Design) -> Result:
    return Result(y=input_spec.x**2)
"""

RUN = """
experiment = BaseExperiment(runnable=simulate)
run, ref = experiment.allocate([Design(x=x) for x in range(20)])
ref.result()
print("squares:", run.scalars()["y"].tolist())
"""

SQUARES = f"squares: {[x**2 for x in range(20)]}"


class Project:
    """A folder with a user's files; everything it starts carries a mark, so that what is left over is found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = f"SCYTHE_TEST_MARK={uuid.uuid4().hex}"
        self._temporary = Path(tempfile.mkdtemp(prefix="s"))  # short: multiprocessing puts sockets there
        self._home = folder / "home"
        self._home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCYTHE_", "PYTEST", "COV"))}
        name, _, value = self._mark.partition("=")
        self.environment = {
            **kept,
            name: value,
            "TMPDIR": str(self._temporary),
            "HOME": str(self._home),
            "SCYTHE_WORKER_SLOTS": "2",
            "PYTHONUNBUFFERED": "1",
            "TERM": "xterm",
            "COLUMNS": "100",
        }
        self._started: list[subprocess.Popen[Any]] = []

    def write(self, name: str, text: str) -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start Python in the folder, in a session of its own."""
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, input: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder to its end, which must be a success unless a code says otherwise."""
        process = self.start(*arguments, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE)
        return self.end(process, input=input, code=code)

    def end(
        self, process: subprocess.Popen[str], *, input: str | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Wait for a process to end."""
        try:
            output, errors = process.communicate(input, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it hangs; so far:\n{error.stdout!r}\n{error.stderr!r}") from None
        assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def read(self, stream: IO[str] | None, text: str) -> str:
        """Read a process's stream until a line has some text in it."""
        assert stream is not None
        seen = ""
        for line in stream:
            seen += line
            if text in line:
                return seen
        raise AssertionError(f"it ended without a line with {text!r}:\n{seen}")

    def open_run(self) -> ExperimentRun:
        """Open the latest run of the experiment that all these projects have."""
        return scythe.open_run("simulate", store=self.folder / "scythe-runs")

    def processes(self) -> list[int]:
        """Return the processes that were started from here and are alive."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if self._mark.encode() in environment and state != "Z":
                found.append(int(folder.name))
        return found

    def temporary_files(self) -> list[str]:
        """Return what lies in the folder of temporary files that is Scythe's."""
        return [path.name for path in self._temporary.iterdir() if path.name.startswith("scythe-")]

    def assert_clean(self) -> None:
        """Make sure that nothing is left over."""
        until(lambda: not self.processes())
        assert self.temporary_files() == []

    def forgive_temporary_files(self) -> None:
        """Remove what nobody was left to remove."""
        for name in self.temporary_files():
            shutil.rmtree(self._temporary / name)

    def end_all(self) -> None:
        """End what is alive."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._temporary, ignore_errors=True)


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < ends, "this takes too long"
        time.sleep(0.02)
