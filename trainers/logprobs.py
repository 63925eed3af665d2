"""Log-probabilities of given tokens, computed from hidden states in chunks: no tensor of all logits ever exists.

`token_logprobs` is the computation, `logprobs_of` a model's forward pass that ends with it, and `padded_logprobs` such
a pass over a batch of prompts with a completion each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from seedbench_r1.backends.vision import device_of, media_arguments
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Each chunk reads the output layer, and in the backward pass adds to its gradient of the same size (1.09 GB for a 7B):
# few chunks. A chunk's logits in float32 take up to this share of the layer's bytes: 512 rows for a 7B in bfloat16.
LOGITS_SHARE = 0.3
CHUNK_ROWS = 64  # at least, in multiples of it: 39 MB of 152k float32 logits


def chunk_rows_of(layer: torch.nn.Module) -> int:
    """Rows of hidden states that are projected at once by this output layer, of a (V, H) weight."""
    weight = cast(Tensor, layer.weight)  # a wrapper of peft hands it through
    n_logit_bytes = 4 * weight.shape[0]
    return max(1, int(LOGITS_SHARE * weight.numel() * weight.element_size() / n_logit_bytes) // CHUNK_ROWS) * CHUNK_ROWS


Span = tuple[int, int]  # [start, end) among a completion's tokens
Projection = Callable[[Tensor], Tensor]  # the output layer: (n, H) -> (n, V)


def token_logprobs(
    project: Projection,
    hidden: Tensor,  # (N, H), the model's dtype
    tokens: Tensor,  # (N,) int64
    *,
    temperature: float = 1.0,
    chunk_rows: int = CHUNK_ROWS,
) -> Tensor:  # (N,) float32; float64 if the logits are float64
    """Natural log of softmax(project(hidden) / temperature) at each row's token.

    Logits are widened to float32 before the softmax. With gradients enabled, each chunk's logits are computed again in
    the backward pass, which costs one more product with the output layer and keeps the peak at one chunk's logits and
    their gradient. `project` may be any module, adapters and autocast included. N = 0 gives an empty result that is
    still part of the graph. Raises ValueError if temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need one above 0")

    def one_chunk(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = project(rows)
        if logits.dtype != torch.float64:
            logits = logits.float()
        if temperature != 1:
            logits = logits / temperature
        return -torch.nn.functional.cross_entropy(logits, wanted, reduction="none")

    parts = []
    for start in range(0, max(len(hidden), 1), chunk_rows):
        rows, wanted = hidden[start : start + chunk_rows], tokens[start : start + chunk_rows]
        if torch.is_grad_enabled():
            parts.append(checkpoint(one_chunk, rows, wanted, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(one_chunk(rows, wanted))
    return torch.cat(parts)


def inner_model(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside any wrappers. Raises ConfigError if there is none of Qwen-VL's."""
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel) and hasattr(getattr(module, "model", None), "language_model"):
            return module
    raise ConfigError(f"{type(model).__name__} holds no model of Qwen-VL's kind (docs/models.md)")


def logprobs_of(
    model: torch.nn.Module, score: Callable[[Tensor, Projection], Tensor], arguments: Mapping[str, object]
) -> Tensor:
    """One forward pass in which score(hidden states, output layer) replaces the logits.

    `score` runs inside the output layer, because only there, within the model's forward, are the layer's weights
    gathered under FSDP.
    """
    head = inner_model(model).lm_head
    project, wrapped = head.forward, "forward" in vars(head)
    head.forward = lambda hidden: score(hidden, project)
    try:
        logprobs: Tensor = model(use_cache=False, **arguments).logits
    finally:
        # An instance attribute of its own was there only if a wrapper, such as accelerate's hooks, had set one.
        if wrapped:
            head.forward = project
        else:
            del head.forward
    return logprobs


def padded_logprobs(
    model: torch.nn.Module,
    layout: VisionLayout,
    prompts: Sequence[ModelInputs],  # B, of any lengths
    completions: Sequence[Tensor],  # B of (C_b,) int64 on the CPU
    spans: Sequence[Span],  # B: the tokens wanted of each completion
    temperature: float = 1.0,
) -> Tensor:  # (number of wanted tokens,), row after row
    """Log-probability of every wanted token given its own prompt and the completion so far, in one padded batch.

    Rows are padded to the right, where no token attends to the padding: its value and positions do not matter.
    """
    base = inner_model(model)
    starts = [len(prompt.input_ids) for prompt in prompts]
    width = max(start + len(ids) for start, ids in zip(starts, completions, strict=True))
    input_ids = prompts[0].input_ids.new_zeros(len(prompts), width)
    positions = torch.zeros(3, len(prompts), width, dtype=torch.int64)
    chosen = torch.zeros(len(prompts), width, dtype=torch.bool)
    rows = zip(prompts, starts, completions, spans, strict=True)
    for row, (prompt, start, completion, (first, last)) in enumerate(rows):
        end = start + len(completion)
        input_ids[row, :start], input_ids[row, start:end] = prompt.input_ids, completion
        # A token of the prompt's text: a vision token would be counted as one more patch.
        input_ids[row, end:] = prompt.input_ids[0]
        positions[:, row, :start] = prompt.positions
        positions[:, row, start:] = torch.arange(start, width) + prompt.delta
        # A token is predicted by the row before it.
        chosen[row, start + first - 1 : start + last - 1] = True
    targets = torch.cat([ids[first:last] for ids, (first, last) in zip(completions, spans, strict=True)])
    targets, chosen = targets.to(device_of(base)), chosen.to(device_of(base))

    def score(hidden: Tensor, project: Projection) -> Tensor:
        rows = chunk_rows_of(base.lm_head)
        return token_logprobs(project, hidden[chosen], targets, temperature=temperature, chunk_rows=rows)

    arguments = {"position_ids": positions.to(device_of(base))}
    return logprobs_of(model, score, arguments | media_arguments(base, layout, prompts, input_ids))


def pad_rows(
    flat: Tensor,  # (number of wanted tokens,), row after row
    spans: Sequence[Span],  # of B rows
    width: int,
) -> tuple[Tensor, Tensor]:  # (B, width), and (B, width) bool
    """The values at their tokens, 0 elsewhere; the mask is True on them."""
    mask = torch.zeros(len(spans), width, dtype=torch.bool)
    for row, (first, last) in enumerate(spans):
        mask[row, first:last] = True
    mask = mask.to(flat.device)
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat), mask
