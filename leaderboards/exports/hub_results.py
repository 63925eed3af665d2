"""Export as `.eval_results/*.yaml`, the form in which a model repository on the Hub states its scores. Never pushed.

Format: huggingface.co/docs/hub/eval-results. A data set's tasks show on the Hub once its own repository lists them.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from leaderboards.exports.common import DATASET, Exported, Share, caveat, shares
from leaderboards.provenance import shareable
from seedbench_r1.errors import ConfigError
from seedbench_r1.runs.directory import slug
from seedbench_r1.types import SamplingConfig


def hub_files(
    exported: Exported, out: Path, *, dataset: str | None = None, source_url: str | None = None
) -> dict[Path, str]:
    """The run's YAML by path: out/<model>/.eval_results/seedbench-r1--<protocol id>.yaml; an entry a level, in percent.

    Args:
        exported: the run, by itself.
        out: folder below which the file belongs; nothing is written here.
        dataset: the Hub's id of the data set; SEED-Bench-R1's by default.
        source_url: where the evaluation is published, if it is.

    Raises:
        ConfigError: the run's questions are not as many as SEED-Bench-R1's and no other data set is named, or
            huggingface_hub is too old.
    """
    # The Hub would show a miniature's score as one of SEED-Bench-R1.
    if dataset is None and not exported.is_official:
        raise ConfigError(
            f"{exported.row.run_id} has not SEED-Bench-R1's number of questions, so it may not be published as "
            f"{DATASET}. Fix: --dataset ORG/NAME names the data set that it was measured on."
        )
    # Through the Hub's own classes, so that what is written is what it reads.
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError as error:
        raise ConfigError(
            "The installed huggingface_hub does not know .eval_results. Fix: pip install -U huggingface_hub"
        ) from error
    entries = [
        EvalResultEntry(
            dataset_id=dataset or DATASET,
            task_id=share.group.lower(),
            value=round(100 * share.value, 2),
            date=exported.manifest.completed_utc or exported.manifest.updated_utc,
            source_url=source_url,
            source_name="seedbench-r1" if source_url else None,
            notes=shareable("; ".join(_notes(exported, share))),
        )
        # The format knows one number an entry: levels, not domains or rates of a judge.
        for share in shares(exported)
        if share.metric == "accuracy" and share.domain is None
    ]
    lines = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=120)
    folder = out / slug(exported.row.model) / ".eval_results"
    return {folder / f"seedbench-r1--{exported.row.protocol_id}.yaml": lines}


def _notes(exported: Exported, share: Share) -> list[str]:
    manifest, row = exported.manifest, exported.row
    lo, hi = f"{100 * share.lo:.1f}", f"{100 * share.hi:.1f}"
    notes = [caveat(exported)] if caveat(exported) else []
    # A reader of the Hub sees the value and these notes, nothing else.
    if share.complete:
        notes.append(f"95 % CI {lo}-{hi} (Wilson, clustered by video), n={share.n}")
    else:
        notes.append(f"between {lo} and {hi}, {share.answered} of {share.n} answered")
    notes.append(f"{row.frames} frames, {_sampling(exported.settings.sampling)}")
    notes.append(f"own prompt, protocol {manifest.protocol} {manifest.protocol_id} of seedbench-r1")
    # Not an entry of its own: without its judge the rate means nothing.
    rated = row.consistency.get(share.group)
    if rated is not None and rated.n:
        interval = f"{100 * rated.lo:.1f}-{100 * rated.hi:.1f}"
        notes.append(f"reasoning_consistency {100 * rated.value:.1f} ({interval}) by {row.judge_id}")
    return notes


def _sampling(sampling: SamplingConfig) -> str:
    # Temperature 0 turns the other settings off.
    return "greedy" if sampling.temperature == 0 else f"T={sampling.temperature:g}, top_p={sampling.top_p:g}"
