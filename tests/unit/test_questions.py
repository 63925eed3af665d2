import json
import re
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest

from seedbench_r1.errors import DataError
from seedbench_r1.questions import (
    choose_subset,
    load_annotations,
    load_questions,
    load_training_rows,
    training_question,
)
from seedbench_r1.rows import BadRows
from tests.command import cli
from tests.rows import evaluation_row, training_row, write_rows
from tests.small_benchmark import copy_of, write_script


def test_a_row_becomes_a_question(tmp_path):
    write_rows(tmp_path / "annotations" / "validation_L1.jsonl", [evaluation_row(115)])
    (question,) = load_questions(tmp_path, ["L1"])
    assert question.question_id == "L1/115"
    assert question.options == ("boil water", "open the fridge", "wash the cup", "close the drawer")
    assert (question.gold, question.gold_text) == ("A", "boil water")
    assert question.video == tmp_path / "videos/EpicKitchens/115.mp4"
    assert question.image == tmp_path / "images/EpicKitchens/115.png"
    assert (question.cluster, question.domain) == ("P01_01", None)
    assert question.progress[0].narration == "fill kettle"


def test_an_empty_progress_means_no_video(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(task_progress_metadata=[])])
    assert load_annotations(path, tmp_path, "L1")[0].video is None


@pytest.mark.parametrize("folder", ["videos/EpicKitchens", "videos/EpicKitchens_flatten", "videos", "."])
def test_all_layouts_are_found(tmp_path, folder):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(7)])
    video = tmp_path / folder / "7.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"x")
    assert load_annotations(path, tmp_path, "L1")[0].video == video


@pytest.mark.parametrize("folder", ["videos/EpicKitchens", "videos", "videos/batch_17"])
@pytest.mark.parametrize(("named", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_other_unicode_form_of_a_name_is_used_and_said_once(tmp_path, caplog, folder, named, stored):
    names = [f"k\u00f6che \uac00 {number}.mp4" for number in range(2)]
    rows = [evaluation_row(i, video_basename=unicodedata.normalize(named, name)) for i, name in enumerate(names)]
    for name in names:
        video = tmp_path / folder / unicodedata.normalize(stored, name)
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(b"x")
    path = write_rows(tmp_path / "a.jsonl", rows)
    found = load_annotations(path, tmp_path, "L1")
    assert [q.video for q in found] == [tmp_path / folder / unicodedata.normalize(stored, name) for name in names]
    assert sum("another Unicode form" in message for message in caplog.messages) == 1
    # Where both are there, it is the one that is named.
    exact = tmp_path / folder / rows[0]["video_basename"]
    exact.write_bytes(b"x")
    assert load_annotations(path, tmp_path, "L1")[0].video == exact


def test_a_name_in_another_case_is_named_and_not_taken(data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "data")
    clip = next((root / "videos" / "EpicKitchens").iterdir())
    clip.rename(clip.with_suffix(".MP4"))
    for words in (("status",), ("verify", "--decode-sample", "0")):
        done = cli("data", *words, "--data-root", root, "--levels", "L1", cwd=tmp_path)
        assert f"{clip}" in done.stdout
        assert f"{clip.stem}.MP4 is there, in another case" in done.stdout
    script = write_script(tmp_path / "script.json")
    done = cli("eval", "--backend", "fake", "--model", script, "--data-root", root, "--levels", "L1", cwd=tmp_path)
    assert done.returncode == 4
    assert f"1 are there in another case: rename {clip.with_suffix('.MP4')}" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"golden_choice_idx": "E"}, "golden_choice_idx is 'E', expected A, B, C or D"),
        ({"golden_choice_idx": None}, "golden_choice_idx is None"),
        ({"choice_c": ""}, "choice_c is ''"),
        ({"sample_id": True}, "sample_id is True"),
        ({"sample_id": None}, "sample_id is None"),
        ({"question": 5}, "question is 5"),
        ({"task_progress_metadata": None}, "task_progress_metadata is None"),
        ({"task_progress_metadata": ["x"]}, "narration_text"),
        ({"task_progress_metadata": [{"narration_text": "x", "start_frame": "1"}]}, "start_frame"),
        ({"video_basename": "../../etc/passwd"}, "video_basename is '../../etc/passwd'"),
        ({"video_source": "/etc"}, "video_source is '/etc'"),
        ({"task_level": "L2"}, "task_level is 'L2' in a file of level L1"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path, changes, message):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(1), evaluation_row(2) | changes])
    with pytest.raises(DataError, match=r"a\.jsonl:2: ") as error:
        load_annotations(path, tmp_path, "L1")
    assert message in str(error.value)


def test_a_repeated_id_names_both_lines(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(1), evaluation_row(2), evaluation_row(1)])
    with pytest.raises(DataError, match=r"a\.jsonl:3: sample_id 1 stands already on line 1"):
        load_annotations(path, tmp_path, "L1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{nope\n", "a.jsonl:1: not valid JSON"),
        (b"[1]\n", "expected a JSON object"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"\n", "holds no questions"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_annotations(path, tmp_path, "L1")


def test_an_absent_file_says_where_it_should_be(tmp_path):
    with pytest.raises(DataError, match=r"validation_L2\.jsonl"):
        load_questions(tmp_path, ["L2"])


@pytest.mark.parametrize("spelling", ["Daily life", "Daily Life", "daily_life"])
def test_l3_domains_have_one_spelling(tmp_path, spelling):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row("u_1", domain=spelling)])
    question = load_annotations(path, tmp_path, "L3")[0]
    assert (question.question_id, question.domain) == ("L3/u_1", "Daily life")


def test_l3_needs_a_domain(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row("u_1")])
    with pytest.raises(DataError, match="domain is None"):
        load_annotations(path, tmp_path, "L3")


def test_training_options_depend_on_seed_question_and_epoch_alone(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", [training_row(i) for i in range(1, 41)])
    rows = load_training_rows(path, tmp_path)
    first = [training_question(row, seed=3, epoch=0) for row in rows]
    assert first == [training_question(row, seed=3, epoch=0) for row in reversed(rows)][::-1]
    assert first != [training_question(row, seed=3, epoch=1) for row in rows]
    assert first != [training_question(row, seed=4, epoch=0) for row in rows]
    for question in first:
        assert question.gold_text == "boil water"
        assert len(set(question.options)) == 4
    assert set(Counter(question.gold for question in first)) == set("ABCD")
    assert any("dry it" in question.options for question in first)


def test_training_negatives_must_suffice(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", [training_row(negative_answers=["x", "x", "y", "boil water"])])
    with pytest.raises(DataError, match="at least 3 different"):
        load_training_rows(path, tmp_path)


def test_a_training_row_with_choices_keeps_them(tmp_path):
    messages = [{"role": "user", "content": []}]
    path = write_rows(tmp_path / "t.jsonl", [evaluation_row(response="<think>…", prompt=messages)])
    (row,) = load_training_rows(path, tmp_path)
    assert row.fixed_options
    assert row.response == "<think>…"
    assert training_question(row, seed=0, epoch=5).options[0] == "boil water"


def cot_row(number: int, options: list[str], **changes) -> dict:
    """A row in the form of a chat file: the options stand in its prompt alone, and its response names one by letter."""
    text = "What next?\n" + "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=False))
    prompt = [{"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": text}]}]
    letter = "ABCDE"[options.index("boil water")]
    return training_row(number, prompt=prompt, response=f"<answer>{letter}</answer>") | changes


def test_a_response_keeps_the_options_of_its_own_prompt(tmp_path):
    orders = [
        ["dry it", "boil water", "wash the cup", "x"],
        ["a", "b", "c", "boil water"],
        ["boil water", "n", "m", "o"],
    ]
    path = write_rows(tmp_path / "t.jsonl", [cot_row(i, options) for i, options in enumerate(orders)])
    rows = load_training_rows(path, tmp_path)
    for epoch in range(3):
        drawn = [training_question(row, seed=epoch, epoch=epoch) for row in rows]
        assert [list(question.options) for question in drawn] == orders
        assert [question.gold for question in drawn] == ["B", "D", "A"]
    # Rows without a response teach no letter: their options are drawn.
    (free,) = load_training_rows(write_rows(path, [cot_row(1, orders[0], response=None)]), tmp_path)
    assert not free.fixed_options


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Q\nA. p\nB. boil water", ("p", "boil water")),
        ("Q\n(A) p\n\n(B) boil water\n(C) r\nThink first.", ("p", "boil water", "r")),
        ("Q\r\nA) p\r\n B) boil water \r\n", ("p", "boil water")),
        ("Q A. p B. boil water", None),  # on one line: where an option ends cannot be known
        ("Q\nA. p\nC. boil water", None),
        ("Q\nA. p\nand more\nB. boil water", None),
        ("As in\nA. p\nB. q\nanswer\nA. r\nB. boil water", None),  # two lists
        ("Q\nA. boil water", None),
        ("", None),
        (None, None),
    ],
)
def test_options_are_read_from_a_prompt_or_not_at_all(tmp_path, prompt, options):
    messages = [{"role": "system", "content": "A. no\nB. no"}, {"role": "user", "content": prompt}]
    for form in (messages, prompt):
        path = write_rows(tmp_path / "t.jsonl", [training_row(1, prompt=form, response="<answer>B</answer>")])
        (row,) = load_training_rows(path, tmp_path)
        assert row.fixed_options == (options is not None)
        if options:
            assert (row.question.options, row.question.gold) == (options, "B")


def test_a_row_whose_answer_is_not_one_of_its_own_options_is_refused(tmp_path):
    for options in (["a", "b", "c", "d"], ["boil water", "b", "c", "boil water"]):
        row = cot_row(1, ["boil water"]) | {
            "prompt": "\n".join(f"{x}. {y}" for x, y in zip("ABCD", options, strict=True))
        }
        with pytest.raises(DataError, match=r"t\.jsonl:1: the answer 'boil water' is [02] of the row's own options"):
            load_training_rows(write_rows(tmp_path / "t.jsonl", [row]), tmp_path)
    bare = training_row(1, response="<answer>A</answer>", negative_answers=[])
    with pytest.raises(DataError, match=r"t\.jsonl:1: a response without choices"):
        load_training_rows(write_rows(tmp_path / "t.jsonl", [bare]), tmp_path)


def test_an_absent_training_file_is_named_as_one(tmp_path):
    with pytest.raises(DataError, match=r"No training file at .*t\.jsonl\. .*--data .*--train-file") as seen:
        load_training_rows(tmp_path / "t.jsonl", tmp_path)
    assert "--annotations" not in str(seen.value)


def test_a_subset_is_stratified_seeded_and_grows(tmp_path):
    for level, n in (("L1", 50), ("L2", 20), ("L3", 3)):
        rows = [evaluation_row(i, domain="Work") for i in range(n)]
        write_rows(tmp_path / "annotations" / f"validation_{level}.jsonl", rows)
    questions = load_questions(tmp_path)
    ten = choose_subset(questions, 10, seed=0)  # one of each, and 7 of 49, 19 and 2
    assert Counter(question.split for question in ten) == {"L1": 6, "L2": 3, "L3": 1}  # shares 6.8, 2.7, 0.4
    assert ten == choose_subset(questions[::-1], 10, seed=0)[::-1]
    assert ten != choose_subset(questions, 10, seed=1)
    assert {q.question_id for q in ten} <= {q.question_id for q in choose_subset(questions, 30, seed=0)}
    assert choose_subset(questions, 1000, seed=0) == questions
    assert [len(choose_subset(questions, n, seed=0)) for n in range(74)] == list(range(74))


def test_a_subset_keeps_the_share_of_every_domain_and_each_has_one_first(tmp_path):
    sizes = {"Hobbies": 400, "Daily life": 200, "Recreation": 40, "Work": 20}
    rows = [evaluation_row(f"{name}-{i}", domain=name) for name, n in sizes.items() for i in range(n)]
    write_rows(tmp_path / "annotations" / "validation_L3.jsonl", rows)
    questions = load_questions(tmp_path, ["L3"])
    for limit in (20, 33, 66, 330):
        counts = Counter(question.domain for question in choose_subset(questions, limit, seed=0))
        for name, n in sizes.items():
            assert abs(counts[name] - max(1, limit * n / 660)) <= 1, (limit, counts)
    chosen = [{q.question_id for q in choose_subset(questions, n, seed=3)} for n in range(661)]
    assert all(less < more for less, more in pairwise(chosen))


# ---------------------------------------------------------------- files as they arrive


LETTERED = {"choice_a": "A. open", "choice_b": "B. wash", "choice_c": "C. close", "choice_d": "D. add"}


@pytest.mark.parametrize(
    ("changes", "options", "gold"),
    [
        ({"choice_e": "dance", "golden_choice_idx": "E"}, 5, "E"),
        ({"choice_d": None}, 3, "A"),
        ({"choice_c": None, "choice_d": None}, 2, "A"),
        ({"domain": None, "task_goal": None, "video_id": None, "task_level": "L1"}, 4, "A"),
        ({"domain": "Daily_Life"}, 4, "A"),
    ],
)
def test_rows_of_one_s_own(tmp_path, changes, options, gold):
    path = write_rows(tmp_path / "own.jsonl", [evaluation_row(7) | changes])
    (question,) = load_annotations(path, tmp_path, "custom")
    assert (len(question.options), question.gold) == (options, gold)
    assert question.cluster == (changes.get("video_id", "P01_01") or "7")
    assert question.domain == ("Daily life" if changes.get("domain") else None)


@pytest.mark.parametrize(
    ("level", "changes", "message"),
    [
        ("L1", {"choice_e": "dance"}, "choice_e is 'dance', expected choice_d to be the last option"),
        ("L1", {"choice_d": None}, "choice_d is None, expected a text"),
        ("L1", {"video_id": None}, "video_id is None, expected a text"),
        ("custom", {"choice_c": None}, "choice_d is 'close the drawer', expected choice_c to be the last"),
        ("custom", {"choice_f": "x"}, "choice_f is 'x', expected choice_e to be the last option"),
        ("custom", {"choice_b": None, "choice_c": None, "choice_d": None}, "choice_b is None"),
        ("custom", {"golden_choice_idx": "A, C"}, "golden_choice_idx is 'A, C', expected A, B, C or D"),
        ("custom", {"choice_a": "A. open", "choice_b": "B. wash"}, "options have the letters 'AB--'"),
        ("custom", {"domain": float("nan")}, "domain is nan, expected a text"),
        (
            "L1",
            {"task_progress_metadata": [{"narration_text": "x", "start_frame": float("inf"), "stop_frame": 1}]},
            "start_frame and stop_frame are inf and 1, expected numbers",
        ),
    ],
)
def test_an_odd_value_is_an_error_with_file_line_and_field(tmp_path, level, changes, message):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(1), evaluation_row(2) | changes])
    with pytest.raises(DataError) as error:
        load_annotations(path, tmp_path, level)
    assert str(error.value).startswith(f"{path}:2: {message}")


def test_options_that_bring_their_letters_are_shown_with_one(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(1) | LETTERED, evaluation_row(2, choice_b="C. elegans")])
    lettered, worm = load_annotations(path, tmp_path, "L1")
    assert lettered.options == ("open", "wash", "close", "add")
    assert worm.options[1] == "C. elegans"


@pytest.mark.parametrize("form", ["bom", "crlf", "list", "list with bom", "no last newline"])
def test_forms_of_a_file(tmp_path, form):
    rows = [evaluation_row(1), evaluation_row(2, question="What\u2028next?")]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    content = {
        "bom": b"\xef\xbb\xbf" + lines.encode() + b"\n",
        "crlf": lines.replace("\n", "\r\n").encode() + b"\r\n",
        "list": json.dumps(rows, indent=1).encode(),
        "list with bom": b"\xef\xbb\xbf\n" + json.dumps(rows).encode(),
        "no last newline": lines.encode(),
    }[form]
    (path := tmp_path / "a.jsonl").write_bytes(content)
    first, second = load_annotations(path, tmp_path, "L1")
    assert (first.question_id, second.text) == ("L1/1", "What\u2028next?")
    assert first.source is not None
    assert first.source.line == 1


def test_bad_rows_are_left_out_and_counted_when_asked(tmp_path):
    good = json.dumps(evaluation_row(1))
    odd = [json.dumps(evaluation_row(2, golden_choice_idx="3/8")), "{", "[]", good, json.dumps(evaluation_row(3))]
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join([good, *odd]).encode() + b"\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: golden_choice_idx.*To leave such rows out: --skip-bad-rows"):
        load_annotations(path, tmp_path, "L1", BadRows(skip=False))
    bad = BadRows(skip=True)
    assert [q.question_id for q in load_annotations(path, tmp_path, "L1", bad)] == ["L1/1", "L1/3"]
    starts = [re.search(r"a\.jsonl:(\d+): (\S+)", message).groups() for message in bad.messages]
    assert starts == [("2", "golden_choice_idx"), ("3", "not"), ("4", "expected"), ("5", "sample_id"), ("7", "not")]


@pytest.mark.parametrize("form", ["lines", "list"])
def test_a_key_that_stands_twice_is_no_row(tmp_path, form):
    """JSON readers take the last one: the gold letter would change without a word. Other rows may be kept."""
    good = json.dumps(evaluation_row(2))
    line = json.dumps(evaluation_row(1))
    line = line.replace('"golden_choice_idx": "A"', '"golden_choice_idx": "A", "golden_choice_idx": "B"')
    (path := tmp_path / "a.jsonl").write_text(f"{line}\n{good}\n" if form == "lines" else f"[{line}, {good}]")
    with pytest.raises(DataError, match=r"a\.jsonl(:1|: index 0): .*'golden_choice_idx' stands twice"):
        load_annotations(path, tmp_path, "L1")
    bad = BadRows(skip=True)
    assert [q.question_id for q in load_annotations(path, tmp_path, "L1", bad)] == ["L1/2"]
    assert len(bad.messages) == 1


@pytest.mark.parametrize("name", ["choice_E", "choice_aa", "Choice_b"])
def test_an_option_under_another_name_is_not_dropped(tmp_path, name):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(1) | {name: "dance"}])
    for level in ("L1", "custom"):
        with pytest.raises(DataError, match=f"a\\.jsonl:1: {name} is 'dance', expected choice_"):
            load_annotations(path, tmp_path, level)
