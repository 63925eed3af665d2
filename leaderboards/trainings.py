"""Runs that are checkpoints of one training, found by what their snapshots say, else by base model and algorithm."""

from __future__ import annotations

import re
from dataclasses import dataclass

from leaderboards.board import Board
from leaderboards.rows import LeaderboardRow
from seedbench_r1.runs.training_snapshot import Points

# Curve -> its title on charts, in the order shown.
TITLES = {
    "reward": "Reward",
    "accuracy": "Accuracy reward",
    "bonus": "Consistency bonus",
    "kl": "KL to the reference",
    "length": "Completion length, tokens",
    "reasoning_words": "Reasoning, words",
    "grad_norm": "Gradient norm",
    "loss": "Policy loss",
    "sft_loss": "Loss per token, supervised",
    "heldout_accuracy": "Accuracy, held-out questions",
    "heldout_consistency": "Consistency by rules, held-out questions",
}

# The part of a checkpoint's name that counts steps, at its end.
_STEP = re.compile(r"[-_./ ]*(checkpoint|ckpt|global[-_]?step|step|epoch)?[-_./ ]*\d*[-_./ ]*$")


@dataclass(frozen=True, slots=True)
class Training:
    """One training and its evaluated checkpoints."""

    name: str
    places: tuple[int, ...]  # of its runs among the board's rows, by step
    steps: tuple[int, ...]  # one a run
    curves: dict[str, Points]  # of the latest checkpoint that has any; empty where none was recorded


def trainings(board: Board) -> tuple[Training, ...]:
    """In the order of their best rows. Runs without a step and without curves belong to none."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(board.rows):
        snapshot = board.measured[row.run_id].snapshot
        if snapshot is not None:
            groups.setdefault(f"id {snapshot.training_id}", []).append(place)
        elif row.step is not None:
            groups.setdefault(f"same {row.base_model} {row.algo}", []).append(place)
    found = [_training(board, places) for places in groups.values()]
    # Two trainings of one name would share a legend entry: the run's id tells which is which.
    names = [training.name for training in found]
    return tuple(
        training if names.count(training.name) == 1 else _with_run_id(training, board.rows[training.places[-1]].run_id)
        for training in found
    )


def _training(board: Board, places: list[int]) -> Training:
    ordered = sorted(places, key=lambda place: (_step(board, place), place))
    rows = [board.rows[place] for place in ordered]
    snapshots = [board.measured[row.run_id].snapshot for row in rows]
    known = [snapshot.curves for snapshot in snapshots if snapshot is not None and snapshot.curves]
    steps = tuple(_step(board, place) for place in ordered)
    return Training(_name(rows), tuple(ordered), steps, known[-1] if known else {})


def _step(board: Board, place: int) -> int:
    row = board.rows[place]
    snapshot = board.measured[row.run_id].snapshot
    return row.step if row.step is not None else (snapshot.step or 0) if snapshot is not None else 0


def _name(rows: list[LeaderboardRow]) -> str:
    """The model's name, or what the names of several checkpoints share."""
    names = sorted({row.model for row in rows})
    if len(names) == 1:
        return names[0]
    # In a sorted list the first and the last share the least: what these two share, all share.
    first, last = names[0], names[-1]
    n_equal = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = _STEP.sub("", first[:n_equal])
    made = " + ".join(part for part in ((rows[0].base_model or "").rpartition("/")[2], rows[0].algo) if part)
    return shared or made or names[0]


def _with_run_id(training: Training, run_id: str) -> Training:
    return Training(f"{training.name} ({run_id})", training.places, training.steps, training.curves)


def smooth(points: Points) -> Points:
    """Running mean over a twentieth of the points, at least three of them; as they are where there are under twenty."""
    if len(points) < 20:
        return points
    # Shorter at both ends, so that the curve neither starts nor stops inside.
    half = max(1, len(points) // 40)
    values = [value for _, value in points]
    means = []
    for i, (step, _) in enumerate(points):
        near = values[max(0, i - half) : i + half + 1]
        means.append((step, sum(near) / len(near)))
    return tuple(means)
