"""Stage: what is here, and what the card can do at all."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import torch
import transformers

from seedbench_r1.backends.loading import why_no_gpu
from tests.gpu.measuring import GB, device_peaks, seconds
from tests.gpu.shapes import PEAKS
from tests.gpu.stage_process import Place, attention_switches

OPTIONAL = ("accelerate", "peft", "pebble", "torchvision", "av", "decord", "rich", "typer", "pandas", "vllm", "triton")


def environment(place: Place) -> None:
    """Versions, the card, its memory and its speed on a large product and a large copy."""
    place.note(
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        host_threads=os.cpu_count(),
        attention_as_we_run=attention_switches(),
        packages={name: _version(name) for name in OPTIONAL},
    )
    if place.device.type != "cuda":
        place.note(no_gpu=why_no_gpu())
        _speed(place, 256)
        return
    card = torch.cuda.get_device_properties(place.device)
    free, total = torch.cuda.mem_get_info(place.device)
    place.note(
        capability=f"{card.major}.{card.minor}",
        multiprocessors=card.multi_processor_count,
        free_gb=round(free / GB, 2),
        total_gb=round(total / GB, 2),
        bfloat16=torch.cuda.is_bf16_supported(),
    )
    place.check(not attention_switches()["cudnn"], "cuDNN's attention is not left out after resolve_device")
    place.check(free > 0.9 * total, f"{(total - free) / GB:.1f} GB of the card are taken: somebody else computes on it")
    _speed(place, 8192)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version" if importlib.util.find_spec(name) else None


def _speed(place: Place, side: int) -> None:
    """TFLOP/s of a product and GB/s of a copy, of square matrices in bfloat16, mean of ten."""
    left, right = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    target, repeats = torch.empty_like(left), 10

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=target)

    def copy() -> None:
        for _ in range(repeats):
            target.copy_(left)

    multiply()
    copy()
    tflops = 2 * side**3 * repeats / seconds(place.device, multiply) / 1e12
    gigabytes = 2 * left.nbytes * repeats / seconds(place.device, copy) / GB
    place.note(product_tflops=round(tflops, 2), copy_gb_per_s=round(gigabytes, 1))
    place.note(data_sheet=device_peaks(place.device, PEAKS))
