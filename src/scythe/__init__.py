"""Scythe: from one simulation to a million, and back as tables.

Write typed input and output models, register the simulation, allocate a batch, read tidy tables.

A name is imported from its module when it is first asked for: to import pydantic and build the models takes longer than
everything else, and the command line, say, needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scythe import errors
    from scythe.errors import ScytheError
    from scythe.files import FileReference, OptionalFileReference, S3Url
    from scythe.finding import find_runs, open_run
    from scythe.registry import ExperimentRegistry
    from scythe.runs import BaseExperiment, ExperimentRun, RunRef, ScatterGatherResult, SpecsFailedWarning
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

_HOMES = {
    "scythe.errors": ("ScytheError",),
    "scythe.files": ("FileReference", "OptionalFileReference", "S3Url"),
    "scythe.finding": ("find_runs", "open_run"),
    "scythe.registry": ("ExperimentRegistry",),
    "scythe.runs": ("BaseExperiment", "ExperimentRun", "RunRef", "ScatterGatherResult", "SpecsFailedWarning"),
    "scythe.specs": ("BaseSpec", "ExperimentInputSpec", "ExperimentOutputSpec"),
    "scythe.tree": ("RecursionMap",),
    "scythe.versions": ("SemVer",),
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("scythe.errors")
    for module, names in _HOMES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(module), name))
    raise AttributeError(f"module 'scythe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
