"""Questions in little memory: packed, found by id, counted; and what a run of tens of thousands holds per question."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from seedbench_r1.packed import AS_OBJECTS, BLOCK, PackedQuestions, QuestionsById, Selected, Texts, joined
from seedbench_r1.runs.outcome_table import OutcomeTable
from seedbench_r1.scoring import by_kind, summarise, to_record
from seedbench_r1.types import Failure, Generation, ProgressStep, Question, Source
from tests.own_files import read_with_bad, row, write

N = AS_OBJECTS + 3 * BLOCK + 7


def question(number: int, **changes) -> Question:
    values = {
        "question_id": f"own/é{number}",
        "split": "own",
        "text": f"What is seen at {number}?",
        "options": ("rain", "sun") if number % 3 else (),
        "gold": "A" if number % 3 else "4",
        "video": Path(f"clips/{number % 5}.mp4") if number % 2 else None,
        "image": Path(f"/there/{number}.png") if number % 4 == 0 else None,
        "cluster": f"{number % 7}",
        "domain": None if number % 11 else "Work",
        "task_goal": "make tea" if number % 13 == 0 else None,
        "kind": "choice" if number % 3 else "numerical",
        "progress": (ProgressStep("open", 1, None),) if number % 17 == 0 else (),
        "source": Source("own", "q.csv", number) if number % 19 else None,
    }
    return Question(**(values | changes))


class OneHash(str):
    """Texts that all have the same hash."""

    def __hash__(self) -> int:
        return 7


# ---- sequences


def test_packed_questions_are_what_was_packed():
    plain = [question(n) for n in range(N)]
    packed = PackedQuestions(plain)
    assert len(packed._blocks) >= 3
    assert len(packed) == N
    assert list(packed) == plain
    for place in (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK, N - 1, -1, -N, 5 * BLOCK - N):
        assert packed[place] == plain[place]
    for place in (N, -N - 1, N + BLOCK):
        with pytest.raises(IndexError):
            packed[place]
    assert list(packed[BLOCK - 2 : BLOCK + 2]) == plain[BLOCK - 2 : BLOCK + 2]
    assert list(packed[::-1])[:3] == plain[: N - 4 : -1]
    assert [*map(type, (packed[1].video, packed[0].image, packed[5].options))] == [type(Path()), type(Path()), tuple]
    assert list(Selected(packed, [N - 1, 0])) == [plain[N - 1], plain[0]]


def test_joined_sequences_are_one_behind_the_other():
    parts = [[question(1), question(2)], PackedQuestions(), [question(3)]]
    one = joined(parts)
    assert [q.text for q in one] == [question(n).text for n in (1, 2, 3)]
    assert [one[place] for place in range(-3, 3)] == [*one, *one]
    assert list(one[1:]) == [question(2), question(3)]
    for place in (3, -4):
        with pytest.raises(IndexError):
            one[place]
    assert joined(parts[:1]) is parts[0]
    assert len(joined([])) == 0


# ---- ids


def test_texts_have_the_places_at_which_they_came():
    rng = random.Random(0)
    texts, expected = Texts(), dict[str, int]()
    for _ in range(5000):
        text = f"{rng.randrange(3000)}"
        assert texts.add(text) == expected.setdefault(text, len(expected))
    assert len(texts) == len(expected)
    assert {text: texts.place(text) for text in expected} == expected
    assert "no" not in texts
    assert texts.place("no") is None


def test_texts_of_the_same_hash_are_told_apart_by_who_must():
    names = [OneHash(name) for name in "abc"]
    careless, careful = Texts(), Texts()
    assert [careless.add(name) for name in names] == [0, 0, 0]
    held: list[str] = []
    for name in [*names, *names]:
        place = careful.add(name, lambda place, name=name: str(held[place]) == str(name))
        if place == len(held):
            held.append(name)
    assert [str(name) for name in held] == ["a", "b", "c"]


def test_questions_of_the_same_hash_are_found():
    some = [question(n, question_id=OneHash(f"own/{n}")) for n in range(50)]
    by_id = QuestionsById(some)
    assert [by_id[OneHash(f"own/{n}")] for n in range(50)] == some
    assert OneHash("own/50") not in by_id
    assert by_id.get("own/1") is None, "another hash, as no two equal texts have"
    assert list(by_id) == [q.question_id for q in some]
    assert list(by_id.values()) == some


def test_of_a_repeated_id_the_first_question_counts():
    some = [question(1), question(2), question(1, text="again"), question(3)]
    by_id = QuestionsById(some)
    assert [q.text for q in by_id.values()] == [question(n).text for n in (1, 2, 3)]
    assert by_id.find(question(3).question_id) == (2, question(3))
    assert len(by_id) == 3


def test_ids_of_the_same_hash_are_no_repeated_ids(tmp_path, monkeypatch):
    class AllAlike(Texts):
        def add(self, text, is_it=None):
            self._hashes.append(0)
            return 0

    monkeypatch.setattr("seedbench_r1.suites.own_rows.Texts", AllAlike)
    rows = [row(1), row(2), row(3), row(2, question="Again?")]
    found, bad = read_with_bad(write(tmp_path / "q.jsonl", rows))
    assert [q.question_id for q in found] == ["own/q1", "own/q2", "own/q3"]
    assert len(bad) == 1
    assert "q.jsonl:4: id 'q2' stands already in 'own', at " in bad[0]


# ---- records


def answer(question: Question, text: str) -> Generation:
    return Generation(
        f"<think>so</think><answer>{text}</answer>", (), "stop", n_prompt_tokens=1, n_tokens=1, latency_s=0
    )


def test_a_table_counts_what_the_records_count():
    some = [question(n) for n in range(400)]
    by_id, rng = QuestionsById(some), random.Random(1)
    table, plain = OutcomeTable(by_id), {}
    for _ in range(900):
        asked = rng.choice(some[:300])
        texts = ("A", "B", "nonsense") if asked.kind == "choice" else ("4", "5", "3.999")
        said = rng.choice([answer(asked, text) for text in texts] + [Failure("media_error", f"clip {rng.random()}")])
        record = to_record(asked, said)
        if record.counts_over(plain.get(asked.question_id)):
            plain[asked.question_id] = record
        table.add(record)
    assert len(table) == len(plain)
    assert set(table) == set(plain)
    assert summarise(table, some, group_of=by_kind) == summarise(plain, some, group_of=by_kind)
    for record in table.values():
        whole = plain[record.question_id]
        assert (record.score, record.failure, record.cluster) == (whole.score, whole.failure, whole.cluster)
        assert record.generation is None
        if record.parsed is not None:
            assert record.parsed.format_ok == whole.parsed.format_ok
            assert record.parsed.answer == whole.parsed.answer
        assert table[record.question_id] == record
    for place, asked in enumerate(some):
        known = plain.get(asked.question_id)
        assert table.is_settled(place, retry_errors=True) == (known is not None and known.answered)
        assert table.is_settled(place, retry_errors=False) == (known is not None)
    assert table.get(some[350].question_id) is None
    with pytest.raises(KeyError):
        table.add(to_record(question(1, question_id="own/other"), Failure("timeout", "")))


# ---- a run

CHILD = """
import contextlib, json, sys
from pathlib import Path
from seedbench_r1.cli.results import print_result
from seedbench_r1.engines.local import LocalEngine
from seedbench_r1.engines.plan import plan
from seedbench_r1.engines.run import run_plan
from seedbench_r1.scoring import to_record
from seedbench_r1.suites import resolve
from seedbench_r1.types import Generation

class AtOnce(LocalEngine):  # without the decoding, which holds nothing and takes most of the time
    def answer(self, plan, pending, recorder, *, stop):
        for number, question in enumerate(pending):
            text = f"<think>so {number}</think><answer>{'ABC'[number % 3]}</answer>"
            recorder.write(to_record(question, Generation(text, (), "stop", 1, 1, 0.0)))

def peak():  # not getrusage's, which a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

given = json.loads(sys.argv[1])
given |= {name: Path(given[name]) for name in ("questions", "runs_dir")}
planned = plan(resolve(given, environ={}, working_dir=given["runs_dir"]))
planned_at = peak()
result = run_plan(planned, AtOnce())
with contextlib.redirect_stdout(sys.stderr):
    print_result(planned, result)
summary = result.summary.splits["own"]
print(json.dumps([summary.answered, summary.correct, planned_at, peak()]))
"""


def memory_of(folder: Path, n: int) -> tuple[int, int]:
    """Bytes at most after planning and after an evaluation of n questions, each about a clip of its own kind."""
    path = folder / f"{n}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for k in range(n):
            text = f"What does the person in the kitchen do at second {k}, before the {k % 97}th cup is washed?"
            values = {"id": f"q{k}", "question": text, "a": f"open door {k % 50}", "b": "wash a cup", "c": "rest"}
            file.write(json.dumps(values | {"answer": "ABC"[k % 3], "image": "0.png", "recording": f"day {k}"}) + "\n")
    (folder / "0.png").touch()
    (folder / "script.json").write_text('{"default": ""}')
    given = {"suite": "own", "questions": str(path), "backend": "fake", "model": str(folder / "script.json")}
    given |= {"runs_dir": str(folder / f"runs-{n}"), "map": "cluster=recording"}
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(given)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answered, correct, planned, run = json.loads(done.stdout)
    assert (answered, correct) == (n, n)
    return planned, run


def test_a_question_more_costs_a_run_little_memory(tmp_path):
    """180 and 300 bytes, of which some are tables that end at 50,000 values; as objects they were 704 and 1,117."""
    few, many = 20_000, 50_000
    before, after = memory_of(tmp_path, few), memory_of(tmp_path, many)
    planned, run = ((late - early) / (many - few) for early, late in zip(before, after, strict=True))
    assert planned < 250
    assert run < 400
