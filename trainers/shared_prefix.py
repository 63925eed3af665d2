"""Log-probabilities of a group of rollouts of one prompt, the prompt and its pixels computed once.

One packed sequence holds the prompt and then all completions. Every completion's positions restart right after the
prompt's, and its tokens see the prompt and their own completion only, so that the numbers and gradients are those of
running each rollout by itself. The vision tower runs once and the output layer on the scored rows only.

    with shared_prefix_attention(model):              # around the whole training, see there
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        loss(logprobs, mask).backward()
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seedbench_r1.backends.vision import media_arguments
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout
from trainers.logprobs import (
    Projection,
    Span,
    chunk_rows_of,
    inner_model,
    logprobs_of,
    pad_rows,
    padded_logprobs,
    token_logprobs,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "seedbench_shared_prefix"  # the name under which transformers knows `_attention`


@dataclass(frozen=True, slots=True)
class _Packing:
    """How completions lie in a packed sequence, and what each of their tokens may see."""

    prompt: int  # P, tokens of the prompt
    places: Tensor  # (G * C,) int64: the packed row of each padded completion token; padding points at row 0
    rows: Tensor  # (sum of the lengths,) int64: index of each packed completion token among G * C
    mask: Tensor  # (heads per key head * C, P + C) of the model's dtype: 0 where a token may attend, else -inf
    width: int  # C, the longest completion


@contextlib.contextmanager
def shared_prefix_attention(model: torch.nn.Module) -> Iterator[None]:
    """Let a Qwen-VL model's language half run packed groups; `group_logprobs` needs it.

    Calls without a packed group (sampling, evaluation) behave as with "sdpa", so that it can stay on for a whole
    training. It must be on until backward has run: gradient checkpointing computes the layers again there. The vision
    tower keeps its attention. Wrapped models (peft, DDP, FSDP, torch.compile) are fine. The former attention is
    restored at the end. Raises ConfigError for a model with sliding-window layers or without a Qwen-VL language model.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = inner_model(model).model.language_model.config
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ConfigError(
            "The model has sliding-window attention, which packed groups do not support: use the repeated form"
        )
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    former, config._attn_implementation = config._attn_implementation, ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = former


def group_logprobs(
    model: torch.nn.Module,
    layout: VisionLayout,
    inputs: ModelInputs,
    completions: Sequence[Tensor],  # G of (C_g,) int64, end token included, on any device
    *,
    shared_prefix: bool = True,
    group_chunk: int | None = None,
    temperature: float = 1.0,
    spans: Sequence[Span | None] | None = None,
) -> tuple[Tensor, Tensor]:  # (G, T) float32 or float64, and (G, T) bool
    """Log-probability of every completion token given the prompt and the completion so far, padded right with 0.

    T is the longest completion; the mask is True on tokens. Gradients flow if they are enabled. Models in float64 give
    float64. Exact: equal to one run per rollout up to rounding.

    The forward pass goes through `model` as it is given, so that DDP's and FSDP's hooks run; all parameters are read
    inside it. Between forward and backward `shared_prefix_attention` must stay on.

    Args:
        model: the policy or the reference, possibly wrapped.
        layout: of the model's vision tokens.
        inputs: the prompt.
        completions: token ids of the group.
        temperature: divides the logits.
        shared_prefix: False runs every rollout with a prompt and pixels of its own, padded, as the authors' code does:
            the oracle, about G times the cost on long prompts. It needs no special attention.
        group_chunk: this many completions at a time, each chunk with the prompt and the vision tower anew. Without
            it, memory grows with P + the sum of C. It saves memory in passes without gradients only: with them, call
            this once per chunk and run backward after each, which is exact, since the loss is a sum over rollouts.
        spans: [start, end) of the tokens wanted of each completion, None for none; everything else is masked, and
            tokens that no wanted one depends on are not computed. For a reference's answer likelihood.

    Raises ValueError for an empty group, for completions that hold a vision token, for spans outside their completion,
    or if `shared_prefix_attention` is not on.
    """
    completions = [ids.cpu() for ids in completions]
    wanted = [(0, len(ids)) for ids in completions] if spans is None else [span or (0, 0) for span in spans]
    _check(layout, completions, wanted)
    if shared_prefix and inner_model(model).model.language_model.config._attn_implementation != ATTENTION:
        raise ValueError("packed groups need `with shared_prefix_attention(model):` around forward and backward")
    size = group_chunk or len(completions)
    flat = []
    for chunk in [slice(start, start + size) for start in range(0, len(completions), size)]:
        ids, spans_of_chunk = completions[chunk], wanted[chunk]
        if shared_prefix:
            flat.append(_packed(model, layout, inputs, ids, spans_of_chunk, temperature))
        else:
            flat.append(padded_logprobs(model, layout, [inputs] * len(ids), ids, spans_of_chunk, temperature))
    return pad_rows(torch.cat(flat), wanted, max(map(len, completions)))


def _check(layout: VisionLayout, completions: Sequence[Tensor], wanted: Sequence[Span]) -> None:
    if not completions or len(wanted) != len(completions):
        raise ValueError(f"{len(completions)} completions with {len(wanted)} spans: a group needs one of each at least")
    for row, (ids, (begin, end)) in enumerate(zip(completions, wanted, strict=True)):
        if not 0 <= begin <= end <= len(ids):
            raise ValueError(f"span {begin}..{end} does not lie in completion {row} of {len(ids)} tokens")
        if bool(((ids == layout.image_token_id) | (ids == layout.video_token_id)).any()):
            raise ValueError(f"completion {row} holds an image or video token, which must be forbidden while sampling")


def _packed(
    model: torch.nn.Module,
    layout: VisionLayout,
    inputs: ModelInputs,
    completions: Sequence[Tensor],
    wanted: Sequence[Span],
    temperature: float,
) -> Tensor:  # (number of wanted tokens,), completion after completion
    base = inner_model(model)
    n_prompt, device = len(inputs.input_ids), base.device
    # A completion's last wanted token is only predicted, never an input.
    lengths = [max(end - 1, 0) for _, end in wanted]
    kept = [ids[:length] for ids, length in zip(completions, lengths, strict=True)]
    # Every completion's positions start right after the prompt's, as if it were the only one.
    steps = torch.cat([torch.arange(length) for length in lengths])
    positions = torch.cat([inputs.positions, (steps + n_prompt + inputs.delta).expand(3, -1)], dim=1)
    rows, start = [], n_prompt
    for (begin, end), length in zip(wanted, lengths, strict=True):
        # Token t is predicted by the row of token t - 1, the first one by the prompt's last row.
        rows += [n_prompt - 1 if t == 0 else start + t - 1 for t in range(begin, end)]
        start += length
    targets = torch.cat([ids[begin:end] for ids, (begin, end) in zip(completions, wanted, strict=True)]).to(device)
    input_ids = torch.cat([inputs.input_ids, *kept])[None]
    arguments = {
        "position_ids": positions[:, None].to(device),
        "logits_to_keep": torch.tensor(rows, dtype=torch.int64, device=device),
        "shared_prefix": _packing(base, n_prompt, lengths),
    }

    def score(hidden: Tensor, project: Projection) -> Tensor:
        chunk_rows = chunk_rows_of(base.lm_head)
        return token_logprobs(project, hidden[0], targets, temperature=temperature, chunk_rows=chunk_rows)

    return logprobs_of(model, score, arguments | media_arguments(base, layout, [inputs], input_ids))


def _packing(base: PreTrainedModel, n_prompt: int, lengths: Sequence[int]) -> _Packing:
    config, device = base.config.get_text_config(), base.device
    heads_per_key = config.num_attention_heads // config.num_key_value_heads
    width = max(lengths)
    steps = torch.arange(width)
    real = steps < torch.tensor(lengths)[:, None]  # (G, C)
    rows = real.flatten().nonzero().flatten()
    places = torch.zeros(real.numel(), dtype=torch.int64)
    places[rows] = torch.arange(n_prompt, n_prompt + len(rows))
    masked = torch.full((width, n_prompt + width), -torch.inf, dtype=base.dtype, device=device).triu(n_prompt + 1)
    return _Packing(n_prompt, places.to(device), rows.to(device), masked.repeat(heads_per_key, 1), width)


def _attention(
    module: torch.nn.Module,
    query: Tensor,  # (B, heads, N, D)
    key: Tensor,  # (B, key heads, N, D)
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: _Packing | None = None,
    **options: object,
) -> tuple[Tensor, None]:  # (B, N, heads, D)
    """Causal attention on the prompt, and for each completion on the prompt and itself.

    Without a packing it is transformers' "sdpa".
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sdpa: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward
    if shared_prefix is None:
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, **options)
    n = shared_prefix.prompt
    # Given no mask, transformers' sdpa is causal by itself.
    prompt, _ = sdpa(module, query[:, :, :n], key[:, :, :n], value[:, :, :n], None, scaling=scaling, **options)
    if not shared_prefix.width:
        return prompt, None
    completions = _completion_attention(query[0], key[0], value[0], shared_prefix, scaling)
    return torch.cat([prompt, completions[None]], dim=1), None


def _completion_attention(
    query: Tensor,  # (heads, N, D)
    key: Tensor,  # (key heads, N, D)
    value: Tensor,
    packing: _Packing,
    scaling: float | None,
) -> Tensor:  # (sum of the lengths, heads, D)
    """The heads that share a key are laid out as further queries, so that keys are not repeated for them."""
    heads, _, size = query.shape
    key_heads, per_key, width = len(key), heads // len(key), packing.width

    def padded(states: Tensor) -> Tensor:  # (heads, N, D) -> (G, C, heads, D)
        chosen = states.transpose(0, 1).index_select(0, packing.places)
        return chosen.view(-1, width, *chosen.shape[1:])

    def with_prompt(states: Tensor) -> Tensor:  # (key heads, N, D) -> (G, key heads, P + C, D)
        own = padded(states).transpose(1, 2)
        return torch.cat([states[None, :, : packing.prompt].expand(len(own), -1, -1, -1), own], dim=2)

    queries = padded(query)
    queries = queries.view(*queries.shape[:2], key_heads, per_key, size).permute(0, 2, 3, 1, 4)
    attended = torch.nn.functional.scaled_dot_product_attention(
        queries.reshape(-1, key_heads, per_key * width, size),
        with_prompt(key),
        with_prompt(value),
        attn_mask=packing.mask.to(query.dtype),
        scale=scaling,
    )
    by_token = attended.view(-1, key_heads, per_key, width, size).permute(0, 3, 1, 2, 4)
    return by_token.reshape(-1, heads, size).index_select(0, packing.rows)
