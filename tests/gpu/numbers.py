"""Stage: log-probabilities, gradients and vision embeddings on the device against the CPU, in float32 and bfloat16."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbench_r1.backends.vision import media_arguments, prepare_vision_tower
from tests.gpu import shapes
from tests.gpu.stage_process import Place
from trainers.shared_prefix import group_logprobs, shared_prefix_attention

LENGTHS = (40, 17, 1, 33)  # tokens of the rollouts: of unlike lengths, so that some are padded
# float32 sums in another order on a GPU; with TF32 off that is all that may differ.
LOGPROB, GRADIENT, EMBEDDING = 1e-4, 1e-3, 1e-3  # absolute; relative to the norm of all; relative
# bfloat16 rounds alike on both, in another order: as far from float32 as the CPU's own bfloat16, or three times that.
TIMES, SLACK = 3.0, 0.01


@dataclass(frozen=True, slots=True)
class Pass:
    """What a packed pass gives, in float32 on the CPU."""

    logprobs: Tensor  # (G, T), zeros where there is no token
    gradient: Tensor  # of all parameters, one behind the other
    embeddings: Tensor  # of the vision tower, (tokens, H)


def numbers(place: Place) -> None:
    """A packed group of four rollouts, one pass forward and backward on each device in each dtype."""
    inputs = shapes.prompt(60 if place.smoke else 1350)
    drawn = torch.Generator().manual_seed(1)
    completions = [torch.randint(0, 150_000, (length,), generator=drawn) for length in LENGTHS]
    torch.manual_seed(0)
    made: Any = shapes.build("smoke" if place.smoke else "small", torch.device("cpu"), torch.float32)
    prepare_vision_tower(made)
    with torch.no_grad():
        for parameter in made.parameters():  # so that both dtypes have the same weights
            parameter.copy_(parameter.bfloat16())
    exact = packed(made, inputs, completions, torch.device("cpu"), torch.float32)
    single = packed(made, inputs, completions, place.device, torch.float32)
    found = difference(single, exact)
    place.note(float32=found)
    for name, limit in (("logprobs", LOGPROB), ("gradient", GRADIENT), ("embeddings", EMBEDDING)):
        place.check(
            found[name] <= limit, f"float32 {name} differ from the CPU's by {found[name]:.2g}, more than {limit}"
        )
    repeated = packed(made, inputs, completions, place.device, torch.float32, shared_prefix=False)
    found = difference(single, repeated)
    place.note(packed_against_repeated=found)
    place.check(found["logprobs"] <= LOGPROB, f"packed and repeated rollouts differ by {found['logprobs']:.2g}")
    half = difference(packed(made, inputs, completions, torch.device("cpu"), torch.bfloat16), exact)
    place.note(bfloat16_of_cpu=half)
    found = difference(packed(made, inputs, completions, place.device, torch.bfloat16), exact)
    place.note(bfloat16=found)
    for name, value in found.items():
        limit = TIMES * half[name] + SLACK
        place.check(value <= limit, f"bfloat16 {name} are {value:.2g} from float32, the CPU's {half[name]:.2g}")


def packed(
    made: torch.nn.Module,
    inputs: Any,
    completions: list[Tensor],
    device: torch.device,
    dtype: torch.dtype,
    *,
    shared_prefix: bool = True,
) -> Pass:
    """One pass forward and backward of a copy of the model."""
    model: Any = copy.deepcopy(made).to(device).train()
    for parameter in model.parameters():  # alone: angles of the rotary embedding stay in float32, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, shapes.LAYOUT, inputs, completions, shared_prefix=shared_prefix)
        weights = torch.linspace(-1, 1, len(completions), device=device)[:, None]
        (logprobs * mask * weights).sum().backward()
    gradient = torch.cat([parameter.grad.float().flatten().cpu() for parameter in model.parameters()])
    with torch.no_grad():
        media = media_arguments(model, shapes.LAYOUT, [inputs], inputs.input_ids[None])
        towered = model.model.visual(media["pixel_values"], grid_thw=media["image_grid_thw"])
    embeddings = towered if isinstance(towered, Tensor) else towered.pooler_output
    return Pass(logprobs.detach().float().cpu(), gradient, embeddings.float().cpu())


def difference(found: Pass, expected: Pass) -> dict[str, float]:
    """Largest absolute one of log-probabilities; of gradients and embeddings relative to the norm of the expected."""
    relative = {
        name: float((getattr(found, name) - getattr(expected, name)).norm() / getattr(expected, name).norm())
        for name in ("gradient", "embeddings")
    }
    return {"logprobs": float((found.logprobs - expected.logprobs).abs().max()), **relative}
