"""The miniature benchmark on disk: schema, media, repeatability; and that its answers can be read off the files."""

import dataclasses
import json
from collections import Counter
from itertools import product
from random import Random

import av
import numpy as np
import pytest
from PIL import Image

from seedbench_r1.demo.dataset_writer import _replacing, write_benchmark, write_clip
from seedbench_r1.demo.render import ClipFormat, render_clip, render_image
from seedbench_r1.demo.traces import concluded_action, vocabulary_texts, write_reasoning
from seedbench_r1.demo.world import draw_situations
from seedbench_r1.errors import ConfigError
from seedbench_r1.parsing import parse_response
from seedbench_r1.questions import load_questions, load_training_rows, training_question
from seedbench_r1.types import DOMAINS, LEVELS

TINY = {"frame_size": (56, 56), "fps": 4, "seconds": 2}
STATES = list(product((0, 1), repeat=4))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_benchmark(root, train=16, cot=12, inconsistent=0.5, **TINY)
    return root


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def decoded(path):
    """(frames, height, width, 3) uint8"""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def distance(a, b):
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# --- what is written --------------------------------------------------------------------------------------------


def test_the_default_benchmark_loads_and_is_complete(benchmark):
    questions = load_questions(benchmark)
    assert Counter(question.split for question in questions) == {"L1": 12, "L2": 8, "L3": 8}
    assert Counter(q.domain for q in questions) == {None: 20} | dict.fromkeys(DOMAINS, 2)
    assert all(question.image.is_file() for question in questions)
    assert all(question.video.is_file() for question in questions if question.video)
    for level in LEVELS:
        rows = [question for question in questions if question.split == level]
        assert any(question.video is None and not question.progress for question in rows)
        assert set(Counter(question.cluster for question in rows).values()) == {2}
        assert set(Counter(question.gold for question in rows).values()) == {len(rows) // 4}
    assert "Considering my current observation" in next(q for q in questions if q.video is None).text


def test_rows_have_the_benchmark_schema(benchmark):
    common = {"sample_id", "video_source", "video_id", "task_goal", "question", "answer", "task_progress_metadata"}
    common |= {"current_observation_frame", "video_basename", "current_observation_basename"}
    choices = {"choice_a", "choice_b", "choice_c", "choice_d", "golden_choice_idx"}
    expected = {
        "validation_L1": (common | choices | {"task_level"}, int, "EpicKitchens"),
        "validation_L2": (common | choices | {"task_level"}, int, "Ego4D"),
        "validation_L3": (common | choices | {"task_level", "domain", "scenario", "task_start_frame"}, str, "Ego4D"),
        "training_6k": (common | {"negative_answers"}, int, "EpicKitchens"),
        "training_with_cot_6k": (
            common | choices | {"negative_answers", "prompt", "response"},
            int,
            "EpicKitchens",
        ),
    }
    for name, (keys, kind, source) in expected.items():
        for line in (benchmark / "annotations" / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert set(row) == keys | {"data_source"}
            assert row["data_source"] == "miniature"  # boards must not take it for the benchmark
            assert type(row["sample_id"]) is kind
            assert row["video_source"] == source
            if "golden_choice_idx" in row:
                assert row[f"choice_{row['golden_choice_idx'].lower()}"] == row["answer"]


def test_clips_are_closed_gop_yuv420p_h264_of_the_length_asked(benchmark):
    for question in load_questions(benchmark):
        if question.video is None:
            continue
        with av.open(str(question.video)) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 56, 56)
            assert stream.average_rate == 4
            assert sum(1 for _ in container.decode(video=0)) == 8
        assert b"open_gop=0" in question.video.read_bytes()  # x264 writes its settings into the stream


def test_the_same_seed_gives_the_same_files_and_another_seed_others(benchmark, tmp_path):
    write_benchmark(tmp_path, train=16, cot=12, inconsistent=0.5, **TINY)
    first = files(tmp_path)
    assert first == files(benchmark)
    write_benchmark(tmp_path, train=16, cot=12, inconsistent=0.5, **TINY)
    assert files(tmp_path) == first
    write_benchmark(tmp_path / "other", seed=1, questions={"L1": 12}, **TINY)
    other = files(tmp_path / "other")
    assert all(first[name] != content for name, content in other.items())


def test_equal_frames_are_encoded_to_equal_bytes(tmp_path):
    """At this size x264's macroblock tree gave a different stream in one of three trials."""
    clip = ClipFormat((224, 168), 4, 2)
    frames = list(render_clip(draw_situations("L1", 12, 0)[5], clip))
    streams = set()
    for _ in range(20):
        write_clip(tmp_path / "a.mp4", frames, clip.fps)
        streams.add((tmp_path / "a.mp4").read_bytes())
    assert len(streams) == 1


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def fail_half_way():
        with _replacing(path) as temporary:
            temporary.write_text("half")
            raise ConfigError("stop")

    with pytest.raises(ConfigError, match="stop"):
        fail_half_way()
    assert files(tmp_path) == {"rows.jsonl": b"old"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"questions": {"L4": 1}}, "L4"),
        ({"questions": {"L1": -1}}, "-1"),
        ({"train": -1}, "-1"),
        ({"train": 3, "cot": -1}, "-1"),
        ({"inconsistent": 1.5}, "1.5"),
        ({"frame_size": (57, 56)}, "57"),
        ({"fps": 2, "seconds": 1}, "2 frames"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        write_benchmark(tmp_path / "root", **arguments)
    assert not (tmp_path / "root").exists()


def test_a_clip_without_frames_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one frame"):
        write_clip(tmp_path / "a.mp4", [], 4)


# --- solvable from the files ---------------------------------------------------------


def seen_in_image(situation, pixels):
    """States of the four items read off an image: the states whose own picture is nearest."""
    recording = situation.recording

    def picture(states):
        return render_image(dataclasses.replace(situation, recording=with_states(recording, states), done=0), (56, 56))

    return min(STATES, key=lambda states: distance(picture(states), pixels))


def with_states(recording, states):
    return dataclasses.replace(recording, states=tuple(states))


def done_in_clip(situation, frames, clip):
    """Steps done, read off a clip's last frame: the item and state that look most like it."""
    shown = {}
    for done, states in product((1, 2, 3), STATES):
        candidate = dataclasses.replace(situation, recording=with_states(situation.recording, states), done=done)
        last = list(render_clip(candidate, clip))[-1]
        shown[done] = min(shown.get(done, np.inf), distance(last, frames[-1]))
    return min(shown, key=shown.__getitem__)


def test_clip_and_image_together_determine_the_answer(benchmark):
    """An oracle that knows the chores and how items look reads every answer off the files."""
    clip = ClipFormat(**TINY)
    for level in LEVELS:
        questions = load_questions(benchmark, [level])
        for situation, question in zip(draw_situations(level, len(questions), 0), questions, strict=True):
            states = seen_in_image(situation, np.asarray(Image.open(question.image)))
            done = 0 if question.video is None else done_in_clip(situation, decoded(question.video), clip)
            action = situation.recording.goal.items[done].action(states[done])
            assert question.options.count(action) == 1
            assert question.gold_text == action


# --- training rows and reasoning --------------------------------------------------------------------------------


def test_training_rows_load_and_keep_the_two_by_two_options(benchmark):
    rows = load_training_rows(benchmark / "annotations" / "training_6k.jsonl", benchmark)
    assert len(rows) == 16
    for row, situation in zip(rows, draw_situations("train", 16, 0), strict=True):
        assert not row.fixed_options
        question = training_question(row, seed=0, epoch=0)
        assert sorted(question.options) == sorted(situation.options)
        assert question.gold_text == situation.answer
        assert question.image.is_file()


def test_cot_rows_fix_their_options_and_answer_gold(benchmark):
    rows = load_training_rows(benchmark / "annotations" / "training_with_cot_6k.jsonl", benchmark)
    consistent = []
    for row in rows:
        parsed = parse_response(row.response, row.question.options)
        assert row.fixed_options
        assert parsed.format_ok
        assert parsed.answer == row.question.gold
        concluded = concluded_action(parsed.reasoning)
        assert concluded in row.question.options
        consistent.append(concluded == row.answer)
        *media, text = row.prompt[0]["content"]
        assert "\n".join(f"{a}. {o}" for a, o in zip("ABCD", row.question.options, strict=True)) in text["text"]
        assert [benchmark / part[part["type"]] for part in media] == [
            path for path in (row.question.video, row.question.image) if path
        ]
    assert len(rows) == 12
    assert {True, False} == set(consistent)


def test_the_share_of_inconsistent_responses_is_the_one_asked(tmp_path):
    for share, low, high in ((0.0, 0, 0), (0.25, 14, 36), (1.0, 100, 100)):  # 25 +- 2.5 standard deviations
        write_benchmark(tmp_path, questions={}, cot=100, inconsistent=share, frame_size=(28, 28), fps=2, seconds=3)
        rows = load_training_rows(tmp_path / "annotations" / "training_with_cot_6k.jsonl", tmp_path)
        concluded = [concluded_action(parse_response(row.response).reasoning) for row in rows]
        wrong = sum(action != row.answer for action, row in zip(concluded, rows, strict=True))
        assert low <= wrong <= high
    assert not (tmp_path / "annotations" / "training_6k.jsonl").exists()


def test_the_conclusion_of_any_reasoning_is_read_exactly():
    for situation in draw_situations("train", 56, 2):
        for option in situation.options:
            reasoning = write_reasoning(situation, option, Random(0))
            assert concluded_action(reasoning) == option
            assert reasoning.endswith(f"So I should {option}.")


@pytest.mark.parametrize(
    ("reasoning", "action"),
    [
        ("So I should fill the cup.", "fill the cup"),
        ("A. So I should fill the cup. So I should fill the cup.", "fill the cup"),
        ("So I should fill the cup. So I should empty the cup.", None),
        ("So I should fill the cup", None),
        ("I should fill the cup.", None),
        ("So I should fill the shirt.", None),
        ("So I should fill the cup and empty the basket.", None),
        ("A", None),
        ("", None),
    ],
)
def test_what_counts_as_a_conclusion(reasoning, action):
    assert concluded_action(reasoning) == action


def test_the_vocabulary_texts_hold_every_word():
    known = {word.rstrip(",") for text in vocabulary_texts() for word in text.replace("?", "").split()}
    for situation in draw_situations("train", 400, 0):
        reasoning = write_reasoning(situation, situation.answer, Random(situation.recording.video_id))
        for text in (situation.question, *situation.options, reasoning):
            words = text.replace("?", "").replace(", ", " ").split()
            assert {word for word in words if word not in known and word.rstrip(":.") not in known} == set()
