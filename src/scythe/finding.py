"""Finding runs in a store: by name, from any process on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scythe.errors import ExperimentNotFoundError, ExperimentRunNotFoundError
from scythe.files import is_url
from scythe.keys import join
from scythe.registry import NAME_PREFIX
from scythe.runs import BaseExperiment, ExperimentRun, UnregisteredRunnable, VersionedExperiment, find_runnable
from scythe.settings import ScytheStorageSettings
from scythe.versions import SemVer, find_version, is_timestamp


def open_run(name: str, *, store: str | Path | None = None) -> ExperimentRun:
    """Open a run that is in a store.

    Args:
        name: `experiment/v1.0.0/timestamp`, `experiment/v1.0.0` (its latest run), `experiment` (the latest run of its
            highest version), or the URL of a run. The prefix `scythe_experiment_` may be left out.
        store: The store's URL or folder; that of the environment where none is given.

    Raises:
        ExperimentNotFoundError: The store has no such experiment.
        ExperimentVersionNotFoundError: The experiment has no such version.
        ExperimentRunNotFoundError: The version has no such run.
    """
    settings = _settings(store)
    base, version, timestamp = _parse_name(name, settings)
    experiment = _open_experiment(base, settings)
    if version is None:
        return experiment.latest_run
    versioned = VersionedExperiment(base_experiment=experiment, version=version)
    if timestamp is None:
        return versioned.latest_run
    run = ExperimentRun(versioned_experiment=versioned, timestamp=timestamp)
    run.manifest()
    return run


def find_runs(name: str | None = None, *, store: str | Path | None = None) -> list[ExperimentRun]:
    """Return the runs of an experiment (or all there are), by version and then by time.

    Args:
        name: The experiment, or `experiment/v1.0.0`.
        store: The store's URL or folder; that of the environment where none is given.
    """
    settings = _settings(store)
    if name is None:
        bases, only = list(_experiment_names(settings)), None
    else:
        base, only, _ = _parse_name(name, settings)
        bases = [base]
    runs = []
    for base in bases:
        try:
            experiment = _open_experiment(base, settings)
        except ExperimentNotFoundError:
            continue
        for version in experiment.list_versions():
            if only in (None, version):
                runs += VersionedExperiment(base_experiment=experiment, version=version).list_runs()
    return runs


def _settings(store: str | Path | None) -> ScytheStorageSettings:
    if store is None:
        return ScytheStorageSettings()
    text = str(store)
    return ScytheStorageSettings(URL=text if is_url(text) else Path(text).expanduser().absolute().as_uri(), BUCKET=None)


def _parse_name(name: str, settings: ScytheStorageSettings) -> tuple[str, SemVer | None, str | None]:
    url = settings.store_url().rstrip("/") + "/"
    if name.startswith(url):
        name = unquote(name[len(url) :])
    elif is_url(name):
        raise ExperimentNotFoundError(name, store=url)
    segments = [segment for segment in name.strip("/").split("/") if segment]
    timestamp = segments.pop() if segments and is_timestamp(segments[-1]) else None
    version = find_version(segments[-1]) if segments else None
    if version is not None:
        segments.pop()
    if timestamp is not None and version is None:
        raise ExperimentRunNotFoundError(name)
    return "/".join(segments), version, timestamp


def _open_experiment(base: str, settings: ScytheStorageSettings) -> BaseExperiment[Any, Any]:
    """Open the experiment whose runs lie under a name, with or without the prefix of names."""
    from scythe.manifest import read_manifest

    for candidate in (base, NAME_PREFIX + base):
        if not base:
            break
        # The runnable is only known once a run's manifest is read; till then it goes by the folder's name.
        experiment: BaseExperiment[Any, Any] = BaseExperiment(
            runnable=UnregisteredRunnable(candidate), run_name=candidate, storage_settings=settings
        )
        version = experiment.latest_version()
        if version is not None:
            run = VersionedExperiment(base_experiment=experiment, version=version).latest_run
            name = read_manifest(run.store, run.keys)["experiment_name"]
            return experiment.model_copy(update={"runnable": find_runnable(name)})
    known = sorted(_experiment_names(settings))
    raise ExperimentNotFoundError(base, store=settings.store_url(), known=known)


def _experiment_names(settings: ScytheStorageSettings) -> Iterator[str]:
    """Yield the folders of a store that hold versions."""
    from scythe.stores import open_store

    store = open_store(settings.store_url())

    def walk(prefix: str) -> Iterator[str]:
        folders = store.list_folders(prefix)
        if any(find_version(folder) is not None for folder in folders):
            yield prefix
        for folder in folders:
            if find_version(folder) is None:
                yield from walk(join(prefix, folder))

    return walk("")
