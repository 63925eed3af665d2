"""The first of n pretended processes: torch's fake process group, whose collectives do nothing, on the accelerator."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.rehearsal.accelerator import DEVICE

SHARDING = "torch.distributed.fsdp._fully_shard."
# Where FSDP2 asks for the module of streams and events; torch.cpu has those that do nothing.
ASKS_FOR_STREAMS = ("_fsdp_collectives", "_fsdp_init", "_fsdp_param_group", "_fsdp_state")


def _no_streams(device_type: str) -> Any:
    return torch.cpu


def _in_main_memory(initialise: Any) -> Any:
    """FSDP2 leaves shards on "meta" where they are; those that are to lie in main memory do, without being touched."""

    def moved(param: Any, *given: Any) -> None:
        initialise(param, *given)
        if param.offload_to_cpu:
            on_device = param.sharded_param
            data = torch.empty(param._sharded_param_data.shape, dtype=on_device.dtype)
            local = data[: on_device._local_tensor.numel()].view(on_device._local_tensor.shape)
            param._sharded_param_data = data
            param.sharded_param = torch.nn.Parameter(param.to_sharded_dtensor(local), on_device.requires_grad)
            param._setattr_on_modules(param.sharded_param)

    return moved


@contextlib.contextmanager
def pretended_processes(count: int) -> Iterator[None]:
    """FSDP2 shards over `count` processes, of which this is the first, and torch's optimisers do as on CUDA."""
    with contextlib.ExitStack() as stack:

        def replace(name: str, by: Any) -> None:
            importlib.import_module(name.rpartition(".")[0])
            stack.enter_context(mock.patch(name, by))

        # AdamW and the clipping of gradients choose one kernel for many tensors by the device's name.
        for kind in ("foreach", "fused"):
            chosen = [DEVICE.type]
            replace(f"torch.optim.optimizer._get_{kind}_kernels_supported_devices", lambda chosen=chosen: chosen)
        replace("torch.utils._foreach_utils._get_foreach_kernels_supported_devices", lambda: [DEVICE.type])
        if count > 1:
            for module in ASKS_FOR_STREAMS:
                replace(f"{SHARDING}{module}._get_device_handle", _no_streams)
            replace(f"{SHARDING}_fully_shard._get_device_from_mesh", lambda mesh: DEVICE)
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
            stack.callback(dist.destroy_process_group)
            # Its parameters lie on "meta", which it takes for a forgotten initialisation.
            group = importlib.import_module(f"{SHARDING}_fsdp_param_group").FSDPParamGroup
            stack.enter_context(mock.patch.object(group, "_validate_no_meta_params"))
            one = importlib.import_module(f"{SHARDING}_fsdp_param").FSDPParam
            stack.enter_context(mock.patch.object(one, "_init_sharded_param", _in_main_memory(one._init_sharded_param)))
        yield
