"""The import path of 1.x for `scythe.tree` and `scythe.runs.ScatterGatherResult`; nothing else."""

from scythe.runs import ScatterGatherResult
from scythe.tree import RecursionMap

__all__ = ["RecursionMap", "ScatterGatherResult"]
