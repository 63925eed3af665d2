"""One process per GPU, started by accelerate launch or torchrun; a single process needs neither.

Gradients are summed once a step over all processes, by hand: a process whose groups have no advantage makes no policy
pass at all, which DistributedDataParallel, waiting for every backward hook, would not allow. With sharded weights
(`trainers.sharding`) every process must make the same number of passes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from seedbench_r1.backends.loading import resolve_device
from seedbench_r1.errors import ConfigError, ResourceError, refuse_to_start_in_a_worker

T = TypeVar("T")

# Of a collective call: the others wait in one while process 0 writes a checkpoint (150 GB for a 7B; torch's default for
# NCCL is ten minutes). A process that fails ends the others long before (trainers.watch).
TIMEOUT = timedelta(hours=2)
BUCKET_BYTES = 256 << 20  # summed at once: large enough for the network, small next to a model; not measured


class Processes:
    """This process and the others of the same training.

    Attributes:
        rank, world_size: this process's number and how many there are.
        node_size: how many of them run on this node.
        device: where this process computes.
        stage: what it does within a step, such as "rollouts", for trainers.watch; set where a stage begins.

    Raises:
        ConfigError: a decoding worker imports a script that trains; there are fewer GPUs than processes.
    """

    def __init__(self, device: str) -> None:
        from accelerate import PartialState

        refuse_to_start_in_a_worker()
        try:
            state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=TIMEOUT)
        except RuntimeError as error:
            if "invalid device ordinal" not in str(error):
                raise
            n = torch.cuda.device_count()
            raise ConfigError(
                f"There are more processes on this node than GPUs that torch sees, {n}. Fix: --nproc-per-node {n}, or "
                f"another CUDA_VISIBLE_DEVICES."
            ) from error
        self.rank: int = state.process_index
        self.world_size: int = state.num_processes
        # Among several processes accelerate assigns each its GPU; alone, --device decides.
        self.device = resolve_device(device if self.world_size == 1 else str(state.device))
        here = socket.gethostname()
        self.node_size = self.gather([here]).count(here)
        self.stage = ""

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    def gather(self, items: list[T]) -> list[T]:
        """The lists of all processes, joined in the order of their ranks."""
        if self.world_size == 1:
            return items
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def any_rank(self, value: bool) -> bool:
        """True if it is true in any process."""
        return any(self.gather([value]))

    def max_over_ranks(self, value: int) -> int:
        """The largest value of all processes."""
        return max(self.gather([value]))

    def sum_over_ranks(self, value: int) -> int:
        """The sum of the values of all processes."""
        return sum(self.gather([value]))

    def on_all_ranks(self, work: Callable[[], None]) -> None:
        """Do `work` in every process and wait for the others. A ResourceError of one is raised in all."""
        failed: ResourceError | None = None
        try:
            work()
        except ResourceError as error:
            failed = error
        # A process that raised here at once would leave the others waiting in their next collective call.
        messages = self.gather([] if failed is None else [str(failed)])
        if failed is not None:
            raise failed
        if messages:
            raise ResourceError(messages[0])

    def all_reduce_(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over the processes, in buckets."""
        if self.world_size == 1:
            return
        bucket: list[Tensor] = []
        size = 0
        for tensor in tensors:
            bucket.append(tensor)
            size += tensor.numel() * tensor.element_size()
            # One call per bucket: a call per tensor is dominated by latency, one for all doubles the gradients' memory.
            if size >= BUCKET_BYTES:
                self._all_reduce_bucket(bucket)
                bucket, size = [], 0
        if bucket:
            self._all_reduce_bucket(bucket)

    def _all_reduce_bucket(self, bucket: list[Tensor]) -> None:
        # Through the device, because NCCL cannot reduce the CPU tensors of --optimizer-device cpu.
        flat = torch.cat([tensor.reshape(-1).to(self.device) for tensor in bucket])
        torch.distributed.all_reduce(flat)
        start = 0
        for tensor in bucket:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()
