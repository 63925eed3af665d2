"""Declare two operators before torchvision is imported: its CUDA build expects them, and the CPU build of torch lacks them.

They are never called; without their schemas `import torchvision` fails, and with it every Qwen-VL processor.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # kept: the schemas go when it does

if not hasattr(torch.ops.torchvision, "nms"):
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
