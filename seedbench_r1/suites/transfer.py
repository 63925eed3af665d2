"""`eval --suite transfer`: the general video benchmarks of GRPO-CARE's Table 4, answered by our own runner.

Questions come from Video-R1's evaluation files; loop, run directory, resuming and failures are those of `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seedbench_r1.config import Defaults, resolve_eval_config
from seedbench_r1.engines.local import Plan, Suite, plan_questions
from seedbench_r1.suites.transfer_prompts import DEFAULT_TEMPLATE, TransferTemplate, build_messages, load_template
from seedbench_r1.suites.transfer_questions import BENCHMARKS, TransferQuestion, load_transfer_questions, transfer_file
from seedbench_r1.suites.transfer_records import TRANSFER_LINES, summarise_transfer, to_transfer_record
from seedbench_r1.suites.transfer_scoring import SCORER_VERSION
from seedbench_r1.types import EvalConfig, Media, Request

SUITE = "transfer"

# GRPO-CARE, section 4 and its `eval_bench.py` at 03c3a7c: 32 frames at most, 1,024 new tokens, T 0.1, top_p 0.001; all
# but the frames are the package's own defaults
PROTOCOLS: dict[str, dict[str, Any]] = {"transfer": {"max_frames": 32}}

DEFAULTS = Defaults(PROTOCOLS, DEFAULT_TEMPLATE, load_template)


def resolve_transfer_config(options: Mapping[str, Any], **sources: Any) -> EvalConfig:
    """As resolve_eval_config, with the suite's protocol and wording; config.template is a TransferTemplate."""
    return resolve_eval_config(options, defaults=DEFAULTS, **sources)


def plan_transfer(
    config: EvalConfig,
    *,
    files: Path | None = None,
    benchmarks: Sequence[str] = tuple(BENCHMARKS),
    command: str = "",
) -> Plan:
    """Read evaluation files and checkpoint, choose the run directory, look for absent media. Loads no model.

    Args:
        config: from resolve_transfer_config.
        files: folder of the eval_*.json; by default <data root>/Evaluation.

    Raises:
        ConfigError: no such model, or --size-multiple does not fit it.
        DataError: invalid files; absent media unless config.allow_missing (the list is in missing.txt).
    """
    folder = files or config.data_root / "Evaluation"
    every = load_transfer_questions(folder, config.data_root, benchmarks)
    paths = {name: transfer_file(folder, name) for name in benchmarks}
    return plan_questions(config, every, paths, TRANSFER, command=command)


def build_request(question: TransferQuestion, media: Media, template: TransferTemplate) -> Request:
    """A question and its pixels as a backend wants them: a clip or an image, never both."""
    return Request(
        question_id=question.question_id,
        messages=build_messages(question, template),
        frames=media.frames,
        frame_indices=media.frame_indices,
        native_fps=media.native_fps,
        n_total=media.n_total,
        image=None if question.image is None else media.image,
        reader=media.reader,
        reader_note=media.reader_note,
    )


TRANSFER = Suite(
    lines=TRANSFER_LINES,
    to_record=to_transfer_record,
    build_request=build_request,
    summarise=summarise_transfer,
    slug=f"{SUITE}-",
    scorer=SCORER_VERSION,
    levels_option="--benchmarks",
    where_media_go="put them where the evaluation files' paths lead from --data-root (docs/transfer.md)",
)
