"""The simulations that `EngineSuite` runs: they do whatever a spec says, the worst included."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from scythe.files import FileReference
from scythe.registry import ExperimentRegistry
from scythe.runs import BaseExperiment
from scythe.settings import ScytheStorageSettings
from scythe.specs import ExperimentInputSpec, ExperimentOutputSpec

Deed = Literal[
    "square", "raise", "raise_unpicklable", "raise_unprintable", "raise_surrogate", "sys_exit", "recurse",
    "return_none", "return_surrogate", "kill", "exit", "segfault", "abort", "sleep", "spin", "fail_twice", "meddle",
    "fork",
]  # fmt: skip


class Trial(ExperimentInputSpec):
    """What to do."""

    x: int = Field(default=0, description="A number to be squared")
    do: Deed = Field(default="square", description="What else to do")
    pause: float = Field(default=0.0, description="How long to sleep or spin [s]")
    text: str = Field(default="", description="What to print before that")
    journal: str | None = Field(default=None, description="A file that gets a line with x when the trial is over")


class TrialResult(ExperimentOutputSpec):
    """What came of it."""

    square: int = Field(..., description="x²")
    label: str = Field(default="", description="A text")


class UnpicklableError(Exception):
    """An exception that does not survive pickling: its facts are keyword-only."""

    def __init__(self, *, where: str, when: str) -> None:
        super().__init__(f"{where}, {when}")


class UnprintableError(Exception):
    """An exception whose message cannot be had."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no message")


def _try(spec: Trial) -> TrialResult:
    if spec.text:
        _print_everywhere(spec.text)
    time.sleep(spec.pause if spec.do != "spin" else 0)
    _do(spec)
    label = "half a character: \ud83d" if spec.do == "return_surrogate" else ""
    _note(spec)
    return TrialResult(square=spec.x**2, label=label)


def _note(spec: Trial) -> None:
    if spec.journal is not None:
        with open(spec.journal, "a") as file:
            file.write(f"{spec.x}\n")


def _do(spec: Trial) -> None:
    match spec.do:
        case "raise":
            raise ValueError(f"x = {spec.x} is out of the question")
        case "raise_unpicklable":
            raise UnpicklableError(where="here", when="now")
        case "raise_unprintable":
            raise UnprintableError
        case "raise_surrogate":
            raise OSError("cannot read caf\udce9.inp")
        case "sys_exit":
            sys.exit("that is all")
        case "recurse":
            _do(spec)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "spin":
            _spin(spec.pause)
        case "fail_twice":
            _fail_twice(spec)
        case "meddle":
            _meddle()
        case "fork":
            subprocess.Popen(["sleep", "1000"])
        case _:
            pass


def _print_everywhere(text: str) -> None:
    print(f"{text} by print")
    print(f"{text} by stderr", file=sys.stderr)
    os.write(1, f"{text} by write\n".encode())
    subprocess.run(["echo", f"{text} by a program"], check=True)


def _spin(seconds: float) -> None:
    """Keep the interpreter lock, as native code does that does not let go of it."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ctypes.PyDLL(None).usleep(200_000)


def _fail_twice(spec: Trial) -> None:
    assert spec.journal is not None
    path = Path(f"{spec.journal}.{spec.x}")
    before = len(path.read_text()) if path.exists() else 0
    path.write_text("x" * (before + 1))
    if before < 2:
        raise RuntimeError(f"failure {before + 1}")


def _meddle() -> None:
    """Leave the process in a mess, as simulators do."""
    os.chdir("/")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.close()
    sys.stderr.close()
    os.close(1)
    os.environ["TMPDIR"] = "/nowhere"


@ExperimentRegistry.Register(name="scythe_testing_trial", retries=0)
def trial(input_spec: Trial) -> TrialResult:
    """Do as the spec says, once."""
    result: Any = None if input_spec.do == "return_none" else _try(input_spec)
    return result  # type: ignore[no-any-return]


@ExperimentRegistry.Register(name="scythe_testing_trial_again", retries=2)
def trial_again(input_spec: Trial) -> TrialResult:
    """Do as the spec says, and twice more if that raises."""
    return _try(input_spec)


@ExperimentRegistry.Register(name="scythe_testing_trial_by_default")
def trial_by_default(input_spec: Trial) -> TrialResult:
    """Do as the spec says, with the retries an experiment has that sets none."""
    return _try(input_spec)


@ExperimentRegistry.Register(name="scythe_testing_hasty_trial", retries=1, execution_timeout="1s")
def hasty_trial(input_spec: Trial) -> TrialResult:
    """Do as the spec says, within a second."""
    return _try(input_spec)


class Document(ExperimentInputSpec):
    """A file to work on."""

    n: int = Field(..., description="How many rows the data frame gets")
    source: FileReference | None = Field(default=None, description="A file to copy from")


class DocumentResult(ExperimentOutputSpec):
    """A file, and a data frame in `dataframes`."""

    characters: int = Field(..., description="How long the file is")
    copy_: FileReference = Field(..., description="The file")


@ExperimentRegistry.Register(name="scythe_testing_copy_document")
def copy_document(input_spec: Document, tempdir: Path) -> DocumentResult:
    """Write a file and return a data frame."""
    import pandas as pd

    text = Path(str(input_spec.source)).read_text() if input_spec.source is not None else f"document {input_spec.n}"
    path = tempdir / "copy.txt"
    path.write_text(text)
    frame = pd.DataFrame({"square": [i**2 for i in range(input_spec.n)]}, index=pd.RangeIndex(input_spec.n, name="i"))
    return DocumentResult(characters=len(text), copy_=path, dataframes={"squares": frame})


class Nest(ExperimentInputSpec):
    """A run within a run."""

    depth: int = Field(..., ge=0, description="How many levels of runs are below")
    width: int = Field(default=2, ge=1, description="How many specs each run has")
    store: str = Field(..., description="The store's URL")
    engine: str = Field(..., description="The engine's name")


class NestResult(ExperimentOutputSpec):
    """What was counted."""

    leaves: int = Field(..., description="How many specs ended below, this one included if it is a leaf")


@ExperimentRegistry.Register(name="scythe_testing_nest", retries=0)
def nest(input_spec: Nest) -> NestResult:
    """Allocate a run of nests, wait for it, and read its table."""
    if input_spec.depth == 0:
        return NestResult(leaves=1)
    below = {"depth": input_spec.depth - 1, "width": input_spec.width}
    here = {"store": input_spec.store, "engine": input_spec.engine}
    experiment: BaseExperiment[Nest, NestResult] = BaseExperiment(
        runnable=nest,
        run_name=f"nests/{input_spec.workflow_run_id}",
        storage_settings=ScytheStorageSettings(URL=input_spec.store),
    )
    run, ref = experiment.allocate([{**below, **here} for _ in range(input_spec.width)], engine=input_spec.engine)
    ref.result()
    return NestResult(leaves=int(run.scalars()["leaves"].sum()))
