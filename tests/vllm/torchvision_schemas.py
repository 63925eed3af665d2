"""For the CPU environment only: declare two operators before torchvision is imported.

The torchvision that pip installs there is built for CUDA and describes `nms` and `qnms` while it is imported; the CPU
build of torch does not know them, so that `import torchvision` fails, and with it every Qwen-VL processor. make_env.sh
copies this file into the environment and has it imported when an interpreter starts, in vLLM's child processes too.
Nothing happens until torchvision is imported, and neither operator is ever called.
"""

from __future__ import annotations

import sys


class DeclareOperators:
    """A finder that finds nothing: it sees the import of torchvision first, declares, and steps aside."""

    library = None  # kept for the life of the process: the schemas go when it does

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision" and cls.library is None:
            import torch

            cls.library = torch.library.Library("torchvision", "FRAGMENT")
            if not hasattr(torch.ops.torchvision, "nms"):
                for operator in ("nms", "qnms"):
                    cls.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, DeclareOperators)
