"""Small evaluation files in Video-R1's format, with real clips: for tests of the transfer suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.media import make_clip, make_image

CLIP, IMAGE = "./Evaluation/clips/a.mp4", "./Evaluation/images/b.png"


def choice_row(gold: str = "A", *options: str, **changes: Any) -> dict[str, Any]:
    row = {
        "problem_id": 7,
        "problem": "What happens first?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": [f"{'ABCDEFGHIJ'[k]}. {text}" for k, text in enumerate(options or ("rain", "sun", "snow"))],
        "solution": f"<answer>{gold}</answer>",
        "path": CLIP,
        "data_source": "small",
    }
    return row | changes


def row_of(problem_type: str, gold: str, **changes: Any) -> dict[str, Any]:
    return choice_row(**{"problem_type": problem_type, "options": [], "solution": f"<answer>{gold}</answer>"} | changes)


def default_files() -> dict[str, list[dict[str, Any]]]:
    """Every benchmark, every problem type, clips and an image: 14 rows, one of them an open question of MMVU."""
    return {
        "vsibench": [
            choice_row("B"),
            choice_row("A"),
            row_of("regression", "10"),
            row_of("regression", "2.5"),
            row_of("regression", "100"),
        ],
        "videommmu": [choice_row("J", *map(str, range(10)))],
        "mmvu": [choice_row("B", "yes", "no"), row_of("free-form", "a red cat"), choice_row("A", "yes", "no")],
        "mvbench": [choice_row("C"), row_of("numerical", "4")],
        "tempcompass": [row_of("free-form", "a red cat")],
        "videomme": [choice_row("A"), row_of("OCR", "NO EXIT", data_type="image", path=IMAGE)],
    }


def write_transfer(root: Path, files: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    """Evaluation files, one clip and one image below `root`; returns root."""
    folder = root / "Evaluation"
    for part in ("clips", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    make_clip(root / CLIP, n_frames=60, fps=30)
    make_image(root / IMAGE)
    for name, rows in (default_files() if files is None else files).items():
        (folder / f"eval_{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return root
