"""Protocol ids: runs compare if theirs are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from seedbench_r1.types import SamplingConfig, Template, VideoConfig, to_json


def protocol_id(
    template: Template,
    video: VideoConfig,
    sampling: SamplingConfig,
    transport: Mapping[str, Any] | None = None,
    scorer: int | None = None,
) -> str:
    """First 8 hex digits of the hash of all that can change an answer, but for the model, the data and the seed.

    transport: how pixels travel to an API model; None where they do not travel.
    scorer: a number that the suite adds (Suite.scorer).
    """
    # What does not change the distribution of answers stays outside: the seed, and what is returned besides.
    sampled = to_json(sampling)
    for name in ("seed", "logprobs"):
        del sampled[name]
    # The first parser's number for ever: answers are read anew whenever a run is, so that runs of all versions compare.
    shown = to_json(video)
    # Younger than the protocol ids of runs whose frames were sized here.
    if video.preprocess == "ours":
        del shown["preprocess"]
    parts = {"template": to_json(template), "video": shown, "sampling": sampled, "parser": 1}
    if transport is not None:
        parts["transport"] = dict(transport)
    if scorer is not None:
        parts["scorer"] = scorer
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
