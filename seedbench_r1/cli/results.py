"""How a finished run, a dry run and the resolved settings are printed."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from rich.table import Table

from seedbench_r1.cli import console
from seedbench_r1.cli.transfer_results import print_transfer, transfer_values
from seedbench_r1.config import EvalConfig
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.models.families import FAMILIES
from seedbench_r1.packed import QuestionsById, Texts
from seedbench_r1.prompts import build_prompt, build_request
from seedbench_r1.runs.directory import Run, load_run, read_manifest
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.scoring import GROUP_OF, GroupSummary, RunSummary, by_domain
from seedbench_r1.types import Media, Question, RunRecord, to_json

if TYPE_CHECKING:
    from leaderboards.stats import Proportion
    from seedbench_r1.engines.base import EvalResult, Plan

EXAMPLES = 3  # questions whose media a dry run tries to read


def print_config(config: EvalConfig) -> None:
    """Every resolved setting as JSON on standard output."""
    print(console.json_text(to_json(config), indent=1))


def print_result(planned: Plan, result: EvalResult) -> None:
    """The closing block: a table with intervals, and what to type next."""
    if seeds := planned.config.sampled_seeds:
        from seedbench_r1.cli.samples_results import print_samples
        from seedbench_r1.runs.samples import load_samples

        print_samples(planned.path, load_samples(planned.path, seeds))
        return
    run = counted_run(planned)
    screen = console.out()
    print_summary(run, result.summary)
    screen.print(f" saved {planned.path / 'summary.json'}", soft_wrap=True)
    example = next(iter(run.records), None)
    if example is not None:
        screen.print(f" next: seedbench-r1 show {planned.path} --question {example}", soft_wrap=True)


def counted_run(planned: Plan) -> Run:
    """The run for counting; its questions, where they are the plan's, are in memory once."""
    manifest = read_manifest(planned.path)
    same = manifest is not None and manifest.n_questions == len(planned.questions)
    known = QuestionsById(planned.questions) if same else None
    return load_run(planned.path, questions=known, texts=False)


def print_summary(run: Run, summary: RunSummary) -> None:
    """The table of a run's scores, and what the reader must know of it."""
    screen = console.out()
    if run.manifest.suite == "transfer":
        print_transfer(summary, run.manifest.video)
    else:
        screen.print(level_table(run, summary))
        clusters = Texts()
        for question in run.questions.values():
            clusters.add(question.cluster)
        # Verdicts have a table of their own.
        judged = "" if load_verdicts(run.path) else f" {console.dot()} consistency not judged"
        screen.print(f" 95 % intervals, clustered by video ({len(clusters)} videos){judged}", soft_wrap=True)
    for doubt in run.doubts:
        screen.print(f" EDITED: {doubt}; not to be ranked", soft_wrap=True)
    if summary.status == "incomplete":
        screen.print(f" INCOMPLETE: {summary.pending} questions have no answer; not to be ranked", soft_wrap=True)
    if summary.status == "subset":
        screen.print(" SUBSET: --limit was given; not to be ranked")


def level_table(run: Run, summary: RunSummary) -> Table:
    """Levels or splits, and what divides them, as counts and percentages."""
    own = run.manifest.suite == "own"
    table = console.table(
        ["split" if own else "level"], ("n", "score %" if own else "accuracy %", "unparsed", "truncated", "failed")
    )
    by_split, by_group = defaultdict[str, Scored](Scored), defaultdict[tuple[str, str | None], Scored](Scored)
    group_of = GROUP_OF.get(run.manifest.suite, by_domain)
    for record in run.records.values():
        by_split[record.split].add(record)
        by_group[record.split, group_of(run.questions[record.question_id])].add(record)
    for split, group in summary.splits.items():
        _add_row(table, split, group, by_split[split])
        # Domains stand indented below their level: they divide it and do not add to it.
        for name, part in shown_groups(run, summary, split).items():
            _add_row(table, f"  {name}", part, by_group[split, name])
    return table


class Scored:
    """Credits of answered questions, and the numbers of the clusters that they are in: 20 bytes a question or more."""

    def __init__(self) -> None:
        self.credits, self.clusters, self._known = array("d"), array("I"), Texts()

    @classmethod
    def of(cls, records: Iterable[RunRecord]) -> Scored:
        """Of the records that have a score."""
        found = cls()
        for record in records:
            found.add(record)
        return found

    def add(self, record: RunRecord) -> None:
        """A record; one without a score is left out."""
        if record.score is not None:
            self.credits.append(record.score.credit)
            self.clusters.append(self._known.add(record.cluster))


def _add_row(table: Table, name: str, group: GroupSummary, scored: Scored) -> None:
    shown = f"{group.selected}" if group.selected == group.n else f"{group.selected} of {group.n}"
    counts = map(str, (group.unparsed, group.truncated, group.failed))
    table.add_row(name, shown, accuracy_cell(group, scored), *counts)


def shown_groups(run: Run, summary: RunSummary, split: str) -> dict[str, GroupSummary]:
    """The domains or kinds of a split. Of one's own questions, a single one is the split once more."""
    groups = summary.groups.get(split, {})
    return {} if run.manifest.suite == "own" and len(groups) < 2 else groups


def _domains(summary: RunSummary) -> dict[str, GroupSummary]:
    return {name: group for domains in summary.groups.values() for name, group in domains.items()}


def accuracy_cell(group: GroupSummary, scored: Scored) -> str:
    """ "57.0 [54.6, 59.4]"; for an incomplete group the bounds with the missing answers all wrong and all right."""
    # No interval of what is there: which questions are missing is not by chance.
    missing = group.selected - group.answered
    if missing:
        low, high = 100 * group.correct / group.selected, 100 * (group.correct + missing) / group.selected
        return f"between {low:.1f} and {high:.1f}"
    share = share_of(scored)
    return f"{100 * group.accuracy:.1f} [{100 * share.lo:.1f}, {100 * share.hi:.1f}]"


def share_of(scored: Scored) -> Proportion:
    """Accuracy with the interval that tables, page and files show: clustered by video."""
    import numpy as np

    from leaderboards.stats import credit_interval

    return credit_interval(np.asarray(scored.credits), np.asarray(scored.clusters))


def result_values(planned: Plan, result: EvalResult, exit_code: int) -> dict[str, object]:
    """The one JSON object of --json. Fractions, not percentages; null where there is no number."""
    if seeds := planned.config.sampled_seeds:
        from seedbench_r1.cli.samples_results import samples_values
        from seedbench_r1.runs.samples import load_samples

        shown = samples_values(planned.path, load_samples(planned.path, seeds))
        return shown | {"exit_code": exit_code}
    run = counted_run(planned)
    # Failures are listed whole: a script has no other way to learn which questions to look at.
    failures = [
        {"question_id": r.question_id, "kind": r.failure.kind, "message": r.failure.message}
        for r in run.records.values()
        if r.failure is not None
    ]
    value: dict[str, object] = {
        "schema": "sbr1.eval/1",
        "run_dir": str(planned.path),
        "protocol_id": planned.manifest.protocol_id,
    }
    if planned.suite.name == "transfer":
        value["schema"] = "sbr1.transfer-eval/1"
    value |= summary_values(run, result.summary)
    return value | {"errors": failures, "exit_code": exit_code}


def summary_values(run: Run, summary: RunSummary) -> dict[str, object]:
    """What print_summary shows, for --json. Fractions, not percentages; null where there is no number."""
    if run.manifest.suite == "transfer":
        return transfer_values(summary)
    levels = _level_values(run, summary)
    if run.manifest.suite == "own":
        groups = {split: to_json(shown_groups(run, summary, split)) for split in summary.splits}
        return {"status": summary.status, "splits": levels, "groups": groups}
    return {"status": summary.status, "levels": levels, "domains": to_json(_domains(summary))}


def _level_values(run: Run, summary: RunSummary) -> dict[str, object]:
    levels: dict[str, object] = {}
    for split, group in summary.splits.items():
        share = share_of(Scored.of(r for r in run.records.values() if r.split == split))
        levels[split] = to_json(group) | {
            "accuracy": _number(group.accuracy) if group.is_complete else None,
            "ci": [_number(share.lo), _number(share.hi)],
            "deff": _number(share.deff if share.n else math.nan),
        }
    return levels


def print_dry_run(planned: Plan, *, as_json: bool) -> None:
    """What would be run: prompt, frames, tokens and memory of a typical question. No model is loaded."""
    estimate = estimate_run(planned)
    screen = console.out()
    if as_json:
        console.print_json({"schema": "sbr1.dry-run/1", **estimate})
        return
    shown: dict[str, Question] = {}
    for question in planned.questions:  # the first of each kind
        shown.setdefault(question.kind, question)
    for question in shown.values():
        kind = f" ({question.kind})" if planned.suite.name != "seedbench-r1" else ""
        screen.print(f"prompt of {question.question_id}{kind}:\n")
        screen.print(build_prompt(question, planned.config.template), soft_wrap=True)
    screen.print("")
    for name, value in estimate.items():
        screen.print(f" {name.replace('_', ' '):<26} {value}", soft_wrap=True)


def estimate_run(planned: Plan) -> dict[str, Any]:
    """Counts and sizes known without loading the model; tokens are those of the first question that can be shown."""
    config, video = planned.config, planned.config.video
    question, media = _example(planned)
    area = video.size_multiple**2
    tokens = frames = 0
    if media is not None and media.frames is not None:
        frames, height, width, _ = media.frames.shape
        # Two frames make one temporal patch; size_multiple is the side of a merged patch in pixels.
        tokens += math.ceil(frames / 2) * height * width // area
    if media is not None and media.image is not None:
        rows, columns, _ = media.image.shape
        tokens += rows * columns // area
    # Four characters a token is near enough for English; no tokenizer is loaded for a dry run.
    text = len(build_prompt(question, config.template)) // 4
    if media is not None and planned.checkpoint is not None:
        tokens, text = _tokens_by_processor(planned.checkpoint, config, question, media) or (tokens, text)
    estimate: dict[str, Any] = {
        "run_dir": str(planned.path),
        "protocol_id": planned.manifest.protocol_id,
        "questions": {level: sizes["all"] for level, sizes in planned.manifest.n_total.items()},
        "asked": len(planned.questions),
        "missing_files": len(planned.missing),
        "example": question.question_id,
        "frames": frames,
        "vision_tokens": tokens,
        "prompt_tokens_about": tokens + text,
        "new_tokens_at_most": config.sampling.max_new_tokens,
    }
    if planned.checkpoint is not None:
        estimate["weights_gb"] = round(planned.checkpoint.weight_bytes / 1e9, 3)
        cache = kv_bytes_per_token(planned.checkpoint.config) * (tokens + text + config.sampling.max_new_tokens)
        estimate["kv_cache_gb_per_question"] = round(cache / 1e9, 4)
        # Without activations and the allocator's rest: it says whether to try, not whether it fits.
        estimate["memory_gb_about"] = round((planned.checkpoint.weight_bytes + cache * config.batch_size) / 1e9, 3)
    return estimate


def _tokens_by_processor(
    checkpoint: Checkpoint, config: EvalConfig, question: Question, media: Media
) -> tuple[int, int] | None:
    """Of vision and of text, where only the checkpoint's processor can say; None of families whose patches we cut."""
    if any(family.model_type == checkpoint.config.get("model_type") for family in FAMILIES):
        return None
    from seedbench_r1.models.any_processor import load_any_processor
    from seedbench_r1.models.generic import GenericProcessor

    folder = str(checkpoint.base_folder or checkpoint.folder)
    processor = load_any_processor(folder, trust_remote_code=config.trust_remote_code)
    assert isinstance(processor, GenericProcessor)
    ids = processor.expanded_ids(build_request(question, media, config.template))
    n_vision = sum(token in processor.forbidden_ids for token in ids)
    return n_vision, len(ids) - n_vision


def _example(planned: Plan) -> tuple[Question, Media | None]:
    """A question with a clip if there is one, and its media, decoded where a crash costs nothing; None: unreadable."""
    from seedbench_r1.media.loader import FrameLoader

    there = (q for q in planned.questions if all(p is None or p.exists() for p in (q.video, q.image)))
    first = list(islice(there, EXAMPLES))
    clips = (q for q in chain(first, there) if q.video is not None)
    with_clip = list(islice(clips, EXAMPLES)) or first
    with FrameLoader(planned.config.video, workers=1, timeout_s=planned.config.decode_timeout_s) as loader:
        for question, media in loader.stream(with_clip):
            if isinstance(media, Media):
                return question, media
    return planned.questions[0], None


def kv_bytes_per_token(model_config: dict[str, Any]) -> int:
    """Bytes of keys and values per token at 2 bytes a number: 2 x layers x kv heads x head size x 2; 0: not known.

    Layers of linear attention keep a state, whatever the length.
    """
    text = model_config.get("text_config") or model_config
    heads, layers = text.get("num_attention_heads"), text.get("num_hidden_layers")
    if not heads or not layers:
        return 0
    layers -= (text.get("layer_types") or []).count("linear_attention")
    head_size = text.get("head_dim") or text["hidden_size"] // heads
    return int(2 * layers * (text.get("num_key_value_heads") or heads) * head_size * 2)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
