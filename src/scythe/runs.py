"""Runs: allocate, follow, resume, collect. The one place that knows registry, store and engine.

An experiment is a registered function under a name; its runs lie in a store under `<name>/<version>/<timestamp>`. Every
method of a run works from the store alone, in any process on any machine.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic

from pydantic import (
    AliasChoices,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from typing_extensions import TypeVar

from scythe.display import ProgressBar, say, say_stopped
from scythe.engines.base import Engine
from scythe.errors import (
    AllSpecsFailedError,
    ExperimentNotFoundError,
    ExperimentRunNotFoundError,
    ExperimentTypeNotFound,
    ExperimentVersionNotFoundError,
    ObjectNotFoundError,
    RegistrationError,
    RunFailedError,
    RunIncompleteError,
    SpecError,
)
from scythe.files import S3Url
from scythe.keys import RunKeys, check_key, join, run_prefix
from scythe.origins import stop_if_loading
from scythe.outcomes import ERRORS, FILES, RESERVED_TABLES, SCALARS, TASKS
from scythe.progress import Progress
from scythe.registry import Experiment, ExperimentRegistry
from scythe.settings import ScytheStorageSettings, progress_style
from scythe.specs import ExperimentInputSpec, ExperimentOutputSpec
from scythe.tree import RecursionMap
from scythe.versions import (
    SemVer,
    VersioningStrategy,
    find_version,
    is_timestamp,
    next_version,
    parse_timestamp,
)

if TYPE_CHECKING:
    import pandas as pd

    from scythe.allocation import Specs
    from scythe.stores import Store

In = TypeVar("In", bound=ExperimentInputSpec, default=ExperimentInputSpec)
Out = TypeVar("Out", bound=ExperimentOutputSpec, default=ExperimentOutputSpec)

_POLL_SECONDS = (0.02, 1.0)
_told_of_default_folder = False


class SpecsFailedWarning(UserWarning):
    """Some specs of a run failed; the rest have results."""


class UnregisteredRunnable:
    """Stands for an experiment whose module is not imported here: its runs can be read, but none allocated.

    Attributes:
        name: The name it is registered under elsewhere.
    """

    def __init__(self, name: str) -> None:
        self.name = name


def find_runnable(value: Any) -> Any:
    """Return what is registered under a name, or something that stands for it; a registered object stays itself."""
    if not isinstance(value, str):
        if not isinstance(getattr(value, "name", None), str):
            raise ValueError(
                f"runnable is {value!r}, which is not registered; decorate the function with "
                "@ExperimentRegistry.Register() and pass it, or its name"
            )
        return value
    try:
        return ExperimentRegistry.get_runnable(value)
    except ExperimentTypeNotFound:
        return UnregisteredRunnable(value)


Runnable = Annotated[
    Any,
    BeforeValidator(find_runnable),
    PlainSerializer(lambda runnable: runnable.name, return_type=str),
    WithJsonSchema({"type": "string"}),
]


class SerializableRunnable(BaseModel):
    """A model with a registered experiment as a field, which travels by its name."""

    runnable: Runnable


class BaseExperiment(BaseModel, Generic[In, Out]):
    """A registered function under a name, in a store.

    Attributes:
        runnable: What `@ExperimentRegistry.Register()` returned, or its name.
        run_name: The folder of its runs; the runnable's name where none is given. It may contain `/`.
        storage_settings: Where runs are kept.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, validate_by_name=True)

    runnable: Runnable = Field(validation_alias=AliasChoices("runnable", "experiment"))
    run_name: str | None = None
    storage_settings: ScytheStorageSettings = Field(default_factory=ScytheStorageSettings)

    @property
    def base_id(self) -> str:
        """The folder of all its runs."""
        return check_key(self.run_name or self.runnable.name)

    @property
    def prefix(self) -> str:
        """The prefix of all its keys."""
        return self.base_id

    @property
    def store(self) -> Store:
        """The store its runs are in."""
        from scythe.stores import open_store

        return open_store(self.storage_settings.store_url())

    def allocate(
        self,
        specs: Specs,
        version: VersioningStrategy | SemVer = "bumpmajor",
        overwrite_sort_index: bool = True,
        overwrite_experiment_id: bool = True,
        recursion_map: RecursionMap | None = None,
        s3_client: object | None = None,
        *,
        engine: str | Engine | None = None,
        wait: bool | None = None,
    ) -> tuple[ExperimentRun, RunRef]:
        """Validate a batch, write it to the store and start it.

        Nothing is written or started unless every row is valid. Spec objects are changed in place: they get the run's
        id, their sort index, their own id, and URLs for the local files they refer to.

        Args:
            specs: A list or iterable of specs or dicts, a DataFrame, an Arrow table, the path of a Parquet or CSV
                file, or one spec.
            version: How the run's version follows from the last one, or the version itself.
            overwrite_sort_index: Number the specs from 0 in the order given; else they are put in order of theirs.
            overwrite_experiment_id: Put the run's id into the specs.
            recursion_map: How an engine of many machines splits the run; computed where none is given.
            s3_client: Not used; 1.x had it.
            engine: What runs it: `local`, `inline`; `SCYTHE_ENGINE` or the embedded engine where none is given.
            wait: Wait until the run has ended before returning.

        Returns:
            The run, and a reference whose `result()` waits for it.

        Raises:
            InvalidSpecsError: Rows are not valid; all of them are named.
            InvalidColumnsError: A table's columns are not the fields of the input model.
            SpecError: There are no specs, or the function cannot reach a worker process.
        """
        stop_if_loading()
        del s3_client
        from scythe.allocation import validate_specs
        from scythe.engines import open_engine
        from scythe.launching import Numbering, build_job, claim_run, write_run

        experiment = self._experiment()
        chosen = open_engine(engine)
        chosen.check()
        progress_style()
        experiment.origin()  # refuses what cannot run before anything is written
        next_version(SemVer(1), version)  # refuses an unknown strategy
        store = self.store
        self._say_where()
        single = isinstance(specs, BaseModel)
        with tempfile.TemporaryDirectory(prefix="scythe-allocate-") as folder:
            validated = validate_specs(
                specs, experiment.input_type, Path(folder), fetches_files=experiment.options.auto_fetch_files
            )
            number = next_version(self.latest_version(), version)
            claim = claim_run(
                store, self.base_id, number, experiment=experiment, engine=chosen.name, total=validated.total
            )
            manifest = write_run(
                store,
                claim,
                validated,
                experiment,
                folder=Path(folder),
                originals=[specs] if single else specs if isinstance(specs, list | tuple) else [],
                single=single,
                numbering=Numbering(
                    sort_index=overwrite_sort_index,
                    experiment_id=overwrite_experiment_id,
                    spec_ids=experiment.options.inject_workflow_run_id,
                ),
                recursion_map=recursion_map,
            )
        settled = self.model_copy(update={"storage_settings": ScytheStorageSettings(URL=store.url, BUCKET=None)})
        run = ExperimentRun(
            versioned_experiment=VersionedExperiment(base_experiment=settled, version=number), timestamp=claim.timestamp
        )
        job = build_job(store, claim.prefix, manifest, experiment)
        chosen.start(job)
        ref = RunRef(run, str(manifest["workflow_run_id"]), chosen)
        if wait:
            run.wait()
        return run, ref

    def list_versions(self) -> list[SemVer]:
        """Return the versions that have runs, lowest first."""
        versions = map(find_version, self.store.list_folders(self.base_id))
        return sorted(v for v in versions if v is not None)

    def latest_version(self, from_cache: bool = False) -> SemVer | None:
        """Return the highest version, or None if there is none.

        Args:
            from_cache: Not used; the store is always asked. 1.x had it.
        """
        del from_cache
        versions = self.list_versions()
        return versions[-1] if versions else None

    @property
    def latest_run(self) -> ExperimentRun:
        """The latest run of the highest version.

        Raises:
            ExperimentNotFoundError: There is none.
        """
        version = self.latest_version()
        if version is None:
            raise ExperimentNotFoundError(self.base_id, store=self.store.url)
        return VersionedExperiment(base_experiment=self, version=version).latest_run

    @property
    def latest_results(self) -> dict[str, str]:
        """The URLs of the latest run's tables, by name."""
        return self.latest_run.results()

    def latest_results_for_version(self, version: SemVer) -> dict[str, str]:
        """Return the URLs of the tables of the latest run of a version, by name."""
        return VersionedExperiment(base_experiment=self, version=version).latest_run_results

    def _experiment(self) -> Experiment[Any, Any]:
        if isinstance(self.runnable, UnregisteredRunnable):
            raise ExperimentTypeNotFound(self.runnable.name, known=[e.name for e in ExperimentRegistry.experiments()])
        if not isinstance(self.runnable, Experiment):
            raise RegistrationError(
                f"{self.runnable.name} is a Hatchet workflow; the embedded engine runs functions registered with "
                "@ExperimentRegistry.Register()."
            )
        return self.runnable

    def _say_where(self) -> None:
        global _told_of_default_folder
        if not self.storage_settings.chosen and not _told_of_default_folder:
            _told_of_default_folder = True
            say("Scythe keeps runs in ./scythe-runs; set SCYTHE_STORAGE_URL to keep them somewhere else.")


class VersionedExperiment(BaseModel):
    """One version of an experiment.

    Attributes:
        base_experiment: The experiment.
        version: The version.
    """

    base_experiment: BaseExperiment[Any, Any]
    version: SemVer

    @property
    def prefix(self) -> str:
        """The prefix of all its keys."""
        return join(self.base_experiment.prefix, str(self.version))

    def list_runs(self) -> list[ExperimentRun]:
        """Return its runs, oldest first."""
        names = filter(is_timestamp, self.base_experiment.store.list_folders(self.prefix))
        return [ExperimentRun(versioned_experiment=self, timestamp=name) for name in sorted(names, key=parse_timestamp)]

    @property
    def latest_run(self) -> ExperimentRun:
        """Its latest run.

        Raises:
            ExperimentVersionNotFoundError: It has none.
        """
        runs = self.list_runs()
        if not runs:
            known = list(map(str, self.base_experiment.list_versions()))
            raise ExperimentVersionNotFoundError(self.base_experiment.base_id, str(self.version), known=known)
        return runs[-1]

    @property
    def latest_run_results(self) -> dict[str, str]:
        """The URLs of the latest run's tables, by name."""
        return self.latest_run.results()


class ExperimentRun(BaseModel):
    """One run: a batch of specs of one version, launched at one time.

    Attributes:
        versioned_experiment: The experiment and its version.
        timestamp: When it was allocated, as its folder is called.
    """

    versioned_experiment: VersionedExperiment
    timestamp: str

    # ------------------------------------------------------------------------------------------------------ identity

    @property
    def experiment_id(self) -> str:
        """The run's id, which is the prefix of its keys: `<name>/<version>/<timestamp>`."""
        return run_prefix(
            self.versioned_experiment.base_experiment.base_id,
            self.versioned_experiment.version,
            self.timestamp,
        )

    @property
    def prefix(self) -> str:
        """The prefix of its keys."""
        return self.experiment_id

    @property
    def store(self) -> Store:
        """The store it is in."""
        return self.versioned_experiment.base_experiment.store

    @property
    def keys(self) -> RunKeys:
        """Its keys."""
        return RunKeys(self.prefix)

    @property
    def scalars_filekey(self) -> str:
        """The key of the table of scalars."""
        return self.keys.table(SCALARS)

    @property
    def specs_filekey(self) -> str:
        """The key of the specs."""
        return self.keys.specs

    @property
    def manifest_filekey(self) -> str:
        """The key of the manifest."""
        return self.keys.manifest

    @property
    def io_spec_filekey(self) -> str:
        """The key of the schema of input and output."""
        return self.keys.io_spec

    @property
    def input_artifacts_filekey(self) -> str:
        """The key of the list of uploaded input files."""
        return self.keys.input_artifacts

    @property
    def workflow_spec_filekey(self) -> str:
        """The key of the spec of a single-spec run."""
        return self.keys.workflow_spec

    @property
    def final_results_dirkey(self) -> str:
        """The folder of the final tables."""
        return self.keys.final

    def as_uri(self, key: str) -> str:
        """Return the URL of one of its keys."""
        return self.store.object_url(key)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest: identity, time, provenance and counts."""
        from scythe.manifest import read_manifest

        try:
            return read_manifest(self.store, self.keys)
        except ObjectNotFoundError as error:
            known = [run.timestamp for run in self.versioned_experiment.list_runs()]
            raise ExperimentRunNotFoundError(self.experiment_id, known=known) from error

    # --------------------------------------------------------------------------------------------------------- follow

    def progress(self) -> Progress:
        """Say how far the run is, from the store alone."""
        from scythe.recording import read_progress

        return read_progress(self.store, self.keys, int(self.manifest()["total"]))

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait until the run has ended, and show its progress.

        Ctrl-C stops the run, if this process runs it; what has finished is kept, and `resume` goes on. Failed specs are
        counted in a warning.

        Args:
            timeout: For how many seconds at most.

        Raises:
            TimeoutError: It has not ended by then; it goes on.
        """
        progress = self._wait(self._engine(), timeout)
        if progress.state == "finished" and progress.failed:
            self._warn_of_failures(progress)
        return progress

    def _wait(self, engine: Engine, timeout: float | None = None) -> Progress:
        try:
            with engine.waiting(), ProgressBar() as bar:
                return self._follow(engine, bar, timeout)
        except KeyboardInterrupt:
            self._interrupt(engine)
            raise

    def _warn_of_failures(self, progress: Progress) -> None:
        warnings.warn(
            f"{progress.failed:,} of {progress.total:,} specs of {self.experiment_id} failed; the first: "
            f"{self._first_failure()}. run.errors() has them all.",
            SpecsFailedWarning,
            stacklevel=3,
        )

    def _first_failure(self) -> str:
        first = self.errors().iloc[0]
        return f"{first['type']}: {first['message']}"

    def _follow(self, engine: Engine, bar: ProgressBar, timeout: float | None) -> Progress:
        shortest, longest = _POLL_SECONDS
        pause, deadline = shortest, None if timeout is None else time.monotonic() + timeout
        while True:
            here = engine.watch(self.prefix)
            progress = here or self.progress()
            bar.show(self.experiment_id, progress)
            if progress.ended:
                return progress
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{self.experiment_id} has not ended after {timeout:g} s: {progress.done + progress.failed:,} of "
                    f"{progress.total:,} specs have. It goes on; wait again, or read what is there with partial=True."
                )
            time.sleep(pause)
            pause = min(0.1 if here else longest, pause * 1.5)

    def _interrupt(self, engine: Engine) -> None:
        if engine.watch(self.prefix) is None:
            say(f"\nNo longer waiting for {self.experiment_id}; it goes on where it runs.")
            return
        engine.stop(self.prefix)
        say_stopped(self.experiment_id, self.progress())

    def _engine(self) -> Engine:
        from scythe.engines import open_engine

        return open_engine(str(self.manifest()["engine"]))

    def resume(self, *, engine: str | Engine | None = None) -> RunRef:
        """Go on with a run that was interrupted: run the specs that have no outcome.

        The module that registers the experiment must be imported.

        Raises:
            ExperimentTypeNotFound: It is not.
        """
        stop_if_loading()
        from scythe.engines import open_engine
        from scythe.launching import build_job

        manifest = self.manifest()
        if manifest["state"] == "allocating":
            raise SpecError(f"{self.experiment_id} was interrupted while it was allocated; allocate its specs again.")
        experiment = self.versioned_experiment.base_experiment._experiment()
        chosen = open_engine(engine or str(manifest["engine"]))
        chosen.start(build_job(self.store, self.prefix, manifest, experiment))
        return RunRef(self, str(manifest["workflow_run_id"]), chosen)

    # -------------------------------------------------------------------------------------------------------- results

    def list_results_files(self) -> list[str]:
        """Return the keys of the final tables."""
        return [entry.key for entry in self.store.list_objects(self.keys.final)]

    def results(self) -> dict[str, str]:
        """Return the URLs of the result tables by name: scalars, files and data frames."""
        start = len(self.keys.final) + 1
        names = {key[start:].removesuffix(".pq"): key for key in self.list_results_files()}
        return {name: self.as_uri(key) for name, key in names.items() if name not in (ERRORS, TASKS)}

    def scalars(self, partial: bool = False) -> pd.DataFrame:
        """Return the scalar outputs: a row for every spec that succeeded.

        Args:
            partial: Return what is there while the run is going on, with the final columns and index.

        Raises:
            RunIncompleteError: The run has no final tables yet, and `partial` is not set.
            TableClashError: Specs gave values of types that do not go together in one column.
        """
        return self._table(SCALARS, partial=partial)

    def files(self, partial: bool = False) -> pd.DataFrame:
        """Return the URLs of output files: a row for every spec that succeeded; see `scalars`."""
        return self._table(FILES, partial=partial)

    def errors(self, partial: bool = False) -> pd.DataFrame:
        """Return the failures: a row for every spec that failed, with what it raised and where; see `scalars`."""
        return self._table(ERRORS, partial=partial)

    def tasks(self, partial: bool = False) -> pd.DataFrame:
        """Return how specs were run: a row for every spec that has ended; see `scalars`."""
        return self._table(TASKS, partial=partial)

    def frame(self, name: str, partial: bool = False) -> pd.DataFrame:
        """Return the data frames of one name, concatenated, under the specs' index levels and their own.

        Raises:
            KeyError: No spec gave such a frame.
        """
        names = self.frame_names()
        if name not in names or name in RESERVED_TABLES:
            raise KeyError(
                f"no spec of {self.experiment_id} gave a data frame {name!r} (there are: {', '.join(names) or 'none'})"
            )
        return self._table(name, partial=partial)

    def frames(self, partial: bool = False) -> dict[str, pd.DataFrame]:
        """Return the concatenated data frames of every name."""
        return {name: self.frame(name, partial=partial) for name in self.frame_names()}

    def frame_names(self) -> list[str]:
        """Return the names of the data frames that specs gave."""
        from scythe.gathering import frame_names

        return frame_names(self.store, self.keys)

    def specs(self) -> pd.DataFrame:
        """Return the specs: a plain index, and a column for every field."""
        from scythe.gathering import read_parquet
        from scythe.tables import specs_frame

        self.manifest()
        frame: pd.DataFrame = specs_frame(read_parquet(self.store, self.keys.specs))
        return frame

    def _table(self, name: str, *, partial: bool) -> pd.DataFrame:
        from scythe.gathering import Gatherer, read_parquet

        store, manifest = self.store, self.manifest()
        if manifest["state"] == "finished":
            with suppress(ObjectNotFoundError):  # an empty table is not written
                return _to_frame(read_parquet(store, self.keys.table(name)))
        elif not partial:
            if manifest["state"] == "failed":
                raise RunFailedError(self.experiment_id, manifest.get("error", "unknown"))
            progress = self.progress()
            raise RunIncompleteError(
                self.experiment_id, done=progress.done, failed=progress.failed, total=progress.total
            )
        for _ in range(20):
            with suppress(ObjectNotFoundError):  # a part that grows was written anew while we read
                return _to_frame(Gatherer(store, self.keys, output_fields=manifest["outputs"]).read(name))
        raise RunFailedError(self.experiment_id, "its parts change faster than they can be read; try again")


def _to_frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


class ScatterGatherResult(BaseModel):
    """What a run has come to.

    Attributes:
        uris: The URLs of its result tables by name.
    """

    uris: dict[str, AnyUrl]


class RunRef:
    """A reference to a run that was started.

    Attributes:
        run: The run.
        workflow_run_id: Its id.
    """

    def __init__(self, run: ExperimentRun, workflow_run_id: str, engine: Engine) -> None:
        self.run = run
        self.workflow_run_id = workflow_run_id
        self._engine = engine

    def result(self) -> ScatterGatherResult:
        """Wait for the run, showing its progress, and return its tables' URLs.

        Failed specs are counted in a warning.

        Raises:
            RunFailedError: The run ended without final tables.
            AllSpecsFailedError: Not one spec succeeded.
        """
        progress = self.run._wait(self._engine)
        if progress.state != "finished":
            reason = progress.error or "it was interrupted"
            raise RunFailedError(self.run.experiment_id, reason)
        if progress.failed and progress.done:
            self.run._warn_of_failures(progress)
        if progress.done == 0:
            raise AllSpecsFailedError(self.run.experiment_id, total=progress.total, example=self.run._first_failure())
        uris = {name: S3Url(u) if u.startswith("s3://") else AnyUrl(u) for name, u in self.run.results().items()}
        return ScatterGatherResult(uris=uris)

    async def aio_result(self) -> ScatterGatherResult:
        """Do as `result` does, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.result)

    def __repr__(self) -> str:
        """Show which run it is."""
        return f"<reference to run {self.run.experiment_id}>"
