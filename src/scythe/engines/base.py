"""The engine port: what runs the specs of a run. Every adapter passes `scythe.testing.EngineSuite`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from scythe.origins import Origin
from scythe.progress import Progress
from scythe.registry import Options
from scythe.tree import RecursionMap


@dataclass(frozen=True)
class Job:
    """A run to be run: pointers and options, as small for ten million specs as for ten.

    Attributes:
        store_url: The store the run is in.
        prefix: The run's prefix there; its specs.pq says what to run.
        total: How many specs it has.
        experiment: The experiment's name.
        origin: Where a worker finds its function.
        options: How it wants to be run.
        levels: Names of the index levels its tables will have.
        file_columns: Columns of specs.pq that hold file references.
        extra_columns: Columns of specs.pq that are not fields of the model.
        output_fields: Columns that tables have even if no spec gives them, by table.
        recursion_map: How to split it over machines, if somebody said.
    """

    store_url: str
    prefix: str
    total: int
    experiment: str
    origin: Origin
    options: Options
    levels: tuple[str, ...]
    file_columns: tuple[str, ...]
    extra_columns: frozenset[str]
    output_fields: Mapping[str, Sequence[str]]
    recursion_map: RecursionMap | None = None


class Engine(ABC):
    """Runs jobs.

    An engine runs the specs of a job that have no outcome in the store yet and writes parts as it goes. When every spec
    has an outcome, it merges the parts into the final tables and closes the run (see `recording.Recorder`). Starting a
    job again is therefore how a run goes on. Whatever a spec does, it ends as one outcome; its neighbours are spared.

    Attributes:
        name: What chooses it (`SCYTHE_ENGINE`, or an argument).
    """

    name: ClassVar[str]

    def check(self) -> None:
        """Raise what would keep any job from being started here; asked before a run is written.

        Raises:
            EngineError: The engine cannot be used.
            SettingsError: A setting of it is wrong.
        """
        return

    @abstractmethod
    def start(self, job: Job) -> None:
        """Begin a job and return.

        Raises:
            EngineError: The job cannot be run here; nothing was begun.
        """

    @abstractmethod
    def stop(self, prefix: str) -> None:
        """Stop a run, and the runs that its tasks have allocated.

        Running specs are ended, the rest is not begun. Finished outcomes are in the store on return.
        """

    @abstractmethod
    def watch(self, prefix: str) -> Progress | None:
        """Say how far a run is that this engine runs in this process, or None where it does not."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wrap a wait for a run; a task that waits gives its slot to others meanwhile."""
        yield
