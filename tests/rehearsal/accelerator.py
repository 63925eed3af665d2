"""A pretended accelerator: tensors on "meta" play those of a GPU, without memory or arithmetic; CPU tensors stay real.

It looks at every operation and counts floating-point operations, kernels, bytes moved, live bytes, transfers and host
synchronisations, and it refuses what CUDA refuses: an operation on tensors of two devices.

Whole numbers and booleans that follow from the host's values alone (grids, masks, positions) are computed on the CPU as
well, so that code which reads them back goes on as on a GPU. Other values that are read are zeros, or `answers`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

DEVICE = torch.device("meta")
BLOCK = 512  # bytes: torch's CUDA allocator rounds every request up to a multiple
MOST_VALUES = 1 << 22  # of a tensor whose values are computed; masks and positions of a step are smaller

# Operations that launch nothing on a GPU, besides those that torch itself calls views.
NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_", "lift_fresh"),
    *("_unsafe_view", "_reshape_alias", "detach_", "_has_compatible_shallow_copy_type", "is_same_size"),
}
# The shape of their result depends on values, for which the host waits.
SHAPED_BY_VALUES = ("nonzero", "masked_select", "repeat_interleave", "_unique2", "unique_consecutive")
TRANSFERS = ("_to_copy", "copy_")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # their indices may lie on the CPU

# Torch's own, which are replaced while an accelerator is running.
TENSOR, ATTENTION = torch.tensor, torch.nn.functional.scaled_dot_product_attention
RESIZE = torch.UntypedStorage.resize_


class DeviceMixing(RuntimeError):
    """An operation on tensors of two devices."""


@dataclass(slots=True)
class Stage:
    """What was counted while a stage ran, without the stages inside it."""

    flops: int = 0  # 2 per multiply-add of products, convolutions and attention; causal attention counts in full
    peak: int = 0  # bytes: the most that was live at once
    kernels: int = 0
    moved: int = 0  # bytes that kernels read and write
    uploads: int = 0  # copies from the host to the device
    collectives: int = 0  # bytes that collective operations receive or send, the larger of the two
    synchronisations: Counter[str] = field(default_factory=Counter)  # "file:line", where the host waits -> how often
    holders: Counter[str] = field(default_factory=Counter)  # "operation file:line" -> bytes live at the peak, if traced


class Accelerator(TorchDispatchMode):
    """Counts by stage. `running` goes around everything that uses the device, model building included.

    Attributes:
        stages: by name, in the order in which they began.
        live: bytes of the device's tensors.
        answers: unknown whole numbers, one for each tensor of them that is read; zero when it ends.
        traced: whether to remember what is live at each stage's peak, within a percent of it.
    """

    def __init__(self, *, traced: bool = False) -> None:
        super().__init__()
        self.traced = traced
        self.stages: dict[str, Stage] = {}
        self.live = 0
        self.answers: Iterator[int] = iter(())
        self._current = ""
        self._sizes: dict[int, int] = {}  # storage -> bytes
        self._makers: dict[int, str] = {}  # storage -> where it was made, if traced
        self._values = WeakTensorKeyDictionary()  # device tensor -> a CPU tensor, where the values are known

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The device exists inside of it."""
        replaced = (
            (torch.UntypedStorage, "resize_", lambda storage, size: self._resize(storage, size)),
            (torch, "tensor", _tensor),
            (torch.nn.functional, "scaled_dot_product_attention", _attention),
        )
        with contextlib.ExitStack() as stack:
            # Backward passes then run in this thread, where the mode is.
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            for owner, name, by in replaced:
                stack.enter_context(mock.patch.object(owner, name, by))
            # On "meta" it would be taken apart, and hold what lies between the parts; CUDA has a kernel that, like a
            # product, reads two tensors and writes one.
            kernels = stack.enter_context(torch.library._scoped_library("aten", "IMPL"))
            kernels.impl("silu_backward", lambda grad, output: torch.mul(grad, output), "AutogradMeta")
            # torch.nn.functional.rms_norm is this operation, for which CUDA has a kernel and "meta" has only its parts.
            # By the inner library: the outer one refuses, because a compiler wants the parts.
            kernels.m.impl("_fused_rms_norm", "Meta", _fused_rms_norm, False)
            stack.enter_context(self)
            yield

    @property
    def stage(self) -> str:
        """The name of the current stage."""
        return self._current

    @contextlib.contextmanager
    def counting(self, stage: str) -> Iterator[None]:
        """Count towards `stage` until it is left; then the one around it goes on."""
        around, self._current = self._current, stage
        counts = self.stages.setdefault(stage, Stage())
        # What is only kept by circles would be counted as live.
        gc.collect()
        counts.peak = max(counts.peak, self.live)
        try:
            yield
        finally:
            self._current = around

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            return func(*args, **kwargs)  # DTensor works out a shape
        inputs = list(_leaves((args, kwargs)))
        tensors = [leaf for leaf in inputs if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, DTensor) for tensor in tensors):
            return NotImplemented  # they come again as operations on the local parts
        if DEVICE not in [getattr(leaf, "device", leaf) for leaf in inputs if isinstance(leaf, (Tensor, torch.device))]:
            return func(*args, **kwargs)
        if _is_composite(func):
            # In inference mode operations arrive before they are taken apart.
            with self:
                return func.decompose(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        counts = self.stages.setdefault(self._current, Stage())
        if func.namespace in ("c10d", "_c10d_functional"):
            counts.collectives += max((_size(tensor) for tensor in tensors), default=0)
        else:
            _refuse_two_devices(name, args, tensors)
        if name in ("_local_scalar_dense", "equal"):
            return self._read(name, args[0])
        if name in TRANSFERS:
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], None)
            device = target.device if target is not None else torch.device(kwargs.get("device") or source.device)
            if device != DEVICE:
                return self._download(source, target, kwargs.get("dtype"))
            counts.uploads += source.device != DEVICE and source.dim() > 0
        if name in INDEXING:
            counts.uploads += sum(index is not None and index.device != DEVICE for index in args[1])
            args = (args[0], self._whole_numbers(args[1]), *args[2:])
        result, values = self._compute(func, name, args, kwargs)
        outputs = [leaf for leaf in _leaves(result) if isinstance(leaf, Tensor) and leaf.device == DEVICE]
        for tensor in outputs:
            self._track(tensor, name)
        for tensor, value in zip(outputs, values, strict=False):
            self._values[tensor] = value
        if not func.is_view and name not in NO_KERNEL:
            counts.kernels += 1
            counts.moved += sum(_size(tensor) for tensor in (*tensors, *outputs) if tensor.device == DEVICE)
            if func._overloadpacket in flop_registry:
                counts.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        return result

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
        """The result on the device, and the values of its tensors if they are known, else nothing."""
        if name in SHAPED_BY_VALUES and kwargs.get("output_size") is None:
            values = self._on_host(func, args, kwargs)
            if values is None:
                raise NotImplementedError(f"{name} of unknown values at {_place()}")
            self._wait()
            result = _map(lambda tensor: torch.empty_like(tensor, device=DEVICE), values)
            return result, [leaf for leaf in _leaves(values) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in _leaves(result) if isinstance(leaf, Tensor)]
        small = func.is_view or all(tensor.numel() <= MOST_VALUES for tensor in outputs)
        whole = all(not tensor.is_floating_point() and not tensor.is_complex() for tensor in outputs)
        values = self._on_host(func, args, kwargs) if outputs and small and whole else None
        if values is not None:
            return result, [leaf for leaf in _leaves(values) if isinstance(leaf, Tensor)]
        if func._schema.is_mutable and isinstance(args[0], Tensor) and args[0] in self._values:
            self._forget(args[0])
        return result, []

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """func of the known values; None if one is unknown."""
        name = func._schema.name.partition("::")[2]
        if name.startswith(("empty", "new_empty")) or torch.Tag.nondeterministic_seeded in func.tags:
            return None
        for leaf in _leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.device == DEVICE and leaf not in self._values:
                return None
        args, kwargs = _map(lambda tensor: self._values.get(tensor, tensor), (args, kwargs))
        return func(*args, **kwargs)

    def _forget(self, written: Tensor) -> None:
        storage = written.untyped_storage()._cdata
        for tensor in list(self._values):
            if tensor.untyped_storage()._cdata == storage:
                del self._values[tensor]

    def _read(self, name: str, tensor: Tensor) -> Any:
        self._wait()
        if name == "equal":
            return True
        known = self._values.get(tensor)
        return torch.zeros((), dtype=tensor.dtype).item() if known is None else known.item()

    def _download(self, source: Tensor, target: Tensor | None, dtype: torch.dtype | None) -> Tensor:
        self._wait()
        values = self._values.get(source)
        if values is None:
            whole = source.dtype in (torch.int32, torch.int64)
            values = torch.full(source.shape, next(self.answers, 0)) if whole else torch.zeros(source.shape)
        values = values.to(dtype or source.dtype, copy=True)
        return values if target is None else target.copy_(values)

    def _whole_numbers(self, indices: Any) -> list[Tensor | None]:
        """Masks become the positions at which they are true, as on CUDA, where the host waits for their number."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype != torch.bool or index.device != DEVICE:
                found.append(index)
                continue
            if index not in self._values:
                raise NotImplementedError(f"an index by a mask of unknown values at {_place()}")
            self._wait()
            count = int(self._values[index].sum())
            positions = torch.empty(count, index.dim(), dtype=torch.int64, device=DEVICE)
            self._track(positions, "nonzero")
            found += positions.unbind(1)
        return found

    def _wait(self) -> None:
        self.stages[self._current].synchronisations[_place()] += 1

    def _track(self, tensor: Tensor, name: str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            if self.traced:
                self._makers[storage._cdata] = f"{name} {_place()}"
            self._hold(storage._cdata, storage.nbytes())
            weakref.finalize(storage, self._release, storage._cdata)

    def _resize(self, storage: torch.UntypedStorage, size: int) -> Any:
        """FSDP frees and allocates gathered weights by resizing their storages, which is no operation of a tensor."""
        result = RESIZE(storage, size)
        if storage._cdata in self._sizes:
            self._hold(storage._cdata, storage.nbytes())
        return result

    def _hold(self, storage: int, size: int) -> None:
        size = -(-size // BLOCK) * BLOCK
        self.live += size - self._sizes.get(storage, 0)
        self._sizes[storage] = size
        counts = self.stages.setdefault(self._current, Stage())
        counts.peak = max(counts.peak, self.live)
        if self.traced and self.live > 1.01 * counts.holders.total():
            counts.holders = Counter()
            for held, length in self._sizes.items():
                counts.holders[self._makers[held]] += length

    def _release(self, storage: int) -> None:
        self.live -= self._sizes.pop(storage)
        self._makers.pop(storage, None)


def _tensor(*args: Any, **kwargs: Any) -> Tensor:
    """torch.tensor, which leaves the values out at once for the device that plays the GPU."""
    if torch.device(kwargs.get("device") or "cpu") != DEVICE:
        return TENSOR(*args, **kwargs)
    return TENSOR(*args, **kwargs | {"device": "cpu"}).to(DEVICE)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What CUDA chooses for half precision: flash attention without a mask, the memory-efficient kernel with one."""
    if query.device != DEVICE:
        return ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    aten = torch.ops.aten
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    if enable_gqa:
        raise NotImplementedError("grouped queries with a mask, for which CUDA falls back to the slow kernel")
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, float("-inf")).to(query.dtype)
    if attn_mask.stride(-2) % 16 or attn_mask.stride(-1) != 1:
        # The kernel wants aligned rows: ATen pads the mask and takes a view of it.
        width = attn_mask.shape[-1]
        attn_mask = torch.nn.functional.pad(attn_mask, (0, 16 - width % 16))[..., :width]
    bias = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    grad = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    chosen = aten._scaled_dot_product_efficient_attention
    return chosen(query, key, value, bias, grad, dropout_p, is_causal, scale=scale)[0]


def _fused_rms_norm(
    hidden: Tensor, shape: list[int], weight: Tensor | None, epsilon: float | None
) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of what CUDA's kernel gives: the result, and for the backward pass a number a row."""
    rows = [*hidden.shape[: hidden.dim() - len(shape)], *[1] * len(shape)]
    return torch.empty_like(hidden), hidden.new_empty(rows, dtype=torch.float32)


def _refuse_two_devices(name: str, args: Any, tensors: list[Tensor]) -> None:
    if name in TRANSFERS or name == "set_":
        return
    if name in INDEXING and args[0].device == DEVICE:
        tensors = [tensor for tensor in tensors if not any(tensor is index for index in args[1])]
    # A number on the CPU, of no dimension, goes along with a kernel's arguments.
    devices = {tensor.device.type for tensor in tensors if tensor.dim() or tensor.device == DEVICE}
    if len(devices) > 1:
        raise DeviceMixing(f"{name} of tensors on {' and '.join(sorted(devices))} at {_place()}")


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether it is made of other operations, and the device has no kernel for it."""
    kernel_for = torch._C._dispatch_has_kernel_for_dispatch_key
    return kernel_for(func.name(), "CompositeImplicitAutograd") and not kernel_for(func.name(), "Meta")


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from _leaves(branch)
    elif isinstance(tree, dict):
        yield from _leaves(tuple(tree.values()))
    else:
        yield tree


def _map(change: Any, tree: Any) -> Any:
    """The tree with every tensor changed, and the device replaced by the CPU."""
    if isinstance(tree, (list, tuple)):
        return type(tree)([_map(change, branch) for branch in tree])
    if isinstance(tree, dict):
        return {name: _map(change, branch) for name, branch in tree.items()}
    if isinstance(tree, torch.device):
        return torch.device("cpu")
    return change(tree) if isinstance(tree, Tensor) else tree


def _size(tensor: Tensor) -> int:
    """Bytes that a kernel touches: what is expanded counts once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size


def _place() -> str:
    """ "file:line" of the innermost caller outside of torch and of this file."""
    frame = sys._getframe(1)
    while frame.f_back and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    name = frame.f_code.co_filename.rpartition("/site-packages/")[2]
    return f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno}"
