"""The import path of 1.x for `scythe.specs`; nothing else."""

from scythe.specs import BaseSpec, ComputedFeatureValue, ExperimentInputSpec, ExperimentOutputSpec

__all__ = ["BaseSpec", "ComputedFeatureValue", "ExperimentInputSpec", "ExperimentOutputSpec"]
