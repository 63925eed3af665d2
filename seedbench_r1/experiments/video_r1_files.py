"""The miniature's questions in Video-R1's files, for recipes that train on those or evaluate the transfer suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from seedbench_r1.experiments.recipe import Recipe
from seedbench_r1.files import JsonObject, make_folder, write_text
from seedbench_r1.parsing import parse_response
from seedbench_r1.prompts import WORDING_OF_KIND
from seedbench_r1.questions import load_questions, load_training_rows, training_question
from seedbench_r1.suites.transfer import BENCHMARKS, transfer_file
from seedbench_r1.types import Question
from trainers.config import COT_FILE, TRAINING_FILE

RL, COT = "Video-R1.json", "Video-R1-COT.json"
QUESTIONS = 4  # of each benchmark


def uses_video_r1(recipe: Recipe) -> bool:
    """Whether a variant trains on such files, or a suite asks them."""
    settings = [{**recipe.train, **variant.settings} for variant in recipe.variants.values()]
    settings += [{**recipe.eval, **suite} for suite in recipe.suites.values()]
    return any(of.get("suite") in ("video-r1", "transfer") for of in settings)


def write_video_r1_files(data: Path) -> None:
    """Write training files, and Evaluation/ below the miniature's data root. Raises ResourceError."""
    for name, source in ((RL, TRAINING_FILE), (COT, COT_FILE)):
        rows = load_training_rows(data / "annotations" / source, data)
        asked = [(training_question(row, seed=0, epoch=0), row.response) for row in rows]
        _write(data / name, [_row(question, data, response) for question, response in asked])
    make_folder(data / "Evaluation")
    questions = [question for question in load_questions(data, ["L1"]) if question.video is not None]
    for benchmark in BENCHMARKS:
        file = transfer_file(data / "Evaluation", benchmark)
        _write(file, [_row(question, data, None) for question in questions[:QUESTIONS]])


def _row(question: Question, data: Path, response: str | None) -> JsonObject:
    """One object of Video-R1's. What no step has been done of has no clip, and is asked about its image."""
    medium = question.video or question.image
    assert medium is not None
    reasoning = "" if response is None else parse_response(response, question.options).reasoning or ""
    return {
        "problem_id": question.question_id,
        "problem": question.text,
        "data_type": "image" if question.video is None else "video",
        "problem_type": WORDING_OF_KIND[question.kind],
        "options": [f"{'ABCD'[place]}. {text}" for place, text in enumerate(question.options)],
        "solution": f"<answer>{question.gold}</answer>",
        "path": f"./{medium.relative_to(data)}",
        "process": f"<think>{reasoning}</think>" if reasoning else "",
        "data_source": "miniature",
    }


def _write(path: Path, rows: Sequence[JsonObject]) -> None:
    write_text(path, json.dumps(rows, indent=1) + "\n")
