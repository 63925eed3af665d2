"""Stage: which attention kernels CUDA chooses, how many kernels a pass launches, and where the host waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from seedbench_r1.backends.caches import DecodeCache, open_cache
from seedbench_r1.backends.decoding import prefill
from seedbench_r1.backends.vision import media_arguments
from tests.gpu import shapes
from tests.gpu.decoding import GROUP, evaluated
from tests.gpu.measuring import Meter, kernels_of
from tests.gpu.random_policy import MEDIA, PROMPT
from tests.gpu.stage_process import Place
from trainers.shared_prefix import group_logprobs, shared_prefix_attention


def kernels(place: Place) -> None:
    """The vision tower, a packed pass without and with gradients, and one token from each cache; 3B, bfloat16."""
    model = evaluated("smoke" if place.smoke else "3b", place.device, torch.bfloat16)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    inputs = shapes.prompt(60) if place.smoke else shapes.prompt(PROMPT, MEDIA)
    length = 8 if place.smoke else 768
    completions = [torch.randint(0, 150_000, (length,)) for _ in range(2 if place.smoke else GROUP)]
    media = media_arguments(model, shapes.LAYOUT, [inputs], inputs.input_ids[None])

    def tower() -> None:
        with torch.no_grad():
            model.model.visual(media["pixel_values"], grid_thw=media["image_grid_thw"])

    def forward() -> None:
        with torch.no_grad():
            group_logprobs(model.eval(), shapes.LAYOUT, inputs, completions)

    def learn() -> None:
        group_logprobs(model.train(), shapes.LAYOUT, inputs, completions)[0].mean().backward()
        model.zero_grad(set_to_none=True)

    look(place, "vision tower", tower)
    with shared_prefix_attention(model):
        look(place, "packed pass, forward", forward)
        look(place, "packed pass, forward and backward", learn)
    model.eval()
    for kind in ("dynamic", "static"):
        look(place, f"one token, {kind} cache", one_token(model, inputs, kind))


def one_token(model: Any, inputs: Any, kind: DecodeCache) -> Callable[[], None]:
    """What feeds one more token to eight rows, the choice of the next left out; a static cache records at first."""
    with torch.inference_mode():
        _, cache, mask = prefill(model, shapes.LAYOUT, [inputs], 0)
        opened = open_cache(kind, model, (cache, mask), repeats=GROUP, room=16)
        tokens = torch.arange(GROUP, device=mask.device)
        places = torch.full((GROUP,), len(inputs.input_ids) + inputs.delta, device=mask.device)

    def step() -> None:
        with torch.inference_mode():
            opened.step(tokens, places)

    return step


def look(place: Place, name: str, work: Callable[[], None]) -> None:
    """Note what a profile of `work` shows, and where its host waits for the device."""
    found = kernels_of(place.device, work)
    meter = Meter(place.device)
    with meter.watching_synchronisations(), meter.stage(name):
        work()
    found["waits and uploads by place"] = dict(meter.synchronisations.get(name, {}))
    place.note(**{name: found})
    cudnn = [kernel for kernel in found["attention kernels"] if "cudnn" in kernel.lower()]
    place.check(not cudnn, f"{name}: cuDNN's attention was chosen: {cudnn}")
