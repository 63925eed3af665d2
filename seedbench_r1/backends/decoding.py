"""Prefill and token-by-token decoding of one batch. Finished rows leave at once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from seedbench_r1.backends.base import Draw
from seedbench_r1.backends.caches import DecodeCache, RowCache, open_cache
from seedbench_r1.backends.prefill_each import cache_argument, prefill_each
from seedbench_r1.backends.sampling import NOT_FINITE, NonFiniteLogits, next_tokens, row_generator
from seedbench_r1.backends.vision import media_arguments
from seedbench_r1.models.any_processor import AnyInputs, AnyProcessor
from seedbench_r1.models.generic import GenericInputs, GenericProcessor
from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout
from seedbench_r1.types import FinishReason, SamplingConfig

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

FILLER = Draw("", 0, -1)  # in the place of a draw that nobody asked for


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question's inputs, and what is drawn from it."""

    question_id: str
    inputs: AnyInputs
    draws: tuple[Draw, ...] = ()  # none: sampling.n completions with sampling.seed


@dataclass(slots=True)
class Completion:
    """One row of the batch while it grows, and its result once finish_reason is set."""

    question_id: str
    k: int  # which of the question's completions: its place among the draws
    n_prompt_tokens: int
    next_position: int  # of the token to be fed next, on all axes
    room: int  # tokens that may still be generated
    generator: random.Random
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    end_token: int | None = None  # which end token ended it; training needs it, token_ids leaves it out
    wanted: bool = True  # False: the row only fills the batch up

    def take(self, token: int, logprob: float | None, end_ids: frozenset[int]) -> bool:
        """Append a token; True if the row has ended. The end token itself is not kept."""
        if token in end_ids:
            self.finish_reason, self.end_token = "stop", token
            return True
        self.token_ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        self.room -= 1
        return self.room <= 0


@dataclass(slots=True)
class _Rows:
    """The rows still being decoded, and the tensors that go with them."""

    completions: list[Completion]
    cache: RowCache
    seen: torch.Tensor | None  # (rows, V) bool, or None without a repetition penalty

    def keep(self, places: list[int]) -> None:
        """Drop all other rows."""
        self.completions = [self.completions[place] for place in places]
        self.cache.keep(places)
        self.seen = None if self.seen is None else self.seen[places]


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id at which the checkpoint or its tokeniser says that a completion ends."""
    declared = model.generation_config.eos_token_id
    # generation_config holds one id, a list, or nothing.
    ids = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in (*ids, tokenizer.eos_token_id) if token is not None)


@torch.inference_mode()
def prefill(
    model: PreTrainedModel, layout: VisionLayout, prompts: Sequence[ModelInputs], pad_id: int
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """Run the prompts, left-padded, through the vision tower and the language model once.

    Returns the logits after the last prompt token (B, V), the key-value cache, and the attention mask (B, L) int64.
    """
    from transformers import DynamicCache

    device, longest = model.device, max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
    positions = torch.zeros(3, len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        # Left padding puts every last prompt token into the last column, where the logits are read.
        start = longest - len(prompt.input_ids)
        input_ids[row, start:] = prompt.input_ids
        mask[row, start:] = 1
        positions[:, row, start:] = prompt.positions
    cache, mask = DynamicCache(config=model.config.get_text_config()), mask.to(device)
    output = model(
        attention_mask=mask,
        position_ids=positions.to(device),
        use_cache=True,
        logits_to_keep=1,
        **media_arguments(model, layout, prompts, input_ids),
        **{cache_argument(model): cache},
    )
    return output.logits[:, -1], cache, mask


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    processor: AnyProcessor,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    *,
    cache: DecodeCache = "dynamic",
) -> Iterator[Completion]:
    """Draw the completions of every prompt; each leaves when it ends.

    A completion ends at an end token ("stop"), or after max_new_tokens or at the end of the context ("length"). Raises
    ConfigError for a static cache where the model cannot have one.
    """
    end_ids = end_token_ids(model, processor.tokenizer)
    forbidden = torch.tensor(processor.forbidden_ids, dtype=torch.int64, device=model.device)
    # Padding is masked, so any valid id will do.
    pad_id = processor.tokenizer.pad_token_id or 0
    logits, filled, mask, following = prefill_any(model, processor, prompts, pad_id)
    # Rows are as many for every prompt; where one asks for fewer, its last ones are dropped before the first token.
    repeats = max(len(prompt.draws) or sampling.n for prompt in prompts)
    completions = _completions(prompts, following, processor.context, sampling, repeats)
    # A static cache is allocated for the longest completion that may come.
    room = max(completion.room for completion in completions)
    grown = open_cache(cache, model, (filled, mask), repeats=repeats, room=room)
    rows = _Rows(completions, grown, seen=None)
    if sampling.repetition_penalty != 1:
        # A (rows, V) table costs memory, so it exists only for the penalty.
        rows.seen = _seen_tokens(prompts, logits).repeat_interleave(repeats, dim=0)
    logits = logits.repeat_interleave(repeats, dim=0)
    wanted = [place for place, completion in enumerate(completions) if completion.wanted]
    if len(wanted) < len(completions):
        rows.keep(wanted)
        logits = logits[wanted]
    while True:
        generators = [completion.generator for completion in rows.completions]
        tokens, logprobs = next_tokens(logits, sampling, generators, forbidden_ids=forbidden, seen=rows.seen)
        values = tokens.tolist()
        if NOT_FINITE in values:
            raise NonFiniteLogits
        chosen = [None] * len(values) if logprobs is None else logprobs.tolist()
        going = []
        for place, completion in enumerate(rows.completions):
            if completion.take(values[place], chosen[place], end_ids):
                yield completion
            else:
                going.append(place)
        if not going:
            return
        # Selecting rows copies the cache; it is done only when a row has ended.
        if len(going) < len(values):
            rows.keep(going)
            tokens = tokens[going]
        logits = _step(rows, tokens)


def prefill_any(
    model: PreTrainedModel, processor: AnyProcessor, prompts: Sequence[Prompt], pad_id: int
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor, list[int]]:
    """What prefill returns, and the position of each row's next token."""
    if isinstance(processor, GenericProcessor):
        return prefill_each(model, [prompt.inputs for prompt in prompts if isinstance(prompt.inputs, GenericInputs)])
    inputs = [prompt.inputs for prompt in prompts if isinstance(prompt.inputs, ModelInputs)]
    return *prefill(model, processor.layout, inputs, pad_id), [len(i.input_ids) + i.delta for i in inputs]


def _completions(
    prompts: Sequence[Prompt], following: Sequence[int], context: int, sampling: SamplingConfig, repeats: int
) -> list[Completion]:
    """`repeats` rows per prompt, each with its own generator."""
    own = tuple(Draw("", sampling.seed, k) for k in range(sampling.n))
    return [
        Completion(
            question_id=prompt.question_id,
            k=place,
            n_prompt_tokens=len(prompt.inputs.input_ids),
            next_position=position,
            # Neither the limit nor the model's context may be exceeded.
            room=min(sampling.max_new_tokens, context - len(prompt.inputs.input_ids)),
            generator=row_generator(draw.seed, prompt.question_id, draw.k),
            wanted=draw is not FILLER,
        )
        for prompt, position in zip(prompts, following, strict=True)
        for place, draw in enumerate(_padded(prompt.draws or own, repeats))
    ]


def _padded(draws: tuple[Draw, ...], count: int) -> tuple[Draw, ...]:
    return draws + (FILLER,) * (count - len(draws))


def _seen_tokens(prompts: Sequence[Prompt], logits: torch.Tensor) -> torch.Tensor:
    """(B, V) bool: which tokens each prompt holds."""
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for row, prompt in enumerate(prompts):
        seen[row, prompt.inputs.input_ids.to(logits.device)] = True
    return seen


def _step(rows: _Rows, tokens: torch.Tensor) -> torch.Tensor:
    """Feed one token per row; the logits after it, (rows, V)."""
    places = torch.tensor([completion.next_position for completion in rows.completions], device=tokens.device)
    for completion in rows.completions:
        # M-RoPE: text moves on by one on all three axes.
        completion.next_position += 1
    if rows.seen is not None:
        rows.seen.scatter_(1, tokens[:, None], True)
    return rows.cache.step(tokens, places)
