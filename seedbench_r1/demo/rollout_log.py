"""What a training's rollouts.jsonl says of the reference: can CARE's cap still tell sound reasoning from other?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from leaderboards.draw.markdown import markdown_row
from seedbench_r1.demo.traces import concluded_action
from seedbench_r1.parsing import answer_block
from seedbench_r1.runs.training_snapshot import ROLLOUTS
from seedbench_r1.typed_json import parse_json

PARTS = 3  # of a training, by steps
CAP = 0.95  # of the likelihood, as in CARE's preset
Counts = tuple[int, int]  # below the cap, all


def below_cap(training: Path) -> dict[str, list[Counts]]:
    """Of a training's logged accurate rollouts, how many have a likelihood below the cap, in each third of its steps.

    By what their reasoning concludes: "the answer", "another action", "nothing". Empty without logged likelihoods.
    """
    path = training / ROLLOUTS
    rollouts = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    steps = max((rollout["step"] for rollout in rollouts), default=0)
    found: dict[str, list[Counts]] = {}
    for rollout in rollouts:
        block = answer_block(rollout["text"])
        if rollout["accuracy"] < 1 or rollout["likelihood"] is None or block is None:
            continue
        answer = rollout["text"][block[0] : block[1]].strip()
        concluded = concluded_action(rollout["text"])
        kind = "nothing" if concluded is None else "the answer" if concluded == answer else "another action"
        counts = found.setdefault(kind, [(0, 0)] * PARTS)
        part = (rollout["step"] - 1) * PARTS // steps
        below, n = counts[part]
        counts[part] = below + (rollout["likelihood"] < CAP), n + 1
    return found


def markdown(variants: Mapping[str, Sequence[Path]]) -> str:
    """A row for each variant and conclusion, its trainings pooled. Empty without likelihoods."""
    rows = []
    for name, folders in variants.items():
        found = [below_cap(folder) for folder in folders]
        for kind in ("the answer", "another action", "nothing"):
            parts = list(zip(*(counts[kind] for counts in found if kind in counts), strict=True))
            cells = [f"{sum(below for below, _ in part)} of {sum(n for _, n in part)}" for part in parts]
            rows += [markdown_row([name, kind, *cells])] if cells else []
    head = ["likelihood below the cap", "concluding", "first third", "second", "last"]
    return "".join(f"{line}\n" for line in [markdown_row(head), markdown_row(["---"] * len(head)), *rows] if rows)
