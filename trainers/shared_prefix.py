"""Log-probabilities of groups of rollouts, each group's prompt and pixels computed once.

One packed sequence holds the prompt and then all completions. Every completion's positions restart right after the
prompt's, and its tokens see the prompt and their own completion only, so that the numbers and gradients are those of
running each rollout by itself. The vision tower runs once and the output layer on the scored rows only. Several groups
may follow one another in the sequence, whose tokens do not see each other.

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

from seedbench_r1.backends.vision import device_of, media_arguments
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout
from trainers.linear_attention import fork_at_prompts, linear_layers, unfork
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
ALIGNED = 16  # numbers, to a multiple of which PyTorch's memory-efficient attention pads the rows of a mask


@dataclass(frozen=True, slots=True)
class _Packing:
    """How a group's completions lie among its rows of a packed sequence, and what each of their tokens may see."""

    prompt: int  # P, tokens of the prompt
    length: int  # P + sum of the lengths: the group's rows
    places: Tensor  # (G * C,) int64: the group's row of each padded completion token; padding points at row 0
    rows: Tensor  # (sum of the lengths,) int64: index of each packed completion token among G * C
    width: int  # C, the longest completion
    heads_per_key: int
    masks: dict[torch.dtype, Tensor]  # made by `mask` so far

    def mask(self, states: Tensor) -> Tensor:  # (heads per key head * C, P + C)
        """0 where a token may attend, else -inf; of the dtype and on the device of `states`.

        One for all layers. Of the dtype that a pass runs in, which only its layers know: under --fsdp the model's own
        is the shards'.
        """
        if states.dtype not in self.masks:
            # CUDA's kernel takes rows of 16 numbers, and would copy any others in every layer.
            columns = self.prompt + self.width
            shape = self.width, -(-columns // ALIGNED) * ALIGNED
            masked = torch.full(shape, -torch.inf, dtype=states.dtype, device=states.device).triu(self.prompt + 1)
            self.masks[states.dtype] = masked.repeat(self.heads_per_key, 1)[:, :columns]
        return self.masks[states.dtype]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A group, and the tokens that are wanted of each completion."""

    inputs: ModelInputs
    completions: Sequence[Tensor]
    spans: Sequence[Span]


@contextlib.contextmanager
def shared_prefix_attention(model: torch.nn.Module) -> Iterator[None]:
    """Let a Qwen-VL model's language half run packed groups; `group_logprobs` needs it.

    Calls without a packed group (sampling, evaluation) behave as with "sdpa", so that it can stay on for a whole
    training. It must be on until backward has run: gradient checkpointing computes the layers again there. The vision
    tower keeps its attention. Wrapped models (peft, DDP, FSDP, torch.compile) are fine. The former attention is
    restored at the end. Raises ConfigError for a model with layers of other kinds than full and linear attention, or
    without a Qwen-VL language model.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    language_model = inner_model(model).model.language_model
    config = language_model.config
    linear = linear_layers(language_model)
    known = {"full_attention", "linear_attention"} if linear else {"full_attention"}
    if unknown := sorted({*(getattr(config, "layer_types", None) or ())} - known):
        raise ConfigError(
            f"The model has layers of {unknown[0]}, which packed groups do not support. Fix: --no-shared-prefix"
        )
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    former, config._attn_implementation = config._attn_implementation, ATTENTION
    for module in linear:
        fork_at_prompts(module)
    try:
        yield
    finally:
        config._attn_implementation = former
        for module in linear:
            unfork(module)


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
    float64. Exact: equal to one run per rollout up to rounding, which is float32's where transformers computes in it
    whatever the model's type (routers, the decay and the delta rule of linear attention, rotation in the vision tower).

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
    if shared_prefix:
        _check_attention(model)
    size = group_chunk or len(completions)
    flat = []
    for chunk in [slice(start, start + size) for start in range(0, len(completions), size)]:
        ids, spans_of_chunk = completions[chunk], wanted[chunk]
        if shared_prefix:
            flat.append(_packed(model, layout, [_Wanted(inputs, ids, spans_of_chunk)], temperature))
        else:
            flat.append(padded_logprobs(model, layout, [inputs] * len(ids), ids, spans_of_chunk, temperature))
    return pad_rows(torch.cat(flat), wanted, max(map(len, completions)))


def groups_logprobs(
    model: torch.nn.Module,
    layout: VisionLayout,
    prompts: Sequence[ModelInputs],
    completions: Sequence[Sequence[Tensor]],  # of each prompt G of (C_g,) int64
    *,
    temperature: float = 1.0,
) -> list[tuple[Tensor, Tensor]]:  # of each prompt (G, T) and (G, T) bool
    """group_logprobs of several prompts in one packed pass: equal to a pass for each up to rounding.

    Activations grow with the sum of all tokens. Raises ValueError as group_logprobs, and for no prompts.
    """
    groups = []
    for inputs, given in zip(prompts, completions, strict=True):
        ids = [one.cpu() for one in given]
        groups.append(_Wanted(inputs, ids, [(0, len(one)) for one in ids]))
        _check(layout, ids, groups[-1].spans)
    if not groups:
        raise ValueError("a packed pass needs a group at least")
    _check_attention(model)
    flat = _packed(model, layout, groups, temperature)
    parts = torch.split(flat, [sum(end for _, end in group.spans) for group in groups])
    return [
        pad_rows(part, group.spans, max(map(len, group.completions))) for part, group in zip(parts, groups, strict=True)
    ]


def _check_attention(model: torch.nn.Module) -> None:
    if inner_model(model).model.language_model.config._attn_implementation != ATTENTION:
        raise ValueError("packed groups need `with shared_prefix_attention(model):` around forward and backward")


def _check(layout: VisionLayout, completions: Sequence[Tensor], wanted: Sequence[Span]) -> None:
    if not completions or len(wanted) != len(completions):
        raise ValueError(f"{len(completions)} completions with {len(wanted)} spans: a group needs one of each at least")
    for row, (ids, (begin, end)) in enumerate(zip(completions, wanted, strict=True)):
        if not 0 <= begin <= end <= len(ids):
            raise ValueError(f"span {begin}..{end} does not lie in completion {row} of {len(ids)} tokens")
        if bool(((ids == layout.image_token_id) | (ids == layout.video_token_id)).any()):
            raise ValueError(f"completion {row} holds an image or video token, which must be forbidden while sampling")


def _packed(
    model: torch.nn.Module, layout: VisionLayout, groups: Sequence[_Wanted], temperature: float
) -> Tensor:  # (number of wanted tokens,), group after group, completion after completion
    base = inner_model(model)
    ids, positions, rows, targets, packings = [], [], [], [], []
    start = 0
    for group in groups:
        inputs, n_prompt = group.inputs, len(group.inputs.input_ids)
        # A completion's last wanted token is only predicted, never an input.
        lengths = [max(end - 1, 0) for _, end in group.spans]
        ids += [inputs.input_ids, *(c[:length] for c, length in zip(group.completions, lengths, strict=True))]
        # Every completion's positions start right after the prompt's, as if it were the only one.
        steps = torch.cat([torch.arange(length) for length in lengths])
        positions += [inputs.positions, (steps + n_prompt + inputs.delta).expand(3, -1)]
        last = start + n_prompt - 1
        start += n_prompt
        for completion, (begin, end), length in zip(group.completions, group.spans, lengths, strict=True):
            # Token t is predicted by the row of token t - 1, the first one by the prompt's last row.
            rows += [last if t == 0 else start + t - 1 for t in range(begin, end)]
            targets.append(completion[begin:end])
            start += length
        packings.append(_packing(base, n_prompt, lengths))
    wanted = torch.cat(targets).to(device_of(base))
    input_ids = torch.cat(ids)[None]
    arguments = {
        "position_ids": torch.cat(positions, dim=1)[:, None].to(device_of(base)),
        "logits_to_keep": torch.tensor(rows, dtype=torch.int64, device=device_of(base)),
        "shared_prefix": packings,
    }

    def score(hidden: Tensor, project: Projection) -> Tensor:
        chunk_rows = chunk_rows_of(base.lm_head)
        return token_logprobs(project, hidden[0], wanted, temperature=temperature, chunk_rows=chunk_rows)

    prompts = [group.inputs for group in groups]
    return logprobs_of(model, score, arguments | media_arguments(base, layout, prompts, input_ids))


def _packing(base: PreTrainedModel, n_prompt: int, lengths: Sequence[int]) -> _Packing:
    config, device = base.config.get_text_config(), device_of(base)
    width = max(lengths)
    steps = torch.arange(width)
    real = steps < torch.tensor(lengths)[:, None]  # (G, C)
    rows = real.flatten().nonzero().flatten()
    places = torch.zeros(real.numel(), dtype=torch.int64)
    places[rows] = torch.arange(n_prompt, n_prompt + len(rows))
    return _Packing(
        n_prompt,
        n_prompt + sum(lengths),
        places.to(device),
        rows.to(device),
        width,
        config.num_attention_heads // config.num_key_value_heads,
        {},
    )


def _attention(
    module: torch.nn.Module,
    query: Tensor,  # (B, heads, N, D)
    key: Tensor,  # (B, key heads, N, D)
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prefix: Sequence[_Packing] | None = None,
    **options: object,
) -> tuple[Tensor, None]:  # (B, N, heads, D)
    """In every group, causal attention on the prompt, and for each completion on the prompt and itself.

    Without packings it is transformers' "sdpa".
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sdpa: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward
    if shared_prefix is None and query.shape[2] == 1:
        return _next_token_attention(query, key, value, attention_mask, scaling), None
    if shared_prefix is None:
        return sdpa(module, query, key, value, attention_mask, scaling=scaling, **options)
    parts, lengths = [], [packing.length for packing in shared_prefix]
    states = (torch.split(tensor, lengths, dim=2) for tensor in (query, key, value))
    for packing, q, k, v in zip(shared_prefix, *states, strict=True):
        n = packing.prompt
        # Given no mask, transformers' sdpa is causal by itself.
        parts.append(sdpa(module, q[:, :, :n], k[:, :, :n], v[:, :, :n], None, scaling=scaling, **options)[0])
        if packing.width:
            parts.append(_completion_attention(q[0], k[0], v[0], packing, scaling)[None])
    return torch.cat(parts, dim=1), None


def _next_token_attention(
    query: Tensor,  # (B, heads, 1, D)
    key: Tensor,  # (B, key heads, N, D)
    value: Tensor,
    attention_mask: Tensor | None,  # (B, 1, 1, N)
    scaling: float | None,
) -> Tensor:  # (B, 1, heads, D)
    """The heads that share a key as further queries. Given a mask, transformers' sdpa repeats all keys instead.

    For a 7B's 8 rollouts that would be 7 GB written and read again for every token, next to 17 GB of weights.
    """
    rows, heads, _, size = query.shape
    grouped = query.view(rows, key.shape[1], -1, size)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(grouped, key, value, attn_mask=attention_mask, scale=scaling).reshape(rows, 1, heads, size)


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
        attn_mask=packing.mask(query),
        scale=scaling,
    )
    by_token = attended.view(-1, key_heads, per_key, width, size).permute(0, 3, 1, 2, 4)
    return by_token.reshape(-1, heads, size).index_select(0, packing.rows)
