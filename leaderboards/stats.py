"""The statistics of the leaderboard under one name. Pure functions of counts and arrays; see docs/statistics.md."""

from leaderboards.proportions import (
    FEW_CLUSTERS,
    StandardErrors,
    Z,
    clopper_pearson,
    design_effect,
    effective_sample_size,
    gap_interval,
    grim_counts,
    planned_design_effect,
    standard_errors,
    wilson_interval,
)

__all__ = [
    "FEW_CLUSTERS",
    "StandardErrors",
    "Z",
    "clopper_pearson",
    "design_effect",
    "effective_sample_size",
    "gap_interval",
    "grim_counts",
    "planned_design_effect",
    "standard_errors",
    "wilson_interval",
]
