"""The paper's Table 3 as settings: separate KL, RefGen, CARE's bonus for answers of other kinds, a step of each row."""

import dataclasses
import math
import random
import re
import shlex
from pathlib import Path

import pytest
import torch

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.completions import completion_text
from seedbench_r1.models.qwen_vl import prepare_inputs
from seedbench_r1.runs.training_snapshot import read_lines
from seedbench_r1.types import SamplingConfig
from tests.trainers.test_steps import A, B, backward_group, config_of, group_of, policy, reference_of  # noqa: F401
from tests.trainers.toy import policy_of, toy_config
from trainers import grpo
from trainers.consistency import answer_likelihood, answer_span, consistency_bonus, refgen_bonus
from trainers.groups import rollout_lines
from trainers.loss import LossForm, loss_form, policy_loss, separate_kl_weights
from trainers.optimizer import Optimizer
from trainers.policy_passes import answer_tokens, kl_rollouts
from trainers.regeneration import answer_prefix, continued, prefix_ids, regenerate, regenerated_accuracy
from trainers.resolve import resolve_train_config

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
ROWS = ("GRPO", "KL-EMA", "KL-EMA-HA", "SepKL-EMA-HA", "noKL", "DenseCons", "RefGen", "CARE")


# Separate KL.


def test_separate_weights_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    answer = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    found = separate_kl_weights(mask, answer, beta_think=0.3, beta_answer=0.1)
    # 4 tokens, 3 of thoughts: 0.3 x 4 / 3 each, 0.1 x 4 / 1; the second has no answer: 0.3 x 3 / 3
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.4, 0.4, 0.4], [0.3, 0.3, 0.3, 0.0]]))
    constant = separate_kl_weights(mask, answer, beta_think=0.3, beta_answer=0.1, form=LossForm(length=12.0))
    torch.testing.assert_close(constant, torch.tensor([[1.2, 1.2, 1.2, 1.2], [1.2, 1.2, 1.2, 0.0]]))


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_the_separate_penalty_is_the_two_means_written_as_loops(loss_type):
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (-3 * torch.rand(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    lengths, spans = [9, 6, 4, 7], [(5, 8), (3, 4), (0, 0), (0, 7)]
    mask = torch.arange(9)[None] < torch.tensor(lengths)[:, None]
    answer = torch.zeros_like(mask)
    for row, (start, end) in enumerate(spans):
        answer[row, start:end] = True
    form = loss_form(loss_type, max_completion_length=16, tokens_per_rollout=6.5)
    weights = separate_kl_weights(mask, answer, beta_think=0.7, beta_answer=0.2, form=form)
    zeros = torch.zeros(4, dtype=torch.float64)
    found = policy_loss(ours, zeros, mask, beta=weights, reference_logprobs=theirs, form=form)
    expected = 0.0
    for row, (start, end) in enumerate(spans):
        for beta, places in ((0.7, [t for t in range(lengths[row]) if not start <= t < end]), (0.2, range(start, end))):
            values = [math.exp(d) - d - 1 for d in (float(theirs[row, t] - ours[row, t]) for t in places)]
            expected += beta * sum(values) / len(values) / 4 if values else 0.0
    assert found.item() == pytest.approx(expected, rel=1e-6)  # weights are float32
    only = torch.tensor([True, False, True, False])
    some = policy_loss(ours, zeros, mask, beta=weights, reference_logprobs=theirs, kl_rollouts=only, form=form)
    assert 0 < some.item() < found.item()


def test_a_weight_for_every_token_is_the_single_weights_loss_to_the_last_bit():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (-torch.rand(3, 5, generator=generator) for _ in range(2))
    mask, advantages = torch.ones(3, 5).bool(), torch.tensor([1.0, -1.0, 0.5])
    one = policy_loss(ours, advantages, mask, beta=0.25, reference_logprobs=theirs)
    many = policy_loss(ours, advantages, mask, beta=torch.full((3, 5), 0.25), reference_logprobs=theirs)
    assert torch.equal(one, many)
    with pytest.raises(ValueError, match="needs reference_logprobs"):
        policy_loss(ours, advantages, mask, beta=torch.full((3, 5), 0.25))


def test_separate_kl_is_on_accurate_rollouts_and_their_answers_tokens(toy, policy):  # noqa: F811
    config = config_of(toy, "grpo", reference="ema", kl_on="separate", beta_think=0.5, beta_answer=0.1)
    reference = reference_of(policy)
    rewarded = grpo.base_rewards(policy, group_of(toy, policy, [A, B, A]), config)
    assert kl_rollouts(rewarded, config).tolist() == [True, False, True]
    ids = rewarded.group.rollouts[0].token_ids
    tokens = answer_tokens(rewarded, slice(0, 3), torch.ones(3, len(ids)))
    start, end = answer_span(policy.processor.tokenizer, ids)
    assert [int(row.sum()) for row in tokens] == [end - start, 0, end - start]
    with torch.no_grad():  # another policy than the reference, so that the penalty is not zero
        policy.model.lm_head.weight.mul_(0.7)
    optimizer = Optimizer(policy.trainable(), config)
    result = backward_group(policy, reference, rewarded, config, 1, optimizer)
    old = dataclasses.replace(config, kl_on="accurate", beta=0.3)
    both = dataclasses.replace(config, beta_think=None, beta_answer=None, beta=0.3)
    losses = [backward_group(policy, reference, rewarded, each, 1, optimizer).loss for each in (old, both)]
    assert result.kl > 0
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)  # the answer has a mean of its own
    chunked = dataclasses.replace(config, group_chunk=2)
    assert backward_group(policy, reference, rewarded, chunked, 1, optimizer).loss == pytest.approx(result.loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algo": "grpo", "beta_think": 0.1}, "--beta-think belongs to --kl-on separate"),
        ({"algo": "care", "kl_on": "separate"}, "does nothing without a KL penalty. Fix: add --beta-think and"),
        ({"preset": "grpo-nokl", "kl_on": "separate", "beta_answer": 0.1}, "--kl-on separate needs a reference model"),
        ({"algo": "care", "refgen_tokens": 4}, "--refgen-tokens belongs to --bonus refgen"),
        ({"algo": "care", "bonus": "refgen", "likelihood_mean": "arithmetic"}, "--likelihood-mean belongs to"),
        ({"algo": "care", "bonus": "dense", "bonus_margin": 0.01}, "--bonus-margin belongs to --bonus care"),
        ({"algo": "care", "bonus": "refgen", "reference": "none"}, "--bonus refgen needs a reference model"),
        ({"algo": "grpo", "bonus": "refgen"}, "has no consistency bonus"),
    ],
)
def test_what_would_be_ignored_is_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        resolve_train_config({"model": "m", "data": tmp_path, "out": tmp_path / "out"} | options)


# RefGen.


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("<think>x</think><answer>B</answer>", "<think>x</think><answer"),
        ("<think>x</think>\n\n<answer>B", "<think>x</think>\n\n<answer"),
        ("<think>x</think>So it is B: <answer>B</answer>", "<think>x</think><answer"),  # it would tell the answer
        ("<think>x</think>", "<think>x</think><answer"),
        ("<think>a</think> b </think> <answer>", "<think>a</think> b </think> <answer"),
        ("x</think>B", "x</think><answer"),  # the template has opened the thoughts
        ("<think>x<answer>B</answer>", None),
        ("", None),
    ],
)
def test_what_the_reference_goes_on_from(text, prefix):
    assert answer_prefix(text) == prefix


class Spelling:
    """A tokenizer of given pieces, which makes a text into the longest of them, as a vision token that it spells."""

    pieces = (
        "<think>",
        "so",
        "</",
        "think",
        ">",
        "><",
        "answer",
        "B",
        "\n\n",
        ">S",
        "o B",
        "<",
        "|pad|>",
        "<|pad|>",
        "<answer",
    )

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)

    def __call__(self, text, *, add_special_tokens):
        ids = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len)
            ids, text = [*ids, self.pieces.index(piece)], text[len(piece) :]
        return {"input_ids": ids}


@pytest.mark.parametrize(
    ("own", "prefix"),
    [
        (["<think>", "so", "</", "think", "><", "answer", ">", "B"], ["<think>", "so", "</", "think", "><", "answer"]),
        (["<think>", "</", "think", ">", "\n\n", "<answer"], ["<think>", "</", "think", ">", "\n\n", "<answer"]),
        (["<think>", "</", "think", ">S", "o B"], ["<think>", "</", "think", "><", "answer"]),  # ">S" tells too much
        (["<think>", "<", "|pad|>", "</", "think", ">"], ["<think>", "<", "|pad|>", "</", "think", ">", "<answer"]),
        (["<think>", "so"], None),
    ],
)
def test_a_rollouts_own_tokens_are_kept(own, prefix):
    tokenizer = Spelling()
    found = prefix_ids(tokenizer, [tokenizer.pieces.index(piece) for piece in own])
    assert (found if found is None else [tokenizer.pieces[i] for i in found]) == prefix


def test_the_bonus_of_a_regenerated_answer():
    found = refgen_bonus(torch.tensor([[1.0, 0.0, 0.4, math.nan]]), weight=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.0, 0.2, 0.0]]))


def test_a_continued_prompt_is_the_one_with_a_prefix(toy, policy):  # noqa: F811
    from seedbench_r1.media.frames import load_media
    from seedbench_r1.prompts import build_request
    from tests.trainers.toy import TEMPLATE

    group = group_of(toy, policy, [A])
    question = group.example.question
    media = load_media(None, question.image, config_of(toy).video)
    request = dataclasses.replace(build_request(question, media, TEMPLATE), prefix="<think>so A</think><answer")
    expected = prepare_inputs(request, policy.processor)
    ids = policy.processor.tokenizer(request.prefix, add_special_tokens=False)["input_ids"]
    found = continued(group.example.inputs, ids)
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.positions, expected.positions)
    assert found.delta == expected.delta
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8)
    one, other = (
        next(decode(policy.model, policy.processor, [Prompt("x", inputs)], sampling)) for inputs in (found, expected)
    )
    assert one.token_ids == other.token_ids


def written_by(reference, policy, group, config):  # noqa: F811
    with reference.gathered() as model:
        return regenerate(model, policy.processor, group, config)


def test_the_reference_answers_from_the_reasoning_whatever_the_policy_said(toy, policy):  # noqa: F811
    """The SFT model has learnt that the answer follows the reasoning."""
    texts = [
        A,
        B,
        "<think>so A</think><answer>B</answer>",
        "<think>so B</think><answer>A</answer>",
        "<answer>A</answer>",
    ]
    config, reference = config_of(toy, bonus="refgen", refgen_tokens=8), reference_of(policy)
    group = group_of(toy, policy, texts)
    base = grpo.base_rewards(policy, group, config)
    assert base.needs_reference
    with reference.gathered() as model:
        found = grpo.with_refgen_bonus(model, policy.processor, base, config)
    assert found.accuracy.tolist() == [1, 0, 0, 1, 1]
    assert found.bonus.tolist() == [0.5, 0.0, 0.5, 0.0, 0.0]
    torch.testing.assert_close(found.reward, found.accuracy + found.format + found.bonus)
    chunked = dataclasses.replace(config, group_chunk=1)
    answers = written_by(reference, policy, group, chunked)
    assert regenerated_accuracy(group, answers, config).isnan().tolist() == [False] * 4 + [True]
    written = [line.get("regenerated") for line in rollout_lines(found)]
    assert written[3:] == ["<think>so B</think><answer>B</answer>", None]
    # Without thoughts that end there is nothing to ask.
    bare = grpo.base_rewards(policy, group_of(toy, policy, ["<answer>A</answer>", "B"]), config)
    assert not bare.needs_reference
    with reference.gathered() as model:
        assert grpo.with_refgen_bonus(model, policy.processor, bare, config) is bare


@pytest.mark.parametrize("lora", [False, True])
def test_the_averages_weights_write_the_answer_and_not_the_policys(toy, lora):
    config = config_of(toy, bonus="refgen", refgen_tokens=8, lora=lora)
    policy = policy_of(config)  # noqa: F811
    reference, group = reference_of(policy), group_of(toy, policy, [A])
    before = written_by(reference, policy, group, config)
    with torch.no_grad():  # the policy now writes something else
        for parameter in policy.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.5)
    assert written_by(reference, policy, group, config) == before
    prefix = answer_prefix(A)
    inputs = continued(group.example.inputs, policy.processor.tokenizer(prefix)["input_ids"])
    policy.model.train(False)
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8)
    (own,) = decode(policy.model, policy.processor, [Prompt("0", inputs)], sampling)
    assert prefix + completion_text(policy.processor.tokenizer, own.token_ids) != before[0].text


# CARE's bonus for answers of several tokens and of other kinds.


class Pieces:
    """A tokenizer of given pieces, cut as Qwen's: ">B" and ">a" are one token, ">" before a digit is its own."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids)


def script_answer_places(pieces: list[str]) -> list[int]:
    """Which tokens the authors' trainer takes for the answer's (in our reading, at 03c3a7c): from behind the token
    "answer" of the last <answer>, to the third before the end token, which closes the list.
    """
    for place in range(len(pieces) - 1, -1, -1):
        if "answer" in pieces[place] and "<answer>" in "".join(pieces[place - 1 : place + 2])[: len("<answer>") + 2]:
            end = max(place + 1, len(pieces) - 1 - 3)
            return [p for p in range(len(pieces)) if place < p < end]
    return []


CLOSING = ["</", "answer", ">", "<|im_end|>"]
OPENING = ["<think>", "so", "</think>", "<", "answer"]


@pytest.mark.parametrize(
    ("pieces", "ours", "script"),
    [
        ([*OPENING, ">B", *CLOSING], [5], [5]),  # a letter: the same
        ([*OPENING, ">", "1", "2", *CLOSING], [6, 7], [5, 6, 7]),  # a number: theirs counts the tag's ">"
        ([*OPENING, ">a", " red", " ball", *CLOSING], [5, 6, 7], [5, 6, 7]),  # a text: the same
        ([*OPENING, ">\n", "NO", " EXIT", "\n", *CLOSING], [6, 7], [5, 6, 7, 8]),  # theirs counts the line breaks
        ([*OPENING, ">B", *CLOSING[:3], "\n", "<|im_end|>"], [5], [5, 6]),  # text behind the tag: theirs moves on
    ],
)
def test_the_answers_tokens_here_and_in_the_authors_code(pieces, ours, script):
    start, end = answer_span(Pieces(pieces), range(len(pieces)))
    assert list(range(start, end)) == ours
    assert script_answer_places(pieces) == script
    # The geometric mean over all of them: theirs of a number has the probability of ">" as one more factor.
    logprobs = -torch.rand(len(pieces), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.zeros(len(pieces)).bool()
    mask[start:end] = True
    found = answer_likelihood(logprobs[None, None], mask[None, None]).item()
    assert found == pytest.approx(math.exp(sum(float(logprobs[p]) for p in ours) / len(ours)), rel=1e-12)
    theirs = math.exp(sum(float(logprobs[p]) for p in script) / (len(script) + 1e-6))
    extra = [p for p in script if p not in ours]
    again = (found ** len(ours) * math.exp(sum(float(logprobs[p]) for p in extra))) ** (1 / len(script))
    assert theirs == pytest.approx(again, rel=1e-5)


def script_bonus(accuracy: list[float], likelihood: list[float], margin: float) -> list[float]:
    """The authors' bonus of one group, written as loops, but for ties, which their means may round either way."""
    weight, cap, tie = 0.5, 0.95, 1e-9
    mean = sum(accuracy) / len(accuracy)
    capped = [min(value, cap) for value in likelihood]
    accurate = [place for place, value in enumerate(accuracy) if value > 0.1 and value >= mean - tie]
    if not accurate:
        return [0.0] * len(accuracy)
    wanted = sum(capped[place] for place in accurate) / len(accurate) - margin - tie
    kept = [place in accurate and capped[place] >= wanted for place in range(len(accuracy))]
    return [weight * value if keep else 0.0 for value, keep in zip(accuracy, kept, strict=True)]


def test_the_bonus_of_partly_right_answers_is_the_authors():
    """Credits between 0 and 1, as of OCR, free-form and regression: weight x credit for the kept."""
    draw, kept = random.Random(0), 0
    for _ in range(2000):
        accuracy = [draw.choice([0.0, 0.05, 0.1, 1 / 3, 0.5, 0.8, 1.0, draw.random()]) for _ in range(8)]
        likelihood = [draw.random() ** draw.choice([0.1, 1, 3]) for _ in range(8)]
        margin = draw.choice([0.0, 0.01])
        found = consistency_bonus(
            torch.tensor([accuracy], dtype=torch.float64),
            torch.tensor([likelihood], dtype=torch.float64),
            margin=margin,
        )[0].tolist()
        assert found == pytest.approx(script_bonus(accuracy, likelihood, margin), abs=1e-12)
        kept += sum(0 < value < 0.5 for value in found)
    assert kept > 1000


# Table 3.


def table() -> dict[str, str]:
    """Row of the paper's Table 3 -> the options that docs/training.md gives for it."""
    found = re.findall(r"^\| (\S+) \| `train (--[^`]*)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def test_every_row_of_the_papers_table_has_a_command():
    assert tuple(table()) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_step_of_every_row_of_the_papers_table(toy, tmp_path, row):
    from tests.trainers.toy import plan_and_train

    words = iter(shlex.split(table()[row]))
    options = {word.removeprefix("--").replace("-", "_"): next(words) for word in words}
    for name, value in options.items():
        options[name] = float(value) if name.startswith("beta") else value
    algo = options.pop("algo", None) or "grpo"
    config = toy_config(toy.sft, toy.data, tmp_path, algo, num_generations=4, max_steps=1, **options)
    plan_and_train(config)
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert line["grad_norm"] is not None
    assert (line["kl"] is None) == (row in ("noKL", "DenseCons", "RefGen", "CARE"))
    assert (line["bonus"] > 0) == (row in ("DenseCons", "RefGen", "CARE"))
    assert config.reference == {"GRPO": "frozen", "noKL": "none"}.get(row, "ema")
    assert config.kl_on == {"KL-EMA-HA": "accurate", "SepKL-EMA-HA": "separate"}.get(row, "all")
