"""The benchmark itself, L1 to L3, and questions of a user's own in the same schema (--annotations)."""

from __future__ import annotations

from pathlib import Path

from seedbench_r1 import scoring
from seedbench_r1.config import SEEDBENCH, EvalConfig
from seedbench_r1.questions import annotation_path, load_annotations
from seedbench_r1.rows import BadRows
from seedbench_r1.suites.base import Questions, Suite


def load(config: EvalConfig) -> Questions:
    """Read the annotation files of the levels, or the user's own file. Raises DataError naming file and line."""
    files: dict[str, Path] = {level: annotation_path(config.data_root, level) for level in config.levels}
    if config.annotations is not None:
        files = {"custom": config.annotations}
    bad = {split: BadRows(skip=config.skip_bad_rows) for split in files}
    splits = {split: load_annotations(path, config.data_root, split, bad[split]) for split, path in files.items()}
    return Questions(splits, files, bad)


SEEDBENCH_R1 = Suite(
    name="seedbench-r1",
    defaults=SEEDBENCH,
    load=load,
    group_of=scoring.by_domain,
    scorer=None,
    path_prefix="",
    splits_option="--levels",
    where_media_go="seedbench-r1 data download --only-missing, or put the files there (layout: docs/data.md)",
)
