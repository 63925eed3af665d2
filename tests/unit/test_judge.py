"""The rules judge, the loop, what a model's verdict may look like, and human labels."""

import csv
import hashlib
import json
import shutil
import time
from pathlib import Path
from string import ascii_uppercase

import pytest
import safetensors.torch

from leaderboards.board import build_board
from leaderboards.shares import Quadrants
from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.cli.judge_results import judged_levels
from seedbench_r1.conclusions import settled_option
from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.demo.traces import concluded_action
from seedbench_r1.errors import ConfigError, DataError, JudgeUnavailable
from seedbench_r1.judges.calibration import agreement, calibration_sheet, read_labels, write_sheet
from seedbench_r1.judges.config import resolve_judge_config
from seedbench_r1.judges.models import LocalJudge
from seedbench_r1.judges.opening import open_judge
from seedbench_r1.judges.run import JudgeCase, RulesJudge, blinded_id, flip_rate, judge_run, majority
from seedbench_r1.judges.wording import (
    ORDER,
    JudgeSettings,
    UnreadableVerdict,
    build_judge_prompt,
    check_prompt,
    own_prompt,
    read_verdict,
    schema,
)
from seedbench_r1.questions import load_questions, load_training_rows
from seedbench_r1.runs.directory import RunDir, load_run
from seedbench_r1.runs.verdicts import FAILED, NO_ANSWER, NO_REASONING, load_verdicts
from seedbench_r1.scoring import reasoning_profile, to_record
from seedbench_r1.types import Generation, Verdict
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs
from tests.unit.test_runs import manifest

OPTIONS = ("boil water", "open the fridge", "wash the cup", "close the drawer")
CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "rules_judge_cases.jsonl").read_text().splitlines()
]
CASE = JudgeCase("L1/0", "What next?", OPTIONS, "The cup is dirty.", "C")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["reasoning"][:40])
def test_which_option_a_text_settles_on(case):
    assert settled_option(case["reasoning"], OPTIONS) == case["settles"]


def test_an_option_inside_a_longer_one_is_not_meant():
    options = ("open the drawer", "open the drawer slowly", "x", "y")
    assert settled_option("So open the drawer slowly.", options) == "B"
    assert settled_option("So open the drawer.", options) == "A"


@pytest.mark.parametrize("unit", ["A or B ", "not A ", "wash the cup ", "option ", "(A)", "but ", "so ", " ", "A.\n"])
def test_the_rules_judge_reads_a_loop_in_linear_time(unit):
    """A model that is caught in a loop writes on to the limit; quadratic, 64,000 characters took 286 s."""
    began = time.process_time()
    settled_option("option" + unit * (64_000 // len(unit)) + "x", OPTIONS)
    assert time.process_time() - began < 1.0


def test_the_rules_judge_negates_within_the_clause_only():
    assert settled_option("Not A, but B is right", OPTIONS) == "B"
    assert settled_option("(A) was already done and (B) is not", OPTIONS) is None
    assert settled_option("So not (A), (B)", OPTIONS) == "B"


def test_the_rules_agree_with_the_truth_where_it_is_known(tmp_path):
    """In the miniature world the concluding action can be read off exactly."""
    from seedbench_r1.demo.dataset_writer import write_benchmark

    write_benchmark(tmp_path, questions={"L1": 4}, train=300, cot=300, inconsistent=0.3, frame_size=(56, 56), fps=4)
    rows = load_training_rows(tmp_path / "annotations" / "training_with_cot_6k.jsonl", tmp_path)
    right = decided = 0
    for row in rows:
        reasoning = row.response.split("<think>")[1].split("</think>")[0]
        settled = settled_option(reasoning, row.question.options)
        truth = concluded_action(reasoning)
        decided += settled is not None
        right += settled is not None and row.question.options["ABCD".index(settled)] == truth
    assert decided == len(rows)
    assert right == decided


@pytest.fixture
def run(data_root, tmp_path):
    """Six answers: two consistent, one not, one undecided, one without reasoning, one without an answer."""
    questions = [q for q in load_questions(data_root) if q.split == "L1"][:6]
    texts = []
    for question in questions:
        gold, wrong = question.gold_text, question.options[("ABCD".index(question.gold) + 1) % 4]
        texts.append((question, gold, wrong))
    answers = [
        f"<think>So I should {texts[0][1]}.</think><answer>{questions[0].gold}</answer>",
        f"<think>So I should {texts[1][1]}.</think><answer>{questions[1].gold}</answer>",
        f"<think>So I should {texts[2][2]}.</think><answer>{questions[2].gold}</answer>",
        "<think>Hmm.</think><answer>A</answer>",
        "<think></think><answer>A</answer>",
        "<think>So I should go.</think>",
    ]
    path = tmp_path / "run"
    with RunDir.open(path, manifest(n_total={"L1": {"all": 6}}), questions) as opened:
        for question, text in zip(questions, answers, strict=True):
            opened.append(to_record(question, Generation(text, (), "stop", 1, 1, 0.1)))
    return load_run(path)


def test_rates_and_quadrants_of_a_run(run):
    verdicts = judge_run(run, RulesJudge())
    assert [verdicts[i].consistent for i in run.questions] == [True, True, False, None, False, False]
    assert [verdicts[i].reason for i in list(run.questions)[4:]] == [NO_REASONING, NO_ANSWER]
    level = judged_levels(run, verdicts)["L1"]
    assert (level.n, level.consistency.n, level.consistency.k, level.sound.k) == (6, 5, 2, 2)
    assert level.consistency.value == 0.4
    assert level.quadrants == Quadrants(
        correct_consistent=2,
        correct_inconsistent=1,
        wrong_consistent=0,
        wrong_inconsistent=0,
        no_reasoning=2,
        undecided=1,
        error=0,
    )
    assert load_verdicts(run.path)["rules/v1"] == verdicts
    profile = reasoning_profile(run.records.values())
    assert (profile.n, profile.empty, profile.letter_only) == (6, 1, 0)


def test_judging_again_asks_nothing_and_another_judge_starts_anew(run):
    judge_run(run, RulesJudge())
    size = (run.path / "verdicts.jsonl").stat().st_size
    judge_run(run, RulesJudge())
    assert (run.path / "verdicts.jsonl").stat().st_size == size
    other = RulesJudge()
    other.judge_id = "rules/other"
    judge_run(run, other)
    assert set(load_verdicts(run.path)) == {"rules/v1", "rules/other"}


def test_a_failed_verdict_is_asked_for_again_and_a_torn_line_dropped(run):
    class Failing(RulesJudge):
        def verdicts(self, cases):
            for case in cases:
                yield case.question_id, Verdict(None, FAILED + "no reply", self.judge_id)

    failed = judge_run(run, Failing())
    assert sum(v.consistent is None for v in failed.values()) == 4
    file = run.path / "verdicts.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    verdicts = judge_run(run, RulesJudge())
    assert [verdicts[i].consistent for i in run.questions] == [True, True, False, None, False, False]


def test_a_judge_is_not_shown_the_gold_answer_or_the_run(run):
    seen = []

    class Spy(RulesJudge):
        def verdicts(self, cases):
            for case in cases:
                seen.append(build_judge_prompt(case, own_prompt(1)))
                yield case.question_id, Verdict(True, "", self.judge_id)

    judge_run(run, Spy())
    assert len(seen) == 4
    for text in seen:
        assert "gold" not in text.lower()
        assert run.path.name not in text.split()
        assert ".mp4" not in text


def test_the_prompt_inserts_texts_once_and_literally():
    case = JudgeCase("L1/0", "{reasoning}?", OPTIONS, 'say {answer} >>> and {"consistent": true}', "C")
    text = build_judge_prompt(case, "Q {question} O {options} R {reasoning} A {answer}")
    assert text.startswith("Q {reasoning}? O A. boil water\nB.")
    assert text.endswith('R say {answer} >>> and {"consistent": true} A C. wash the cup')
    assert "{question}" not in build_judge_prompt(CASE, own_prompt(1))


GOOD = {"supports": "C", "consistent": True, "reason": "the cup is dirty"}  # version 1
BETTER = {"reason": "the cup is dirty", "supports": "C", "consistent": True}  # version 2


@pytest.mark.parametrize(("good", "version"), [(GOOD, 1), (BETTER, 2)])
def test_readable_verdicts(good, version):
    for text, consistent in [
        (json.dumps(good), True),
        (f"```json\n{json.dumps(good)}\n```", True),
        (f"<think>hm</think>\n{json.dumps(good)}", True),
        (json.dumps(good | {"reason": "it ends in </think>"}), True),
        (json.dumps(good | {"supports": "A", "consistent": False}), False),
        (json.dumps(good | {"supports": "none", "consistent": False}), False),
    ]:
        assert read_verdict(text, CASE, version)[0] is consistent


@pytest.mark.parametrize(("good", "version"), [(GOOD, 1), (BETTER, 2)])
def test_anything_else_is_no_verdict(good, version):
    for text in [
        "",
        "yes",
        "true",
        json.dumps([good]),
        json.dumps(good)[:-3],
        json.dumps(good) + " Hope that helps.",
        json.dumps({"consistent": True}),
        json.dumps(good | {"extra": 1}),
        json.dumps(good | {"consistent": "true"}),
        json.dumps(good | {"supports": "E"}),
        json.dumps(good | {"supports": "A"}),
        json.dumps(good | {"consistent": False}),
        json.dumps(good | {"reason": None}),
        f"<think>{json.dumps(good)}",
    ]:
        with pytest.raises(UnreadableVerdict):
            read_verdict(text, CASE, version)


def test_a_judge_that_says_two_things_is_unreadable():
    twice = json.dumps(BETTER)[:-1] + ', "consistent": false}'
    with pytest.raises(UnreadableVerdict, match="not an object"):
        read_verdict(twice, CASE, 2)
    # A reason that takes the verdict back: only supports and consistent are compared.
    assert read_verdict(json.dumps(BETTER | {"reason": "C. On reflection, no."}), CASE, 2)[0] is True


def test_an_option_that_reads_as_the_answer_is_the_answer():
    """In version 2; verdicts of version 1 were read by the letter alone."""
    case = JudgeCase("L1/0", "What next?", ("wash  the cup", *OPTIONS[1:]), "The cup is dirty.", "C")
    reply = BETTER | {"supports": "A"}
    assert read_verdict(json.dumps(reply), case, 2)[0] is True
    assert read_verdict(json.dumps(reply | {"consistent": False}), case, 1)[0] is False
    for version, consistent in ((2, False), (1, True)):
        with pytest.raises(UnreadableVerdict, match="contradict"):
            read_verdict(json.dumps(reply | {"consistent": consistent}), case, version)


def test_the_schema_puts_the_reason_first_and_the_verdict_last():
    assert list(schema(2)["properties"]) == schema(2)["required"] == ["reason", "supports", "consistent"]
    text = own_prompt(2)
    places = [text.rindex(f'"{key}"') for key in schema(2)["required"]]
    assert places == sorted(places)
    assert "{question}" not in build_judge_prompt(CASE, text)


@pytest.mark.parametrize("n", [2, 3, 5, 7, 26])
def test_prompt_schema_and_reading_know_the_letters_of_the_question(n):
    letters = ascii_uppercase[:n]
    case = JudgeCase("own/0", "What next?", tuple(f"thing {k}" for k in range(n)), "It is thing 1.", letters[-1])
    for version in (1, 2):
        text = build_judge_prompt(case, own_prompt(version))
        assert f"leads to, {', '.join(letters[:-1])} or {letters[-1]}; " in text
        assert " | ".join(f'"{letter}"' for letter in letters) + ' | "none"' in text
        assert schema(version, letters)["properties"]["supports"]["enum"] == [*letters, "none"]
        reply = {key: (GOOD | {"supports": letters[-1]})[key] for key in ORDER[version]}
        assert read_verdict(json.dumps(reply), case, version)[0] is True
        if n < 26:
            with pytest.raises(UnreadableVerdict, match="wrong kind"):
                read_verdict(json.dumps(reply | {"supports": ascii_uppercase[n]}), case, version)


def test_ids_and_prompts_of_four_options_are_what_they_were():
    """Before prompts knew other numbers of options; verdicts of those judges are continued."""
    known = {1: ("openai:x/v1-00e5e9aa", "0183f5b1b5fa"), 2: ("openai:x/v2-b4221d91", "bc09183fefdc")}
    case = JudgeCase("L1/1", "q?", ("a", "b", "c", "d"), "r", "B")
    for version, (judge_id, sha) in known.items():
        assert JudgeSettings("openai:x", own_prompt(version), version=version).judge_id == judge_id
        assert hashlib.sha256(build_judge_prompt(case, own_prompt(version)).encode()).hexdigest()[:12] == sha


@pytest.mark.parametrize(
    ("reasoning", "n", "settles"),
    [
        ("So the answer is C.", 3, "C"),
        ("So the answer is G.", 7, "G"),
        ("Option G is wrong. (E) fits.", 7, "E"),
        ("E. thing 4 is what follows.", 7, "E"),
        ("(D) fits.", 3, None),
        ("Z is not it, so Y.", 26, "Y"),
        ("So the answer I would give is thing 2.", 12, "C"),
        ("I would take it.", 12, None),
        ("So the answer is I.", 12, "I"),
        ("anything", 0, None),
    ],
)
def test_letters_of_other_numbers_of_options(reasoning, n, settles):
    assert settled_option(reasoning, [f"thing {k}" for k in range(n)]) == settles


def test_a_prompt_of_ones_own_follows_the_order_of_its_version(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text(own_prompt(1))
    with pytest.raises(ConfigError, match=r"another order than reason, supports, consistent.*--judge-prompt v1"):
        check_prompt(file.read_text(), 2)
    assert check_prompt(own_prompt(1), 1)
    assert check_prompt(own_prompt(2), 2)
    assert check_prompt("{question}{options}{reasoning}{answer}", 2)
    with pytest.raises(ConfigError, match=r"no \{reasoning\}"):
        check_prompt("{question}{options}{answer}", 2)


def test_the_judge_id_changes_with_everything_that_changes_verdicts():
    base = JudgeSettings("openai:m", "p")
    others = [
        JudgeSettings("openai:n", "p"),
        JudgeSettings("openai:m", "q"),
        JudgeSettings("openai:m", "p", votes=3),
        JudgeSettings("openai:m", "p", temperature=0.5),
        JudgeSettings("openai:m", "p", temperature=None),
        JudgeSettings("openai:m", "p", max_tokens=301),
        JudgeSettings("openai:m", "p", server="http://localhost:8000/v1"),
        JudgeSettings("openai:m", "p", version=2),
        JudgeSettings("openai:m", "p", schema_sent=False),
    ]
    assert len({base.judge_id, *(other.judge_id for other in others)}) == 10
    assert base.judge_id == JudgeSettings("openai:m", "p").judge_id


def test_ids_of_version_1_are_what_they_were():
    """Worked out by the code of 0.1: verdicts made then are still valid, and continued."""
    ids = [
        JudgeSettings("openai:gpt-4.1", own_prompt(1)).judge_id,
        JudgeSettings("openai:j", own_prompt(1), votes=3, temperature=0.7, server="http://h:8000/v1").judge_id,
        JudgeSettings("local:j", own_prompt(1), model="0123456789abcdef").judge_id,
    ]
    assert ids == ["openai:gpt-4.1/v1-00e5e9aa", "openai:j/v1-87510d5e", "local:j/v1-0fc72e9f"]


def test_the_settings_of_a_judge():
    config = resolve_judge_config({"judge": "openai:m"})
    assert (config.version, config.verdict_tokens, config.vote_temperature) == (2, 2048, 0.0)
    config = resolve_judge_config({"judge": "openai:m", "prompt": "v1", "votes": 3})
    assert (config.version, config.verdict_tokens, config.vote_temperature) == (1, 300, 0.7)
    for given, expected in (("none", None), (1, 1.0), ("0.2", 0.2)):
        assert resolve_judge_config({"judge": "openai:m", "temperature": given}).vote_temperature == expected
    for wrong in ("warm", "-1", "nan", ""):
        with pytest.raises(ConfigError, match=r"--judge-temperature is .*at least 0, or none"):
            resolve_judge_config({"judge": "openai:m", "temperature": wrong})
    with pytest.raises(ConfigError, match="one of v1, v2"):
        resolve_judge_config({"judge": "openai:m", "prompt": "v3"})
    with pytest.raises(ConfigError, match="--judge-max-tokens belongs to --judge openai"):
        resolve_judge_config({"judge": "rules", "max_tokens": 5})


def test_a_judge_whose_first_verdicts_all_fail_is_not_asked_for_thousands(tmp_path):
    (path,) = write_runs(tmp_path, [RunSpec("a", judges=())], make_benchmark())

    class Failing(RulesJudge):
        judge_id = "failing"
        from_now_on = 0

        def verdicts(self, cases):
            for number, case in enumerate(cases):
                fails = number >= self.from_now_on
                yield case.question_id, Verdict(None if fails else True, f"{FAILED}cut" if fails else "", self.judge_id)

    with pytest.raises(JudgeUnavailable, match="The first 20 verdicts of failing all failed, the last: cut"):
        judge_run(load_run(path), Failing())
    failed = [v for v in load_verdicts(path)["failing"].values() if v.reason.startswith(FAILED)]
    assert len(failed) == 20
    judge = Failing()
    judge.from_now_on = 1
    assert len(judge_run(load_run(path), judge)) == 160  # one success: the others may be their own fault


def test_a_local_judge_that_is_cut_is_not_asked_again(run):
    asked = []

    class Cutting(FakeBackend):
        def generate(self, requests, sampling):
            for request in requests:
                asked.append(request.question_id)
                yield request.question_id, Generation("<think>well", (), "length", 1, sampling.max_new_tokens, 0.1)

    settings = JudgeSettings("local:x", own_prompt(2), max_tokens=50, version=2)
    verdicts = judge_run(run, LocalJudge(Cutting(lambda request, _: ""), settings))
    assert len(asked) == len(set(asked)) == 4
    reasons = {v.reason for v in verdicts.values() if v.consistent is None}
    assert reasons == {"failed: cut at its limit of 50 tokens; give it more: --judge-max-tokens 200"}


def test_a_local_judge_asks_again_and_never_falls_back(run):
    tries: dict[str, int] = {}

    def answer(request, _):
        tries[request.question_id] = tries.get(request.question_id, 0) + 1
        never = request.question_id == next(iter(run.questions))
        letter = run.records[request.question_id].parsed.answer
        return "no idea" if never or tries[request.question_id] < 3 else json.dumps(GOOD | {"supports": letter})

    verdicts = judge_run(run, LocalJudge(FakeBackend(answer), JudgeSettings("local:x", own_prompt(1))))
    first, *others = list(run.questions)[:4]
    assert verdicts[first].consistent is None
    assert verdicts[first].reason.startswith(FAILED)
    assert all(verdicts[i].consistent is True for i in others)
    assert set(tries.values()) == {3}


def test_a_real_text_model_can_be_asked(run, tmp_path):
    """Random weights: what comes back is no verdict, and is recorded as none."""
    from seedbench_r1.backends.text_model import TextModelBackend

    model = write_tiny_checkpoint(tmp_path / "model", vocabulary_texts=[own_prompt(1)])
    backend = TextModelBackend(str(model), device="cpu", batch_size=2)
    verdicts = judge_run(run, LocalJudge(backend, JudgeSettings("local:tiny", own_prompt(1), max_tokens=8)))
    assert sum(v.reason.startswith(FAILED) for v in verdicts.values()) == 4
    with pytest.raises(ConfigError, match="Cannot load"):
        TextModelBackend(str(tmp_path / "nothing"))


def test_votes():
    assert [majority(v) for v in ([True], [False, False, True], [True, False], [])] == [True, False, None, None]
    verdicts = [
        Verdict(True, "", "j", (True, True, False)),
        Verdict(True, "", "j", (True, True)),
        Verdict(True, "", "j"),
    ]
    assert flip_rate(verdicts) == (1, 2)


def test_a_sheet_is_blinded_and_read_back(run, tmp_path):
    verdicts = judge_run(run, RulesJudge())
    rows = calibration_sheet([run], [verdicts], 4, by_verdict=True)
    assert len(rows) == 3  # two judged consistent, one not; the others have nothing to judge
    path = tmp_path / "labels.csv"
    write_sheet(rows, path)
    text = path.read_text()
    assert "gold" not in text
    assert run.path.name not in text.replace("reasoning", "")
    assert all(question_id not in text for question_id in run.questions)
    assert set(read_labels(path).values()) == {None}
    filled = list(csv.DictReader(path.open()))
    human = {blinded_id(run.path, i): verdict for i, verdict in zip(run.questions, ("yes", "No", "0"), strict=False)}
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, filled[0])
        writer.writeheader()
        writer.writerows(row | {"supports_answer": human[row["row_id"]]} for row in filled)
    found = agreement([run], [verdicts], read_labels(path))
    assert (found.yy, found.yn, found.ny, found.nn, found.unlabelled) == (1, 1, 0, 1, 0)
    with pytest.raises(DataError, match="none of these runs"):
        agreement([], [], read_labels(path))


def test_a_wrong_label_names_the_line(tmp_path):
    (tmp_path / "l.csv").write_text("row_id,supports_answer\nabc,maybe\n")
    with pytest.raises(DataError, match=r"l\.csv:2.*'maybe'"):
        read_labels(tmp_path / "l.csv")


def test_a_local_judge_is_known_by_its_files(tmp_path):
    """Two checkpoints of one name, or one whose template was edited, are two judges."""
    model = write_tiny_checkpoint(tmp_path / "judge", vocabulary_texts=["a few words"], seed=0)
    ids = [open_judge(resolve_judge_config({"judge": f"local:{model}"})).judge_id]
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    ids.append(open_judge(resolve_judge_config({"judge": f"local:{model}"})).judge_id)
    other = write_tiny_checkpoint(tmp_path / "elsewhere" / "judge", vocabulary_texts=["a few words"], seed=1)
    ids.append(open_judge(resolve_judge_config({"judge": f"local:{other}"})).judge_id)
    assert len(set(ids)) == 3
    assert all(found.startswith("local:judge/v") for found in ids)


def test_a_local_judge_that_lacks_weights_is_refused(tmp_path):
    model = write_tiny_checkpoint(tmp_path / "judge", vocabulary_texts=["a few words"], seed=0)
    weights = safetensors.torch.load_file(model / "model.safetensors")
    gone = next(name for name in weights if "layers.0.self_attn.v_proj.weight" in name)
    kept = {name: value for name, value in weights.items() if name != gone}
    safetensors.torch.save_file(kept, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights.*v_proj"):
        open_judge(resolve_judge_config({"judge": f"local:{model}"}))


def test_verdicts_of_another_run_are_refused(tmp_path):
    """A copied verdicts.jsonl would give one run the other's consistency."""
    first, second = write_runs(tmp_path, [RunSpec("a", judges=()), RunSpec("b", seed=1, judges=())], make_benchmark())
    for path in (first, second):
        judge_run(load_run(path), RulesJudge())
    shutil.copy(first / "verdicts.jsonl", second / "verdicts.jsonl")
    with pytest.raises(DataError, match=r"verdicts.jsonl:1: .*judges run"):
        judge_run(load_run(second), RulesJudge())
    board = build_board([first, second], include_published=False, metric="l1.accuracy")
    assert [item.path for item in board.left_out] == [second]
