"""Scythe: from one simulation to a million, and back as tables.

Write typed input and output models, register the simulation, allocate a batch, read tidy tables.
"""

from scythe import errors
from scythe.errors import ScytheError
from scythe.files import FileReference, OptionalFileReference, S3Url
from scythe.finding import find_runs, open_run
from scythe.registry import ExperimentRegistry
from scythe.runs import (
    BaseExperiment,
    ExperimentRun,
    RunRef,
    ScatterGatherResult,
    SpecsFailedWarning,
)
from scythe.specs import BaseSpec, ExperimentInputSpec, ExperimentOutputSpec
from scythe.tree import RecursionMap
from scythe.versions import SemVer

__all__ = [
    # write
    "BaseSpec",
    "ExperimentInputSpec",
    "ExperimentOutputSpec",
    "FileReference",
    "OptionalFileReference",
    "S3Url",
    # register and allocate
    "BaseExperiment",
    "ExperimentRegistry",
    "RecursionMap",
    "SemVer",
    # follow and read
    "ExperimentRun",
    "RunRef",
    "ScatterGatherResult",
    "find_runs",
    "open_run",
    # when something is wrong
    "ScytheError",
    "SpecsFailedWarning",
    "errors",
]
