"""Weights, gradients, optimiser states and the average spread over the processes, by torch's FSDP2 (`fully_shard`).

Every decoder layer is gathered when it runs, forward and backward, and given up again. All else is gathered with the
root, once a pass: embeddings, output layer and the vision tower, whose calls (one for images, one for clips) would not
be equally many in all processes if its blocks were gathered one by one. Shards are float32, passes run in the model's
own type, gradients are summed in float32.

Gathering works only if all processes do it equally often, so they agree on the number of passes beforehand
(`Processes.most`), and one with fewer makes idle passes, whose gradient is zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shards:
    """How a model is spread over the processes.

    Attributes:
        mesh: the processes' DeviceMesh, of one dimension.
        hollow: the model without weights and hooks, in the type it computes in; `whole` fills it for a while.
    """

    mesh: Any
    hollow: Any


def shard_policy(model: Any, device: torch.device, world: int) -> Shards:
    """Spread a Qwen-VL model over all processes, in place: float32 shards, passes in the type it had.

    Every process calls it with the same weights. Afterwards the model takes passes and gradients; it cannot be copied.
    """
    from torch.distributed.device_mesh import init_device_mesh

    hollow = copy.deepcopy(model, {id(p): torch.nn.Parameter(p.new_empty(0), False) for p in model.parameters()})
    shards = Shards(init_device_mesh(device.type, (world,)), hollow.eval())
    shard(model, shards.mesh, stored=torch.float32)
    return shards


def shard(model: Any, mesh: Any, *, stored: torch.dtype) -> None:
    """Spread a Qwen-VL model in place: shards of type `stored`, passes in the type that the model has now."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    # inputs are left as they are: a layer's rotary angles may be float32 on purpose
    precision = MixedPrecisionPolicy(model.dtype, torch.float32, cast_forward_inputs=False)
    for module in (*model.model.language_model.layers, model):
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(stored)  # layer by layer, so that they are never all wide
        # also the root is given up after its forward pass: the reference has no backward pass that would do it
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # sums: the loss is divided by the questions of all processes
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


@contextmanager
def whole(shards: Shards, model: Any) -> Iterator[Any]:
    """The model with all its weights on this device, for anything but training passes. Every process must call it.

    Takes 2 bytes per weight in bfloat16 until it is left. Parameters are gathered one after the other.
    """
    parameters = dict(shards.hollow.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            parameters[name].data = value.to(parameters[name].dtype).full_tensor()
    try:
        yield shards.hollow
    finally:
        for parameter in parameters.values():
            parameter.data = parameter.new_empty(0)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, in the same memory; any other tensor is its own part."""
    from torch.distributed.tensor import DTensor

    part: Any = tensor.detach()
    return part.to_local() if isinstance(tensor, DTensor) else part


def save_shards(folder: Path, tensors: Mapping[str, Any]) -> None:
    """Write nested dicts of sharded tensors, each process its own part. Raises CheckpointException in all alike."""
    import torch.distributed.checkpoint as dcp

    dcp.save(dict(tensors), checkpoint_id=folder)


def load_shards(folder: Path, tensors: Mapping[str, Any]) -> None:
    """Read what `save_shards` wrote, in any number of processes, into the given tensors."""
    import torch.distributed.checkpoint as dcp

    dcp.load(dict(tensors), checkpoint_id=folder)


def on_cpu(parts: Mapping[str, Tensor], like: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parts that processes hold in main memory, as the sharded tensors that they make up; memory is shared."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    with torch.no_grad():
        return {
            name: DTensor.from_local(
                part, mesh, like[name].placements, shape=like[name].shape, stride=like[name].stride()
            )
            for name, part in parts.items()
        }
