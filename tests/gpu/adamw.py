"""Stage: what AdamW's forms take of time and memory on the device. The optimiser takes the fused one on CUDA."""

from __future__ import annotations

from typing import Any

import torch

from tests.gpu.measuring import GB, seconds
from tests.gpu.stage_process import Place


def adamw(place: Place) -> None:
    """A step on thirty fp32 matrices of a 3B's size: memory above weights, gradients and moments."""
    shape, count = ((64, 64), 4) if place.smoke else ((11008, 2048), 30)
    forms: dict[str, dict[str, Any]] = {
        "fused": {"fused": True},
        "foreach": {"foreach": True},
        "one by one": {"foreach": False},
    }
    for name, options in forms.items():
        weights = [torch.randn(shape, device=place.device, requires_grad=True) for _ in range(count)]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = torch.optim.AdamW(weights, lr=1e-6, **options)
        optimizer.step()  # makes the moments
        held = extra = 0
        if place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place.device)
            held = torch.cuda.memory_allocated(place.device)
        took = seconds(place.device, optimizer.step)
        if place.device.type == "cuda":
            extra = torch.cuda.max_memory_allocated(place.device) - held
        place.note(**{name: {"s": round(took, 4), "extra_gb": round(extra / GB, 3), "held_gb": round(held / GB, 2)}})
        del weights, weight, optimizer
    fused = place.found["fused"]["extra_gb"]
    place.check(fused < 0.5, f"the fused form takes {fused} GB above what is held")
