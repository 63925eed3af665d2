"""SEED-Bench-R1: evaluate video multimodal LLMs on next-action questions, and compare them honestly.

The Python interface is documented in docs/python.md. Importing the package imports neither torch nor pandas.
"""

from __future__ import annotations

import importlib

__version__ = "0.2.0"

# Public name -> the module that defines it; loaded when it is first asked for.
_HOMES = {
    **dict.fromkeys(
        ("evaluate", "evaluate_samples", "judge", "leaderboard", "train", "load", "Leaderboard"),
        "seedbench_r1.interface",
    ),
    **dict.fromkeys(("Run",), "seedbench_r1.runs.directory"),
    **dict.fromkeys(
        (
            "Question",
            "Generation",
            "Failure",
            "ParsedResponse",
            "Score",
            "Verdict",
            "RunRecord",
            "VideoConfig",
        ),
        "seedbench_r1.types",
    ),
    "RunSummary": "seedbench_r1.scoring",
    "parse_response": "seedbench_r1.parsing",
    "score": "seedbench_r1.kinds",
    "choose_frames": "seedbench_r1.media.frames",
    **dict.fromkeys(("consistency_bonus", "answer_span", "answer_likelihood"), "trainers.consistency"),
    "group_advantages": "trainers.advantages",
    **dict.fromkeys(
        (
            "benjamini_hochberg",
            "cohen_kappa",
            "design_effect",
            "gap_interval",
            "holm",
            "interval",
            "mcnemar",
            "minimum_detectable_effect",
            "sign_flip_test",
            "wilson_interval",
        ),
        "leaderboards.stats",
    ),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
