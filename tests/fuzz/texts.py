"""Question files and run directories: questions or an error that names the file; a board without the bad run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from leaderboards.board import Board, build_board
from leaderboards.draw.csv import write_long_csv, write_wide_csv
from leaderboards.draw.latex import write_latex
from leaderboards.draw.markdown import write_markdown
from leaderboards.draw.page import write_html
from leaderboards.draw.predictions import write_predictions_csv
from seedbench_r1.errors import DataError, SeedBenchError
from seedbench_r1.questions import choose_subset, load_annotations, load_training_rows, training_question
from seedbench_r1.rows import BadRows
from seedbench_r1.runs.directory import RunDir, load_run
from seedbench_r1.runs.records import question_line
from seedbench_r1.suites.transfer import load_transfer_file
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import Question
from tests.fuzz import Input
from tests.fuzz.mutate import dumped, encoded, mutated_json
from tests.rows import evaluation_row, training_row
from tests.small_transfer import choice_row, row_of
from tests.synthetic_runs import RunSpec, make_benchmark, write_run

LONGEST_MESSAGE = 2000  # characters, besides the path
PROMPT = [{"role": "user", "content": [{"type": "text", "text": "What?\nA. a\nB. b\nC. c\nD. d"}]}]
COT = training_row(3, prompt=PROMPT, response="<think>x</think><answer>B</answer>", answer="b")
ROWS: dict[str, list[dict[str, Any]]] = {
    "L1.jsonl": [evaluation_row(n) for n in range(3)],
    "L3.jsonl": [evaluation_row(n, domain="Work", video_source="Ego4D", task_level="L3") for n in range(3)],
    "custom.json": [evaluation_row(1), {**evaluation_row("é"), "choice_e": "more"}, evaluation_row(3)],
    "train.jsonl": [training_row(1), training_row(2), COT],
    "mvbench.json": [choice_row("B"), row_of("numerical", "4"), row_of("free-form", "a red cat")],
    "mmvu.json": [choice_row("A", "yes", "no"), row_of("regression", "2.5"), row_of("OCR", "EXIT")],
}
ABSENT = ".absent"  # behind the name of a file that is to be away
KEPT = "Is this row kept?"


def assert_names(error: Exception, path: Path) -> None:
    """A message names the file and can be read."""
    assert path.name in str(error), str(error)[:LONGEST_MESSAGE]
    assert len(str(error)) < LONGEST_MESSAGE + str(error).count(str(path)) * len(str(path)), str(error)[:300]


class Annotations:
    """Rows and files; a good row that stands behind the others is kept if bad rows are to be left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, rng: random.Random) -> Input:
        name = rng.choice(list(ROWS))
        rows = [mutated_json(rng, row) if rng.random() < 0.6 else row for row in ROWS[name]]
        if name.endswith(".json"):
            return name, encoded(rng, dumped(rng, mutated_json(rng, rows) if rng.random() < 0.1 else rows))
        return name, encoded(rng, "".join(dumped(rng, row) + "\n" for row in rows))

    def check(self, name: str, data: bytes) -> str:
        (path := self._folder / name).write_bytes(data)
        try:
            questions = self._load(path, BadRows())
        except DataError as error:
            assert_names(error, path)
            self._with_a_good_row(path, data)
            return "refused"
        # What every run does next.
        for question in choose_subset(questions, 2, seed=0):
            question_line(question).encode("utf-8", "backslashreplace")
        return "read"

    def _with_a_good_row(self, path: Path, data: bytes) -> None:
        good = {"mvbench": choice_row("A", problem=KEPT), "mmvu": choice_row("A", problem=KEPT)}.get(path.stem)
        if good is None:
            good = {**(training_row if path.stem == "train" else evaluation_row)(987), "question": KEPT}
            good |= {"domain": "Work"} if path.stem == "L3" else {}
        if path.suffix == ".json":
            try:
                text = data.decode("utf-8-sig").rstrip()
                rows = parse_json(text)
            except ValueError:
                return
            if not isinstance(rows, list):
                return
            text = text[:-1] + (", " if rows else "") + json.dumps(good) + "]"
            path.write_text(text, encoding="utf-8")
        elif data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return
        else:
            path.write_bytes(data + b"\n" + json.dumps(good).encode() + b"\n")
        bad = BadRows(skip=True)
        assert KEPT in [question.text for question in self._load(path, bad)]
        for message in bad.messages:
            assert_names(DataError(message), path)

    def _load(self, path: Path, bad: BadRows) -> list[Question]:
        if path.stem == "train":
            rows = load_training_rows(path, self._folder, bad)
            return [training_question(row, seed=0, epoch=0) for row in rows]
        if path.stem in ("mvbench", "mmvu"):
            return load_transfer_file(path, self._folder, path.stem, bad)
        return load_annotations(path, self._folder, path.stem, bad)

    def close(self) -> None:
        """Nothing was started."""


def right_of(board: Board, run_id: str) -> dict[str, int]:
    """How many answers are right, by level and domain."""
    return {name: share.k for name, share in board.row(run_id).accuracy.items()}


class Runs:
    """One file of a complete run is mutated: it keeps its score or its rank; good runs next to it are ranked anyway."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        benchmark = make_benchmark({"L1": 6, "L2": 4, "L3": 8})
        # Of two runs that differ in the size of a level, neither is believed.
        self._good = [write_run(folder, RunSpec(f"good-{n}", seed=n), benchmark) for n in (5, 6)]
        self._whole = write_run(folder, RunSpec("whole", seed=2, step=3, training="t", failed=0.1), benchmark)
        (self._whole / "summary.json").write_text('{"status": "complete"}', encoding="utf-8")
        manifest = json.loads((self._whole / "manifest.json").read_text(encoding="utf-8"))
        lines = (self._whole / "questions.jsonl").read_bytes().splitlines(keepends=True)
        manifest |= {"questions_sha256": hashlib.sha256(b"".join(lines)).hexdigest(), "n_questions": len(lines)}
        (self._whole / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        (self._whole / "events.jsonl").write_text('{"event": "start"}\n', encoding="utf-8")
        # A shard answers what failed at first.
        again = write_run(folder / "again", RunSpec("whole", seed=2, step=3, training="t"), benchmark)
        shutil.copy(again / "records.jsonl", self._whole / "records.1-of-2.jsonl")
        self._run = load_run(self._whole)
        self._seeds = {path.name: path.read_bytes() for path in sorted(self._whole.iterdir())}
        # The most is said by the first.
        self._names = [*["manifest.json", "records.1-of-2.jsonl", "questions.jsonl"] * 3, *self._seeds]

        self._right = right_of(build_board([*self._good, self._whole]), "whole")

    def make(self, rng: random.Random) -> Input:
        name = rng.choice(self._names)
        if rng.random() < 0.02:
            return name + ABSENT, b""
        others = list(self._seeds.values())
        lines = self._seeds[name].decode().splitlines() if name.endswith("l") else [self._seeds[name].decode()]
        place = rng.randrange(len(lines))
        value = json.loads(lines[place])
        lines[place] = dumped(rng, mutated_json(rng, value), separators=(",", ":"))
        return name, encoded(rng, "\n".join(lines) + "\n", others)

    def check(self, name: str, data: bytes) -> str:
        path = self._folder / "bad"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self._whole, path)
        if name.endswith(ABSENT):
            (path / name.removesuffix(ABSENT)).unlink()
        else:
            (path / name).write_bytes(data)
        reason = self._reading(path)
        board = build_board([*self._good, path], include_published=False)
        assert all(board.row(good.name).ranked for good in self._good), board.warnings
        write_wide_csv(board, self._folder / "wide.csv")
        write_long_csv(board, self._folder / "long.csv")
        # These take longer.
        if zlib.crc32(data) % 8 == 0:
            write_markdown(board, self._folder / "board.md")
            write_latex(board, self._folder / "board.tex")
            write_predictions_csv(board, self._folder / "predictions.csv")
            write_html(board, self._folder / "board.html")
        self._continue(path)
        if "bad" in [row.run_id for row in board.rows]:
            assert not reason, reason
            if not board.row("bad").ranked:
                return "flagged, not ranked"
            assert right_of(board, "bad") == self._right
            return "ranked"
        left_out = [item.reason for item in board.left_out if item.path == path]
        assert left_out
        assert len(left_out[0]) < LONGEST_MESSAGE + 3 * len(str(path)), left_out[0][:300]
        return "left out"

    def _continue(self, path: Path) -> None:
        """As the same `eval` command would."""
        run = self._run
        with suppress(SeedBenchError), RunDir.open(path, run.manifest, [*run.questions.values()]) as opened:
            opened.pending([*run.questions.values()])

    def _reading(self, path: Path) -> str:
        """Why load_run refuses it; "" if it does not."""
        try:
            run = load_run(path)
        except DataError as error:
            assert path.name in str(error), error
            return str(error)
        run.summary()
        return ""

    def close(self) -> None:
        """Nothing was started."""
