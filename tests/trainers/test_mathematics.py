"""Bonus, likelihood, advantages, loss: hand-worked numbers, brute force in float64, and what must never happen."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.questions import load_annotations
from tests.rows import evaluation_row, write_rows
from trainers.advantages import group_advantages
from trainers.consistency import accurate_rollouts, answer_likelihood, answer_span, consistency_bonus, dense_bonus
from trainers.groups import Rollout
from trainers.loss import policy_loss, token_kl
from trainers.rewards import Reward, reward

NAN = math.nan


def bonus(accuracy, likelihood, **options):
    return consistency_bonus(torch.tensor(accuracy), torch.tensor(likelihood), **options).tolist()


def test_only_the_likelier_accurate_rollout_is_rewarded():
    # question 0: baseline (0.9 + 0.5) / 2 = 0.7, rollout 0 alone reaches it; a batch-wide mean (0.43) would keep both
    # question 1: three equal likelihoods, all on the baseline
    assert bonus([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [[0.9, 0.5, 0.99], [0.1, 0.1, 0.1]]) == [
        [0.5, 0.0, 0.0],
        [0.5, 0.5, 0.5],
    ]


def test_likelihoods_are_capped_before_their_mean():
    # capped 0.95, 0.95, 0.9: mean 0.9333; uncapped 1.0, 0.95, 0.9: mean 0.95, which only the first would exceed
    assert bonus([[1.0] * 3], [[1.0, 0.95, 0.9]]) == [[0.5, 0.5, 0.0]]
    # all at the cap: an fp32 mean may exceed each of them
    assert bonus([[1.0] * 7], [[0.99] * 7]) == [[0.5] * 7]


def test_the_margin_lets_rollouts_just_below_the_mean_in():
    # mean 0.505
    assert bonus([[1.0, 1.0]], [[0.51, 0.5]]) == [[0.5, 0.0]]
    assert bonus([[1.0, 1.0]], [[0.51, 0.5]], margin=0.01) == [[0.5, 0.5]]


def test_no_answer_is_no_bonus_and_does_not_count():
    assert bonus([[1.0, 1.0, 1.0]], [[NAN, 0.5, 0.7]]) == [[0.0, 0.0, 0.5]]
    assert bonus([[1.0, 1.0]], [[NAN, NAN]]) == [[0.0, 0.0]]
    assert bonus([[0.0, 0.0]], [[0.9, 0.9]]) == [[0.0, 0.0]]


def test_graded_accuracy_must_exceed_a_tenth_and_reach_the_mean():
    # mean 0.475: the rollouts at 0.1 and 0.3 are out; the bonus is in proportion to the accuracy
    assert bonus([[0.1, 0.3, 0.5, 1.0]], [[0.9, 0.9, 0.5, 0.5]]) == [[0.0, 0.0, 0.25, 0.5]]
    assert accurate_rollouts(torch.tensor([[0.1, 0.1], [0.11, 0.11]])).tolist() == [[False, False], [True, True]]


def test_equal_values_reach_their_own_mean_although_it_is_rounded_above_them():
    equal = torch.full((1, 7), 0.9)
    assert (equal.mean(dim=1, keepdim=True) > equal).all()  # the case that the tolerance is for
    assert accurate_rollouts(equal).all()
    assert bonus([[1.0] * 7], equal.tolist()) == [[0.5] * 7]  # likewise of likelihoods
    assert bonus(equal.tolist(), equal.tolist()) == [[pytest.approx(0.45)] * 7]
    # It is a tolerance for rounding alone: a ten-thousandth below the mean is below the mean.
    assert accurate_rollouts(torch.tensor([[0.5, 0.5002]])).tolist() == [[False, True]]
    assert bonus([[1.0, 1.0]], [[0.5, 0.5002]]) == [[0.0, 0.5]]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 10_000), st.sampled_from([torch.float32, torch.float64]))
def test_the_bonus_equals_a_loop_over_questions(b, g, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    accuracy = torch.randint(0, 2, (b, g), generator=generator).to(dtype)
    likelihood = torch.rand(b, g, generator=generator, dtype=dtype)
    likelihood[torch.rand(b, g, generator=generator) < 0.2] = NAN
    result = consistency_bonus(accuracy, likelihood, weight=0.4, margin=0.03, cap=0.8)
    assert result.dtype == dtype
    for q in range(b):
        mean = sum(accuracy[q].tolist()) / g
        members = [
            i for i in range(g) if accuracy[q, i] > 0.1 and accuracy[q, i] >= mean and not likelihood[q, i].isnan()
        ]
        capped = {i: min(float(likelihood[q, i]), 0.8) for i in members}
        baseline = sum(capped.values()) / len(members) - 0.03 if members else 0.0
        for i in range(g):
            expected = 0.4 if i in capped and capped[i] >= baseline - 1e-6 else 0.0
            assert float(result[q, i]) == pytest.approx(expected)


def test_weight_zero_is_grpo_and_dense_is_the_ablation():
    accuracy, likelihood = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.9, NAN, 0.9]])
    assert consistency_bonus(accuracy, likelihood, weight=0.0).tolist() == [[0.0, 0.0, 0.0]]
    assert dense_bonus(accuracy, likelihood, weight=0.5).tolist() == [[pytest.approx(0.45), 0.0, 0.0]]


def test_both_means_of_the_answer_tokens():
    logprobs = torch.tensor([[[0.9, 0.4, 0.1], [0.5, 0.5, 0.5]]]).log()
    mask = torch.tensor([[[1, 1, 0], [0, 0, 0]]])
    geometric = answer_likelihood(logprobs, mask)
    assert geometric[0, 0].item() == pytest.approx(0.6)  # sqrt(0.36)
    assert answer_likelihood(logprobs, mask.bool(), mean="arithmetic")[0, 0].item() == pytest.approx(0.65)
    assert geometric[0, 1].isnan()
    one = torch.tensor([[[0, 1, 0], [0, 0, 1]]])
    assert torch.equal(answer_likelihood(logprobs, one), answer_likelihood(logprobs, one, mean="arithmetic"))
    with pytest.raises(ValueError, match="mean is"):
        answer_likelihood(logprobs, mask, mean="harmonic")


def test_padding_of_minus_infinity_outside_the_mask_is_harmless():
    logprobs = torch.tensor([[[-0.5, -math.inf, NAN]]])
    mask = torch.tensor([[[True, False, False]]])
    for mean in ("geometric", "arithmetic"):
        assert answer_likelihood(logprobs, mask, mean=mean).item() == pytest.approx(math.exp(-0.5))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Byte-level BPE, which has learnt merges across the tag's border."""
    from transformers import AutoTokenizer

    texts = ["<think>so</think><answer>A</answer>", "<answer>B</answer>", "wash the cup", ">A<", "日本 ünï"] * 20
    return AutoTokenizer.from_pretrained(write_tiny_checkpoint(tmp_path_factory.mktemp("m"), vocabulary_texts=texts))


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<think>so</think><answer>A</answer>", "A"),
        ("<think>so</think><answer> B \n</answer><|im_end|>", "B"),
        ("<answer>wash the cup</answer> <answer>B</answer>", "wash the cup"),
        ("<think><answer>C</answer></think><answer>B</answer>", "B"),
        ("<think>in <answer> </answer></think><answer>B</answer>", "B"),
        ("<answer>日本 ünï</answer>", "日本 ünï"),
    ],
)
def test_the_span_covers_the_stripped_content_of_the_tag_that_is_read(tokenizer, text, content):
    ids = tokenizer(text)["input_ids"]
    start, end = answer_span(tokenizer, ids)
    covered = tokenizer.decode(ids[start:end])
    assert content in covered
    before, after = tokenizer.decode(ids[:start]), tokenizer.decode(ids[:end])
    place = text.index(content)
    assert len(before) <= place  # no token of the content stands before the span
    assert len(tokenizer.decode(ids[: start + 1])) > place or "\ufffd" in tokenizer.decode(ids[: start + 1])
    assert len(after) >= place + len(content)
    assert len(tokenizer.decode(ids[: end - 1])) < place + len(content) or "\ufffd" in tokenizer.decode(ids[: end - 1])


def test_a_token_that_merges_tag_and_letter_is_in_the_span():
    class Merging:
        pieces = ("<answer", ">A", "</", "answer>")

        def decode(self, ids):
            return "".join(self.pieces[i] for i in ids)

    assert answer_span(Merging(), [0, 1, 2, 3]) == (1, 2)


@pytest.mark.parametrize(
    "text", ["", "no tag", "<answer>A", "<answer></answer>", "<answer> \n </answer>", "A</answer>"]
)
def test_no_answer_has_no_span(tokenizer, text):
    assert answer_span(tokenizer, tokenizer(text)["input_ids"]) is None


def test_advantages_by_hand():
    # mean 2, deviations -1, 0, 1, unbiased std 1
    result = group_advantages(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    assert result.tolist()[0] == pytest.approx([-1 / 1.0001, 0.0, 1 / 1.0001])
    assert group_advantages(torch.tensor([[7.0]])).tolist() == [[0.0]]
    assert group_advantages(torch.full((1, 7), 0.1)).tolist() == [[0.0] * 7]  # exactly
    two = torch.tensor([[0.0, 1.0], [10.0, 30.0]], dtype=torch.float64)
    assert group_advantages(two)[0].tolist() == pytest.approx([-0.70701, 0.70701], abs=1e-4)


def test_all_correct_groups_still_learn_consistency():
    """GRPO has no gradient where all rollouts are right; the bonus gives one."""
    accuracy, likelihood = torch.ones(1, 4), torch.tensor([[0.9, 0.8, 0.2, 0.1]])
    assert group_advantages(accuracy).abs().sum() == 0
    with_bonus = group_advantages(accuracy + consistency_bonus(accuracy, likelihood))
    assert (with_bonus[0, :2] > 0).all()
    assert (with_bonus[0, 2:] < 0).all()


def test_the_on_policy_gradient_is_that_of_the_weighted_log_likelihood():
    logprobs = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    loss = policy_loss(logprobs, torch.tensor([2.0, -1.0], dtype=torch.float64), mask)
    assert loss.item() == pytest.approx(-(2.0 - 1.0) / 2)
    loss.backward()
    expected = torch.tensor([[-0.5, -0.5, 0.0], [1 / 6, 1 / 6, 1 / 6]], dtype=torch.float64)
    torch.testing.assert_close(logprobs.grad, expected, rtol=0, atol=1e-12)


def test_kl_by_hand_and_on_chosen_rollouts_only():
    logprobs = torch.tensor([[math.log(0.5)], [math.log(0.5)]], dtype=torch.float64)
    reference = torch.tensor([[math.log(0.25)], [math.log(0.25)]], dtype=torch.float64)
    kl = 0.5 - math.log(0.5) - 1
    assert token_kl(logprobs, reference)[0].item() == pytest.approx(kl)
    assert token_kl(logprobs, logprobs).abs().max() == 0
    zero, mask = torch.zeros(2, dtype=torch.float64), torch.ones(2, 1)
    whole = policy_loss(logprobs, zero, mask, beta=0.04, reference_logprobs=reference)
    assert whole.item() == pytest.approx(0.04 * kl)
    half = policy_loss(
        logprobs, zero, mask, beta=0.04, reference_logprobs=reference, kl_rollouts=torch.tensor([True, False])
    )
    assert half.item() == pytest.approx(0.02 * kl)


def test_an_empty_rollout_adds_nothing_and_nothing_is_nan():
    logprobs = torch.tensor([[-math.inf, NAN], [-1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0, 0], [1, 1]])
    loss = policy_loss(logprobs, torch.tensor([1.0, 1.0], dtype=torch.float64), mask)
    assert loss.item() == pytest.approx(-0.5)
    loss.backward()
    assert logprobs.grad.isfinite().all()
    with pytest.raises(ValueError, match="reference_logprobs"):
        policy_loss(logprobs, torch.ones(2), mask, beta=0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Reward(0.0, 0.0)),
        ("<think>A</think><answer>A</answer>", Reward(1.0, 1.0)),
        ("<think>r</think><answer>boil water</answer>", Reward(1.0, 1.0)),
        ("<think>r</think><answer>A</answer><answer>B</answer>", Reward(1.0, 0.0)),
        ("<think>r</think><answer>B</answer>", Reward(0.0, 1.0)),
        ("<answer>A", Reward(0.0, 0.0)),
        ("A", Reward(1.0, 0.0)),
    ],
)
def test_rewards_are_the_evaluations_own(tmp_path, text, expected):
    (question,) = load_annotations(write_rows(tmp_path / "a.jsonl", [evaluation_row()]), tmp_path, "L1")
    assert reward(question, Rollout((), text, "stop")) == expected


SCRIPT = [json.loads(line) for line in (Path(__file__).parent / "script_rewards.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", SCRIPT, ids=lambda case: case["text"])
def test_script_rewards_are_the_authors(tmp_path, case):
    """The expected values were computed with the two reward functions of GRPO-CARE at b0628fc."""
    (question,) = load_annotations(
        write_rows(tmp_path / "a.jsonl", [evaluation_row(golden_choice_idx="B")]), tmp_path, "L1"
    )
    found = reward(question, Rollout((), case["text"], "stop"), "script")
    assert found == Reward(case["reference_accuracy"], case["reference_format"])


def test_rewards_know_what_the_template_opened(tmp_path):
    (question,) = load_annotations(write_rows(tmp_path / "a.jsonl", [evaluation_row()]), tmp_path, "L1")
    text = f"so it is</think><answer>{question.gold}</answer>"
    for rules in ("evaluation", "script"):
        assert reward(question, Rollout((), text, "stop", opened="<think>\n"), rules) == Reward(1.0, 1.0)
        assert reward(question, Rollout((), text, "stop"), rules) == Reward(1.0, 0.0)


def test_an_option_whose_text_is_another_options_counts_by_its_letter_alone(tmp_path):
    rows = [evaluation_row(0, choice_a="cup", choice_b="cup", choice_c="jar", choice_d="box", golden_choice_idx="B")]
    (question,) = load_annotations(write_rows(tmp_path / "a.jsonl", rows), tmp_path, "L1")
    for answer, accuracy in (("B", 1.0), ("B. cup", 1.0), ("A", 0.0), ("cup", 0.0), ("jar", 0.0)):
        rollout = Rollout((), f"<think></think><answer>{answer}</answer>", "stop")
        assert reward(question, rollout) == Reward(accuracy, 1.0)
