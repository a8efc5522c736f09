"""Launching: from a validated batch to a run directory that an engine can start from."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AnyUrl

from scythe.allocation import ValidatedSpecs, write_specs
from scythe.engines.base import Job
from scythe.files import S3Url, is_url
from scythe.gathering import SpecTable
from scythe.keys import RunKeys, run_prefix
from scythe.manifest import provenance, render_time, render_yaml
from scythe.outcomes import FILES, SCALARS
from scythe.registry import Experiment
from scythe.schemas import io_schema
from scythe.specs import ExperimentInputSpec, file_fields, spec_id
from scythe.stores import Store
from scythe.transfer import Uploader
from scythe.tree import RecursionMap
from scythe.versions import SemVer, render_timestamp


@dataclass(frozen=True)
class Claim:
    """A run directory that is ours.

    Attributes:
        timestamp: The run's name under its version.
        prefix: The prefix of its keys.
        manifest: Its manifest as written so far.
    """

    timestamp: str
    prefix: str
    manifest: Mapping[str, Any]


def claim_run(
    store: Store, base: str, version: SemVer, *, experiment: Experiment[Any, Any], engine: str, total: int
) -> Claim:
    """Take a run directory that nobody else has: whoever creates its manifest has it.

    Args:
        store: Where.
        base: The folder of the experiment's runs.
        version: The run's version.
        experiment: What it runs.
        engine: The engine's name.
        total: How many specs it has.
    """
    now = datetime.now()
    attempt = 0
    while True:
        timestamp = render_timestamp(now, attempt)
        prefix = run_prefix(base, version, timestamp)
        keys = RunKeys(prefix)
        manifest = {
            "workflow_run_id": str(uuid.uuid4()),
            "experiment_id": prefix,
            "experiment_name": experiment.name,
            "specs_uri": store.object_url(keys.specs),
            "io_spec": store.object_url(keys.io_spec),
            "input_artifacts": None,
            "version": str(version),
            "timestamp": timestamp,
            "created": render_time(datetime.now(UTC)),
            "engine": engine,
            "total": total,
            "state": "allocating",
        }
        if store.create(keys.manifest, render_yaml(manifest)):
            return Claim(timestamp, prefix, manifest)
        attempt += 1


@dataclass(frozen=True)
class Numbering:
    """Which ids a run puts into its specs.

    Attributes:
        sort_index: Number the specs from 0 in the order given; else they are put in order of theirs.
        experiment_id: Put the run's id into them.
        spec_ids: Give each its own id.
    """

    sort_index: bool
    experiment_id: bool
    spec_ids: bool


def write_run(
    store: Store,
    claim: Claim,
    validated: ValidatedSpecs,
    experiment: Experiment[Any, Any],
    *,
    folder: Path,
    originals: Sequence[Any],
    single: bool,
    numbering: Numbering,
    recursion_map: RecursionMap | None,
) -> Mapping[str, Any]:
    """Write everything of a run that is known before it starts, and return its manifest.

    Args:
        store: Where the run is.
        claim: Its directory.
        validated: Its specs.
        experiment: What it runs.
        folder: A temporary folder.
        originals: The user's own spec objects, to be changed in place.
        single: Whether there is one spec, given as such.
        numbering: Which ids the specs get.
        recursion_map: How to split the run over machines, if somebody said.
    """
    keys = RunKeys(claim.prefix)
    root_id = str(claim.manifest["workflow_run_id"])
    uploader = Uploader(store, claim.prefix)
    urls = {
        name: {text: uploader.upload(name, path).url for text, path in paths.items()}
        for name, paths in validated.files.items()
    }
    write_specs(
        validated,
        folder / "specs.pq",
        experiment_id=claim.prefix,
        root_id=root_id,
        urls=urls,
        overwrite_sort_index=numbering.sort_index,
        overwrite_experiment_id=numbering.experiment_id,
        inject_ids=numbering.spec_ids,
    )
    store.put(keys.specs, folder / "specs.pq")
    store.put(keys.io_spec, render_yaml(io_schema(experiment.input_type, experiment.output_type)))
    artifacts = uploader.by_field()
    if artifacts:
        found = {name: [vars(artifact) for artifact in listed] for name, listed in artifacts.items()}
        store.put(keys.input_artifacts, render_yaml(found))
    for row, spec in enumerate(originals):
        if isinstance(spec, ExperimentInputSpec):
            _update_in_place(spec, row, claim.prefix, root_id, urls, numbering)
    if single:
        store.put(keys.workflow_spec, render_yaml(originals[0].model_dump(mode="json", exclude={"storage_settings"})))
    source = inspect.getsourcefile(experiment.function)
    outputs = file_fields(experiment.output_type)
    scalars = [name for name in experiment.output_type.model_fields if name not in {*outputs, "dataframes"}]
    manifest = {
        **claim.manifest,
        "input_artifacts": store.object_url(keys.input_artifacts) if artifacts else None,
        "state": "allocated",
        "recursion_map": recursion_map.model_dump() if recursion_map is not None else None,
        "outputs": {SCALARS: scalars, FILES: list(outputs)},
        "files": list(file_fields(experiment.input_type)),
        "extra": sorted(validated.extra_columns(experiment.input_type)),
        "final": store.object_url(keys.final),
        "provenance": provenance(Path(source) if source else None),
    }
    manifest = {name: value for name, value in manifest.items() if value is not None}
    store.put(keys.manifest, render_yaml(manifest))
    return manifest


def _update_in_place(
    spec: ExperimentInputSpec,
    row: int,
    experiment_id: str,
    root_id: str,
    urls: Mapping[str, Mapping[str, str]],
    numbering: Numbering,
) -> None:
    """Change a user's spec as 1.x does; past its validators, which have nothing to say about ids."""
    data = spec.__dict__
    data["root_workflow_run_id"] = root_id
    if numbering.experiment_id:
        data["experiment_id"] = experiment_id
    if numbering.sort_index:
        data["sort_index"] = row
        if numbering.spec_ids:
            data["workflow_run_id"] = spec_id(root_id, row)
    for name, by_path in urls.items():
        reference = data[name]
        if reference is not None and not is_url(reference):
            url = by_path[str(reference)]
            data[name] = S3Url(url) if url.startswith("s3://") else AnyUrl(url)


def build_job(store: Store, prefix: str, manifest: Mapping[str, Any], experiment: Experiment[Any, Any]) -> Job:
    """Return what an engine needs to start a run, or to go on with it."""
    with SpecTable(store, RunKeys(prefix)) as specs:
        levels, total = tuple(specs.level_names), specs.total
    tree = manifest.get("recursion_map")
    return Job(
        store_url=store.url,
        prefix=prefix,
        total=total,
        experiment=experiment.name,
        origin=experiment.origin(),
        options=experiment.options,
        levels=levels,
        file_columns=tuple(manifest["files"]),
        extra_columns=frozenset(manifest["extra"]),
        output_fields=manifest["outputs"],
        recursion_map=RecursionMap(**tree) if tree else None,
    )
