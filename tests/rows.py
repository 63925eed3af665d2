"""Annotation rows for tests, in the data set's schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def evaluation_row(sample_id: int | str = 1, **changes: Any) -> dict[str, Any]:
    row = {
        "sample_id": sample_id,
        "video_source": "EpicKitchens",
        "video_id": "P01_01",
        "task_goal": "make tea",
        "question": "What should I do next to make tea?",
        "task_progress_metadata": [{"narration_text": "fill kettle", "start_frame": 10, "stop_frame": 60}],
        "choice_a": "boil water",
        "choice_b": "open the fridge",
        "choice_c": "wash the cup",
        "choice_d": "close the drawer",
        "golden_choice_idx": "A",
        "answer": "boil water",
        "video_basename": f"{sample_id}.mp4",
        "current_observation_basename": f"{sample_id}.png",
    }
    return row | changes


def training_row(sample_id: int = 1, **changes: Any) -> dict[str, Any]:
    row = evaluation_row(sample_id, negative_answers=["open the fridge", "wash the cup", "close the drawer", "dry it"])
    for key in ("choice_a", "choice_b", "choice_c", "choice_d", "golden_choice_idx"):
        del row[key]
    return row | changes


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
