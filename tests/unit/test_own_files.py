"""A user's own question files: forms, columns, kinds, right answers, and every row that cannot be used."""

from __future__ import annotations

import json

import pytest

from seedbench_r1.columns import find_columns, parse_map
from seedbench_r1.errors import ConfigError, DataError
from tests.own_files import ANSWERS, read, read_with_bad, row, write

# ---- forms


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.tsv", "q.parquet", "saved"])
def test_every_form_gives_the_same_questions(tmp_path, name):
    questions = read(write(tmp_path / name, [row(n) for n in range(1, 6)]))
    assert [q.question_id for q in questions] == [f"own/q{n}" for n in range(1, 6)]
    assert {q.options for q in questions} == {ANSWERS}
    assert [q.gold for q in questions] == ["B", "C", "A", "B", "C"]
    assert questions[0].video == tmp_path / "clips" / "1.mp4"
    assert (questions[0].cluster, questions[0].kind, questions[0].split) == ("clips/1.mp4", "choice", "own")
    assert questions[4].source.line == (6 if name in ("q.csv", "q.tsv") else 5)


def test_splits_of_data_set_folders(tmp_path):
    import datasets

    rows = {"train": [row(1), row(2)], "test": [row(1)]}
    every = {name: datasets.Dataset.from_list(some) for name, some in rows.items()}
    datasets.DatasetDict(every).save_to_disk(str(tmp_path / "saved"))
    assert [q.question_id for q in read(tmp_path / "saved")] == ["train/q1", "train/q2", "test/q1"]
    for name, some in rows.items():
        write(tmp_path / "shards" / f"{name}-00000-of-00001.parquet", some)
    assert sorted(q.question_id for q in read(tmp_path / "shards")) == ["test/q1", "train/q1", "train/q2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.parquet and no \.arrow file"):
        read(tmp_path / "empty")


def test_features_of_clips_are_read_by_their_path(tmp_path):
    path = write(tmp_path / "q.jsonl", [row(1, video={"path": "a.mp4", "bytes": None})])
    assert read(path)[0].video == tmp_path / "a.mp4"
    with pytest.raises(DataError, match=r"q\.jsonl:1: video holds the file itself"):
        read(write(path, [row(1, video={"path": "a.mp4", "bytes": "AAAA"})]))


def test_semicolons_marks_and_cells_of_several_lines(tmp_path):
    path = tmp_path / "q.csv"
    text = 'question;a;b;answer;clip\r\n"What, here?\r\nSay.";x, y;z;b;1.mp4\r\nNext;x;z;a;2.mp4\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read(path)
    assert (first.text, first.options, first.gold) == ("What, here?\r\nSay.", ("x, y", "z"), "B")
    assert (first.question_id, second.question_id) == ("own/2", "own/4"), "the line where a row begins"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", b"", "holds no questions .*: it has no rows"),
        ("q.csv", b"question,answer,video\n", "holds no questions .*: it has no rows"),
        ("q.json", b"[]", "holds no questions .*: it has no rows"),
        ("q.jsonl", b"\n\n", "holds no questions .*: it has no rows"),
        ("q.csv", b"a,a\n1,2\n", "q.csv:1: the column 'a' is there more than once"),
        ("q.csv", b'question,answer,video\n"open,1,2.mp4\n', r"q.csv:2: not valid CSV"),
        ("q.csv", "question,answer,video\nwäre,1,x.mp4\n".encode("latin-1"), "not UTF-8 text, from line 1 on"),
        (
            "q.csv",
            b"question,answer,video\na,b,1,2.mp4\n",
            r"q.csv:2: more cells \(4\) than the header has columns \(3\)",
        ),
        ("q.csv", b"question,answer,video\na,1\n", r"q.csv:2: fewer cells \(2\)"),
        ("q.parquet", b"version https://git-lfs", "cannot be read: .* Is it a Git LFS pointer"),
        ("q.xlsx", b"PK\x03\x04", "of a form that is not read. Fix: JSON lines"),
        ("q.json", b'[{"question": ', "not valid JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"No questions at .*nowhere\.csv\. Fix: --questions FILE"):
        read(tmp_path / "nowhere.csv")


# ---- columns


def test_columns_are_found_by_usual_names():
    columns = find_columns(("Question Text", "Prompt", "choice_a", "choice_b", "Label", "video_path", "note"), {})
    assert columns.taken == {
        "text": ("Prompt",),
        "options": ("choice_a", "choice_b"),
        "gold": ("Label",),
        "video": ("video_path",),
    }
    assert columns.left == ("Question Text", "note")
    assert find_columns(("option2", "option1", "q"), {}).of("options") == ("option1", "option2")
    assert find_columns(("A", "B", "C", "X", "Y"), {}).of("options") == ("A", "B", "C")
    with pytest.raises(ConfigError, match="one between them is not there"):
        find_columns(("choice_a", "choice_c"), {})


def test_columns_are_mapped(tmp_path):
    rows = [
        {"frage": "Was?", "w1": "x", "w2": "y", "richtig": "y", "film": "1.mp4", "teil": "dev", "quelle": "r1", "n": 7}
    ]
    mapping = "text=frage,options=w1+w2,gold=richtig,video=film,split=teil,cluster=quelle,id=n"
    (question,) = read(write(tmp_path / "q.jsonl", rows), mapping)
    assert (question.question_id, question.gold, question.options) == ("dev/7", "B", ("x", "y"))
    assert (question.cluster, question.text) == ("r1", "Was?")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            "text=qestion",
            r"--map text=qestion: no column 'qestion'\. Did you mean 'question'\? There are: id, question",
        ),
        ("options=a+b", r"--map options=a\+b: no column 'a'"),
        ("txt=question", r"FIELD=COLUMN is, where .* Did you mean 'text'\?"),
        ("text", "FIELD=COLUMN is"),
        ("text=question,text=answer", "--map names 'text' twice"),
        ("gold=answer,gold.0=answer", "--map names 'gold' twice"),
        ("video=video+id", "video is read from one column"),
    ],
)
def test_mappings_that_do_not_fit(tmp_path, mapping, message):
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path / "q.jsonl", [row()]), mapping)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("question", "no column is known to hold the question. .* Fix: --map text=COLUMN"),
        ("answer", "hold the right answer. .* Fix: --map gold=COLUMN"),
        ("video", "hold the clip or image. .* Fix: --map video=COLUMN or image=COLUMN"),
    ],
)
def test_a_column_that_is_needed(tmp_path, absent, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "q.jsonl", [row(1, **{absent: None})]))


def test_an_empty_map_names_nothing():
    assert parse_map(None) == parse_map(" , ") == {}


# ---- right answers


@pytest.mark.parametrize(
    ("golds", "letters"),
    [
        (["A", "b", "(C)", "B."], "ABCB"),
        (["rain", " Sun ", "snow", "C. snow"], "ABCC"),
        ([0, 1, 2, 0], "ABCA"),
        ([1, 2, 3, 1], "ABCA"),
        (["1", "3", "2", "1"], "ACBA"),
        ([0.0, 1.0, 2.0, 1.0], "ABCB"),
        (["A", "sun", "<answer>C</answer>", "b"], "ABCB"),
    ],
)
def test_letters_texts_and_indices(tmp_path, golds, letters):
    rows = [row(n, answer=gold) for n, gold in enumerate(golds)]
    assert "".join(q.gold for q in read(write(tmp_path / "q.jsonl", rows))) == letters


def test_where_an_index_is_counted_from_follows_from_the_file_or_is_asked_for(tmp_path):
    path = write(tmp_path / "q.jsonl", [row(n, answer=gold) for n, gold in enumerate([1, 2, 1])])
    with pytest.raises(DataError, match=r"may be counted from 0 or from 1.*--map gold\.0=answer if from 0"):
        read(path)
    assert [q.gold for q in read(path, "gold.0=answer")] == ["B", "C", "B"]
    assert [q.gold for q in read(path, "gold.1=answer")] == ["A", "B", "A"]
    write(path, [row(n, answer=gold) for n, gold in enumerate([0, 3, 1])])
    with pytest.raises(DataError, match=r"answer contradicts itself: .*q\.jsonl:1 counts options from 0, .*:2 from 1"):
        read(path)


def test_another_column_decides_and_two_that_differ_are_refused(tmp_path):
    rows = [row(n, answer=text, label=label) for n, (text, label) in enumerate([("sun", 1), ("rain", 0), ("sun", 1)])]
    path = write(tmp_path / "q.jsonl", rows)
    assert [q.gold for q in read(path)] == ["B", "A", "B"]
    rows[1]["label"] = 2
    with pytest.raises(
        DataError, match=r"q\.jsonl:2: .*'rain' as an option's text is A, label '2' as an index from 0 is C"
    ):
        read(write(path, rows))
    assert [q.gold for q in read(path, "gold=answer")] == ["B", "A", "B"]


def test_one_odd_row_of_many_neither_turns_an_index_nor_a_kind(tmp_path):
    """Named with its line, and left out if asked for; the others are read as if it were not there."""
    rows = [row(n, answer=n % 3) for n in range(20_000)]
    rows[12_344]["answer"] = 3
    path = write(tmp_path / "q.jsonl", rows)
    with pytest.raises(DataError, match=r"q\.jsonl:12345: answer is '3', expected a letter .* or an index from 0"):
        read(path)
    questions, bad = read_with_bad(path)
    assert (len(questions), len(bad)) == (19_999, 1)
    assert [q.gold for q in questions[:3]] == ["A", "B", "C"]


def test_numbers_among_texts_of_options_are_texts(tmp_path):
    """One number that is no option does not make indices of the others."""
    rows = [row(n, options=["4", "5", "6"], answer=str(4 + n % 3)) for n in range(60)]
    rows[30]["answer"] = "2"
    questions, bad = read_with_bad(write(tmp_path / "q.jsonl", rows))
    assert [q.gold for q in questions[:3]] == ["A", "B", "C"]
    assert "q.jsonl:31: answer is '2', expected a letter from A to C, an option's text." in bad[0]


def test_options_that_are_numbers_or_letters(tmp_path):
    numbers = [row(n, options=["4", "5", "6"], answer=gold) for n, gold in enumerate([4, 6, "5"])]
    assert "".join(q.gold for q in read(write(tmp_path / "q.jsonl", numbers))) == "ACB"
    letters = [row(1, options=["C", "B", "A"], answer="A")]
    with pytest.raises(DataError, match=r"answer 'A' as a letter is A, answer 'A' as an option's text is C"):
        read(write(tmp_path / "q.jsonl", letters))
    assert read(tmp_path / "q.jsonl", "gold.text=answer")[0].gold == "C"
    assert read(tmp_path / "q.jsonl", "gold.letter=answer")[0].gold == "A"


# ---- kinds


def test_kinds_follow_from_a_column(tmp_path):
    rows = [
        row(1, type="multiple choice"),
        row(2, type="number", options=None, answer="3.5"),
        row(3, type="Regression", options=None, answer=12),
        row(4, type="OCR", options=[], answer="NO EXIT"),
        row(5, type="open-ended", options=None, answer="a red ball"),
    ]
    questions = read(write(tmp_path / "q.jsonl", rows), "kind=type")
    assert [q.kind for q in questions] == ["choice", "numerical", "regression", "ocr", "free-form"]
    assert [q.gold for q in questions] == ["B", "3.5", "12", "NO EXIT", "a red ball"]


@pytest.mark.parametrize(
    ("golds", "kind"), [(["3", 4, "1,000"], "numerical"), (["a ball", "two", "nothing at all"], "free-form")]
)
def test_kinds_are_inferred(tmp_path, golds, kind):
    rows = [row(n, options=None, answer=gold) for n, gold in enumerate(golds)]
    if kind == "free-form":
        rows[1]["answer"] = "a cat"
    assert {q.kind for q in read(write(tmp_path / "q.jsonl", rows))} == {kind}
    assert {q.kind for q in read(tmp_path / "q.jsonl", "kind=ocr")} == {"ocr"}


def test_mixed_kinds_need_a_column(tmp_path):
    rows = [row(n, options=None, answer=str(n)) for n in range(9)] + [row(9, options=None, answer="n/a")]
    path = write(tmp_path / "q.jsonl", rows)
    with pytest.raises(
        DataError, match=r"q\.jsonl:10: answer is 'n/a': .*where 9 of 10 have a number.*--map kind=COLUMN"
    ):
        read(path)
    questions, bad = read_with_bad(path)
    assert (len(questions), len(bad)) == (9, 1)
    assert {q.kind for q in read(path, "kind=free-form")} == {"free-form"}
    write(path, [row(1), row(2), row(3, options=None, answer="rain")])
    with pytest.raises(DataError, match=r":3: answer is 'rain': a row with a text and no options, where 2 of 3"):
        read(path)


# ---- rows that cannot be used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "rain, sun, snow"}, r"options is 'rain, sun, snow', expected a list of texts"),
        ({"options": ["rain"]}, "options holds 1 options, expected 2 to 26"),
        ({"options": [str(n) for n in range(27)]}, "options holds 27 options"),
        ({"options": ["rain", None, "sun"]}, "expected a list of texts"),
        ({"answer": "D"}, "answer is 'D', expected a letter from A to C, an option's text"),
        ({"answer": "hail"}, "answer is 'hail', expected a letter"),
        ({"answer": ""}, "answer is empty, expected the right answer"),
        ({"video": ""}, "video hold no file"),
        ({"video": "https://x.org/a.mp4"}, "expected the path of a file on this machine"),
        ({"video": "a\0b"}, "expected the path of a file"),
        ({"video": "a" * 300}, "longer than a file's name can be"),
        ({"question": 5}, "question is 5, expected a text"),
        ({"question": ""}, "question is None, expected a text"),
        ({"id": ""}, "id is empty; every row has an id"),
        ({"id": "a\nb"}, "expected a number or a text of one line"),
        ({"id": "q1"}, r"id 'q1' stands already in 'own', at .*q\.jsonl:1"),
        ({"split": "a/b"}, "split is 'a/b', expected a printable name .* without a slash"),
        ({"split": "Work"}, "split is 'Work', expected .* not one of all, Daily life"),
        ({"category": "all"}, "category is 'all', which names all questions"),
    ],
)
def test_one_bad_row_is_named_with_its_line_and_field(tmp_path, change, message):
    rows = [row(n) for n in range(1, 40)] + [row(40) | change]
    path = write(tmp_path / "q.jsonl", rows)
    with pytest.raises(DataError, match=rf"q\.jsonl:40: .*{message}"):
        read(path)
    questions, bad = read_with_bad(path)
    assert len(questions) == 39
    assert len(bad) == 1
    assert "--skip-bad-rows" not in bad[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "essay"}, "kind is 'essay', expected choice, numerical"),
        ({"kind": "choice", "options": None}, "kind is choice, and options is empty"),
        ({"kind": "ocr"}, "kind is ocr, and there are options"),
        ({"kind": "numerical", "options": None, "answer": "many"}, "answer is 'many', expected a number"),
    ],
)
def test_bad_kinds(tmp_path, change, message):
    with pytest.raises(DataError, match=rf"q\.jsonl:2: {message}"):
        read(write(tmp_path / "q.jsonl", [row(1, kind="choice"), row(2) | change]))


def test_options_in_all_their_forms(tmp_path):
    forms = [
        list(ANSWERS),
        json.dumps(ANSWERS),
        str(list(ANSWERS)),
        {"A": "rain", "B": "sun", "C": "snow"},
        ["A. rain", "B. sun", "C. snow"],
    ]
    rows = [row(n, options=form) for n, form in enumerate(forms)]
    assert {q.options for q in read(write(tmp_path / "q.jsonl", rows))} == {ANSWERS}
    columns = [
        row(1, options=None, option_a="x", option_b="y", option_c="z"),
        row(2, options=None, option_a="x", option_b="y"),
    ]
    columns[1]["answer"] = "y"
    assert [q.options for q in read(write(tmp_path / "c.jsonl", columns))] == [("x", "y", "z"), ("x", "y")]
    columns[1].pop("option_b")
    columns[1]["option_c"] = "z"
    with pytest.raises(DataError, match="option_b is empty, and option_c, which follows it, is not"):
        read(write(tmp_path / "c.jsonl", columns))


def test_paths_may_be_absolute_and_lead_out_of_the_folder(tmp_path):
    rows = [row(1, video="/data/a.mp4", image="../v.png"), row(2, video=None, image="v.png")]
    both, image = read(write(tmp_path / "f" / "q.jsonl", rows))
    assert (str(both.video), both.image) == ("/data/a.mp4", tmp_path / "f" / "../v.png")
    assert (image.video, image.cluster) == (None, "v.png")


def test_one_column_may_hold_clips_and_pictures(tmp_path):
    rows = [
        row(1, video="a.mp4"),
        row(2, video="b.PNG"),
        row(3, video=None, image="c.webm"),
        row(4, video="d", image="e"),
        row(5, video=None, image="f.bmp"),
    ]
    questions = read(write(tmp_path / "q.jsonl", rows))
    assert [(q.video and q.video.name, q.image and q.image.name) for q in questions] == [
        ("a.mp4", None),
        (None, "b.PNG"),
        ("c.webm", None),
        ("d", "e"),
        (None, "f.bmp"),
    ]


def test_half_an_emoji_and_gaps_of_pandas(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row(1, category=float("nan"))) + "\n" + json.dumps(row(2, question="\ud83d")) + "\n")
    questions, bad = read_with_bad(path)
    assert [q.domain for q in questions] == [None]
    assert "half of a surrogate pair" in bad[0]
