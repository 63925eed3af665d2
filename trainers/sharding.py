"""Weights, gradients, optimiser states and the average sharded over the processes, by torch's FSDP2 (`fully_shard`).

Every decoder layer and every block of the vision tower is gathered when it runs, forward and backward, and resharded
afterwards; the tower runs once a pass. All else is gathered with the root, once a pass: embeddings and output layer.
Shards are float32, passes run in the model's dtype, gradients are summed in float32.

Gathering is collective: every process must gather equally often. So the processes agree on the number of passes
beforehand (`Processes.max_over_ranks`), and one with fewer makes idle passes, whose gradient is zero.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


STEP = "step"  # among the tensors of a sharded checkpoint


@dataclass(frozen=True, slots=True)
class Shards:
    """How a model is sharded.

    Attributes:
        mesh: the processes, in one dimension.
        unsharded_shell: the model without weights and hooks, of the dtype that passes run in; `gathered` fills it.
    """

    mesh: DeviceMesh
    unsharded_shell: PreTrainedModel


def shard_policy(model: PreTrainedModel, device: torch.device, world_size: int) -> Shards:
    """Shard a Qwen-VL model over all processes, in place: float32 shards, passes in the dtype it had.

    Under LoRA the shards are frozen and keep the model's dtype, and adapters stay whole in every process: they are
    small, and so are trained, averaged and saved as without shards. Every process calls it with the same weights.
    Afterwards the model takes passes and gradients; it cannot be copied.
    """
    # Empty parameters in the copy's memo: the shell is made without a second copy of the weights.
    shell = copy.deepcopy(model, {id(p): torch.nn.Parameter(p.new_empty(0), False) for p in model.parameters()})
    shell.train(False)
    shards = Shards(init_device_mesh(device.type, (world_size,)), shell)
    whole = {parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    shard(model, shards.mesh, shard_dtype=model.dtype if whole else torch.float32, whole=whole)
    return shards


def shard(
    model: PreTrainedModel,
    mesh: DeviceMesh,
    *,
    shard_dtype: torch.dtype,
    whole: Set[torch.nn.Parameter] = frozenset(),
    in_main_memory: bool = False,
) -> None:
    """Shard a Qwen-VL model in place: shards of `shard_dtype`, passes in the dtype that the model has now.

    whole: parameters that are left as they are. in_main_memory: of a model for passes without gradients, shards lie in
    (pinned) main memory and are copied to the device whenever they are gathered.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        FSDPModule,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    # Inputs are not cast: a layer's rotary angles may be float32 on purpose.
    precision = MixedPrecisionPolicy(model.dtype, torch.float32, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if in_main_memory else OffloadPolicy()
    for module in (*model.model.visual.blocks, *model.model.language_model.layers, model):
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor) and parameter not in whole:
                # Layer by layer, so that the whole model never exists in float32.
                parameter.data = parameter.data.to(shard_dtype)
        # The root is resharded after its forward pass too: the reference has no backward pass that would do it.
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=precision,
            reshard_after_forward=True,
            ignored_params=set(whole),
            offload_policy=offload,
        )
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Sums, not means: the loss is already divided by the questions of all processes. gloo can only sum.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@contextmanager
def gathered(shards: Shards, model: torch.nn.Module) -> Iterator[PreTrainedModel]:
    """The model with all its weights on this device, for anything but training passes. Every process must call it.

    Takes 2 bytes per weight in bfloat16 until it is left. Parameters are gathered one after the other; adapters, which
    are whole already, are the model's own.
    """
    parameters = dict(shards.unsharded_shell.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            empty = parameters[name]
            # A reference's shards lie in main memory, where NCCL gathers nothing.
            empty.data = full_tensor(value.detach().to(empty.device, empty.dtype))
    try:
        yield shards.unsharded_shell
    finally:
        for parameter in parameters.values():
            parameter.data = parameter.new_empty(0)


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes, which all must call it; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a sharded tensor, in the same memory; any other tensor is its own shard."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def norm_over_shards(norm: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm of gradients in all processes, given that of this one's shards; as it is if nothing is sharded.

    Every process calls it. `norm` may lie in main memory: NCCL reduces on the shards' device.
    """
    if isinstance(norm, DTensor):
        return norm.full_tensor()
    sharded = next((parameter for parameter in parameters if isinstance(parameter, DTensor)), None)
    if sharded is None:
        return norm
    square = norm.to(local_shard(sharded).device, torch.float64).square()
    torch.distributed.all_reduce(square, group=sharded.device_mesh.get_group())
    return square.sqrt().to(norm.device, norm.dtype)


def save_shards(folder: Path, tensors: Mapping[str, object], step: int) -> None:
    """Write nested dicts of sharded tensors, each process its own shards. Raises CheckpointException in all alike."""
    from torch.distributed.checkpoint.state_dict_saver import save

    # Under a name of its own, so that every process writes the step into its own file.
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    save({**tensors, STEP: {str(rank): torch.tensor(step)}}, checkpoint_id=folder)


def load_shards(folder: Path, tensors: Mapping[str, object]) -> None:
    """Read what `save_shards` wrote, in any number of processes, into the given tensors."""
    from torch.distributed.checkpoint.state_dict_loader import load

    load(dict(tensors), checkpoint_id=folder)


def saved_steps(folder: Path) -> dict[Path, int]:
    """File -> step, of every file that `save_shards` wrote; without those of versions that did not keep it.

    Raises ValueError if a file is absent, was cut off or cannot be read. Reads the steps alone.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        metadata = FileSystemReader(folder).read_metadata()
    except Exception as error:  # a pickle, which raises what it likes
        raise ValueError(f"its .metadata cannot be read: {error}") from error
    files: dict[str, Path] = {}
    for index, place in (metadata.storage_data or {}).items():
        path = folder / place.relative_path
        size = path.stat().st_size if path.is_file() else 0
        if size < place.offset + place.length:
            raise ValueError(f"{path.name} has {size:,} bytes, at least {place.offset + place.length:,} were saved")
        if index.fqn.startswith(f"{STEP}."):
            files[index.fqn.removeprefix(f"{STEP}.")] = path
    steps = {rank: torch.tensor(0) for rank in files}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one process alone reads them, which is meant
        load({STEP: steps}, checkpoint_id=folder, no_dist=True)
    return {files[rank]: int(step) for rank, step in steps.items()}


def as_sharded(shards: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shards that each process holds in main memory, as sharded tensors laid out as `like`; memory is shared.

    What is a sharded tensor already stays as it is.
    """
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, part in shards.items():
            layout = like[name]
            if isinstance(part, DTensor):
                found[name] = part
                continue
            if not isinstance(layout, DTensor):
                raise TypeError(f"{name} is not sharded")
            found[name] = DTensor.from_local(part, mesh, layout.placements, shape=layout.shape, stride=layout.stride())
    return found
