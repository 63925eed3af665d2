"""How likely given texts are after a prompt and a prefix: log-probabilities of continuations, the prompt computed once.

The continuations of a request share its tokens up to where they part. That part is prefilled once, as a prompt is; what
is left of each is a few tokens, fed to rows of its own that start from the shared cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from seedbench_r1.backends.caches import GrowingCache
from seedbench_r1.backends.decoding import Prompt, prefill_any
from seedbench_r1.backends.sampling import NonFiniteLogits
from seedbench_r1.models.any_processor import AnyInputs, AnyProcessor
from seedbench_r1.models.generic import GenericInputs
from seedbench_r1.types import Request


@dataclass(frozen=True, slots=True)
class Parting:
    """A request's continuations as token ids: what they share, and what is left of each."""

    shared: tuple[int, ...]  # prompt, prefix and the common start of the continuations; placeholders not expanded
    endings: tuple[tuple[int, ...], ...]  # of each continuation, at least one token, none the start of another


def part(request: Request, processor: AnyProcessor) -> Parting:
    """Tokenise prompt + prefix + each continuation as one text, and cut where they part.

    As one text, since a tokenizer may merge across the seam: Qwen's has tokens like ">A". Raises ValueError if two
    continuations are equal, or one begins another.
    """
    texts = request.continuations
    for one in texts:
        if sum(other.startswith(one) for other in texts) != 1:
            raise ValueError(f"the continuation {one!r} is another one's beginning: they cannot be distinguished")
    whole = [processor.text_ids(replace(request, prefix=request.prefix + text)) for text in texts]
    # A single one parts from nothing: its last token is scored.
    shortest = min(len(ids) for ids in whole) - 1
    n = next((place for place in range(shortest) if len({ids[place] for ids in whole}) > 1), shortest)
    return Parting(tuple(whole[0][:n]), tuple(tuple(ids[n:]) for ids in whole))


def shared_inputs(request: Request, processor: AnyProcessor, parting: Parting) -> AnyInputs:
    """The model's inputs of the part that all continuations share. Raises ValueError as processor.prepare does."""
    first, n = parting.endings[0], len(parting.endings[0])
    inputs = processor.prepare(replace(request, prefix=request.prefix + request.continuations[0]))
    if inputs.input_ids[-n:].tolist() != list(first):
        raise ValueError("the processor ends the prompt with other tokens than its tokenizer")
    if isinstance(inputs, GenericInputs):
        length = len(inputs.input_ids)
        return GenericInputs(
            inputs.input_ids[:-n], {name: _cut(value, length, n) for name, value in inputs.arguments.items()}
        )
    # Text moves on by one on all axes, so that delta stays.
    return replace(inputs, input_ids=inputs.input_ids[:-n], positions=inputs.positions[:, :-n])


def _cut(value: Any, length: int, n: int) -> Any:  # noqa: ANN401  # what a processor returns
    """Without the last n tokens, if it has an entry for each of the prompt's."""
    per_token = isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape == (1, length)
    return value[:, :-n] if per_token else value


@torch.inference_mode()
def score_continuations(
    model: Any,  # noqa: ANN401  # a transformers model of any family
    processor: AnyProcessor,
    prompts: Sequence[tuple[Prompt, Parting]],
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Natural log-probability of each continuation's ending given what is before it, in float32, prompt by prompt.

    One prefill of the shared parts; where an ending has several tokens, its rows are repeated for the rest. Raises
    NonFiniteLogits for NaN or +infinity.
    """
    pad_id = processor.tokenizer.pad_token_id or 0
    logits, filled, mask, following = prefill_any(model, processor, [prompt for prompt, _ in prompts], pad_id)
    first = _log_softmax(logits)
    # One row for each prompt and ending.
    rows = [(place, ending) for place, (_, parting) in enumerate(prompts) for ending in parting.endings]
    owner = torch.tensor([place for place, _ in rows], device=logits.device)
    tokens = torch.tensor([ending[0] for _, ending in rows], device=logits.device)
    totals = first[owner, tokens]
    longest = max(len(ending) for _, ending in rows)
    if longest > 1:
        cache = GrowingCache(model, (filled, mask), repeats=1, room=longest - 1)
        cache.keep(owner.tolist())
        positions = torch.tensor(following, device=logits.device)[owner]
        for step in range(1, longest):
            # A row that has ended is fed its last token again; nothing of it is read.
            after = _log_softmax(cache.step(tokens, positions + step - 1))
            tokens = torch.tensor([e[min(step, len(e) - 1)] for _, e in rows], device=logits.device)
            goes_on = torch.tensor([step < len(ending) for _, ending in rows], device=logits.device)
            totals = totals + torch.where(goes_on, after.gather(1, tokens[:, None]).squeeze(1), 0.0)
    values = iter(totals.tolist())
    for prompt, parting in prompts:
        yield prompt.question_id, tuple(next(values) for _ in parting.endings)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:  # (rows, V) -> (rows, V) float32
    found = logits.to(torch.float32).log_softmax(dim=1)
    if found.isnan().any():
        raise NonFiniteLogits
    return found
