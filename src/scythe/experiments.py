"""The import path of 1.x for `scythe.runs` and `scythe.versions`; nothing else."""

from scythe.errors import (
    DuplicateInputArtifactsError,
    ExperimentNotFoundError,
    ExperimentRunNotFoundError,
    ExperimentSpecsMismatchError,
    ExperimentVersionNotFoundError,
)
from scythe.runs import BaseExperiment, ExperimentRun, SerializableRunnable, VersionedExperiment
from scythe.versions import SemVer

__all__ = [
    "BaseExperiment",
    "DuplicateInputArtifactsError",
    "ExperimentNotFoundError",
    "ExperimentRun",
    "ExperimentRunNotFoundError",
    "ExperimentSpecsMismatchError",
    "ExperimentVersionNotFoundError",
    "SemVer",
    "SerializableRunnable",
    "VersionedExperiment",
]
