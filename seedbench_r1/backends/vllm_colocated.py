"""A vLLM engine in the process of a training, whose policy's weights are copied into it.

Written for vLLM 0.32 and 0.33. vllm is imported inside functions, never with this module.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seedbench_r1.backends.vllm_engine import EngineOptions, engine_arguments
from seedbench_r1.config import set_environment_defaults
from seedbench_r1.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.worker.worker_base import WorkerBase

Sampled = tuple[object, "SamplingParams"]  # a rendered prompt, and how it is to be continued
SHOWN = 5  # names in a message
WEIGHTS, CACHE = "weights", "kv_cache"  # vLLM's names of what sleeps


class ColocatedEngine:
    """One engine in this process; `load_weights` must copy weights into it before it is used.

    With options.tensor_parallel it is one part of an engine that so many neighbouring processes share: all of them must
    make the same calls, and each gives its own requests and gets their completions, which are generated in one batch.

    On CUDA it sleeps between uses: weights and cache leave the GPU, and the weights must be loaded again before they
    are used. On a CPU vLLM has no such mode, and both stay.

    Attributes:
        engine: vLLM's LLMEngine.
        max_model_len: prompt and completion in tokens.
    """

    def __init__(self, folder: Path, dtype: str, options: EngineOptions, *, launched: bool) -> None:
        """Start with the checkpoint in `folder`, and reserve the memory.

        launched: this is one of several processes of torchrun or accelerate.
        Raises ConfigError if vLLM refuses the checkpoint or the options, ResourceError if memory does not suffice.
        """
        from vllm.platforms import current_platform

        self._sleeps = bool(current_platform.is_cuda_alike())
        self._shared = options.tensor_parallel > 1
        self._needs_weights = True
        # Started with real weights (see _start), then asleep until the first rollouts.
        self.engine = _start(folder, dtype, options, sleeps=self._sleeps, launched=launched)
        self.max_model_len: int = self.engine.model_config.max_model_len
        self.sleep()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace every parameter by the one of that Hugging Face name, and forget what was computed with the old ones.

        That is the cached keys and values, and the vision tower's outputs, both of which vLLM keeps by content: without
        this a prompt seen before would be answered from the old weights. The tensors are copied, not kept. Raises
        ConfigError if a parameter of vLLM's model is not among them.
        """
        if self._sleeps:
            # Weights first, the cache only when it is used: both at once need not fit next to gradients.
            self.engine.wake_up([WEIGHTS])
        # One worker in this process, so one answer.
        (missing,) = self.engine.collective_rpc(_load_into, args=(weights,))
        if missing:
            shown = ", ".join(sorted(missing)[:SHOWN])
            raise ConfigError(
                f"vLLM's model has {len(missing)} parameters that the trained one did not give, by other names "
                f"perhaps: {shown}{', ...' if len(missing) > SHOWN else ''}. "
                f"Fix: --rollouts builtin, or vLLM 0.32 or 0.33."
            )
        self.engine.reset_encoder_cache()
        if not self.engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not give up its cached prompts although nothing is being generated")
        self._needs_weights = False

    @property
    def needs_weights(self) -> bool:
        """True before the first `load_weights` and after a sleep that discarded them."""
        return self._needs_weights

    def complete(self, requests: Sequence[Sampled]) -> list[CompletionOutput]:
        """vLLM's CompletionOutput of each (rendered prompt, SamplingParams), in the order given.

        Raises ConfigError for sampling options or prompts that vLLM does not take.
        """
        if self._sleeps:
            self.engine.wake_up([CACHE])
        everyone, before = self._of_all(requests) if self._shared else (requests, 0)
        # The engine finishes in any order; names put the results back.
        names = [str(place) for place in range(len(everyone))]
        found: dict[str, CompletionOutput] = {}
        try:
            for name, (prompt, params) in zip(names, everyone, strict=True):
                self._admit(name, prompt, params)
            while self.engine.has_unfinished_requests():
                found |= {output.request_id: output.outputs[0] for output in self.engine.step() if output.finished}
        finally:
            # After an error nothing of this call may stay in the engine for the next one.
            self.engine.abort_request([name for name in names if name not in found])
        return [found[name] for name in names[before : before + len(requests)]]

    def _of_all(self, requests: Sequence[Sampled]) -> tuple[list[Sampled], int]:
        """The requests of all processes that share the engine, in the same order in each, and how many stand before."""
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        parts: list[list[Sampled]] = [[] for _ in range(group.world_size)]
        # Through main memory: rendered clips are large, and the GPU is full.
        torch.distributed.all_gather_object(parts, list(requests), group=group.cpu_group)
        return [request for part in parts for request in part], sum(map(len, parts[: group.rank_in_group]))

    def _admit(self, name: str, prompt: object, params: SamplingParams) -> None:
        from vllm.exceptions import VLLMClientError

        try:
            self.engine.add_request(name, prompt, params)
        except (ValueError, VLLMClientError) as error:
            raise ConfigError(f"vLLM does not take a prompt or its sampling options: {error}") from error

    def sleep(self) -> None:
        """On CUDA: give the memory of weights and cache back until they are needed again."""
        if self._sleeps and not self.engine.is_sleeping():
            # Level 2 discards the weights instead of copying them to the host: new ones come anyway.
            self.engine.sleep(level=2)
            self._needs_weights = True

    def close(self) -> None:
        """Give all memory back. Safe to call twice."""
        self.engine.engine_core.shutdown()
        self.engine.renderer.shutdown()


def _start(folder: Path, dtype: str, options: EngineOptions, *, sleeps: bool, launched: bool) -> LLMEngine:
    """An LLMEngine in this process, with the folder's weights.

    They are replaced before the first use, and still read: vLLM's dummy loader fills buffers with noise too (seen in
    0.32: those of the pixel normalisation), and no later loading of weights restores these.
    """
    set_environment_defaults({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})  # vLLM's external launcher insists on it
    from vllm.exceptions import VLLMClientError
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor import Executor

    try:
        with _process_state_kept(), _shared_memory_named(shared=options.tensor_parallel > 1):
            arguments = engine_arguments(
                folder,
                dtype,
                options,
                enable_sleep_mode=sleeps,
                # on the GPU of its local rank, within the group that exists
                distributed_executor_backend="external_launcher" if launched else "uni",
            )
            config = arguments.create_engine_config(UsageContext.LLM_CLASS)
            return LLMEngine(config, Executor.get_class(config), log_stats=False, usage_context=UsageContext.LLM_CLASS)
    except (ValueError, OSError, VLLMClientError) as error:
        # vLLM reports a cache that does not fit as a ValueError.
        if "memory" in str(error).lower():
            raise ResourceError(_short_of_memory(error)) from error
        raise ConfigError(f"vLLM refuses {folder} or the options given: {error}") from error
    except RuntimeError as error:
        # Anything else is a bug, and keeps its traceback.
        if not out_of_memory(error):
            raise
        raise ResourceError(_short_of_memory(error)) from error


def out_of_memory(error: RuntimeError) -> bool:
    """torch.OutOfMemoryError, or the plain RuntimeError of the allocator by which vLLM sleeps and wakes."""
    return "out of memory" in str(error).lower()


def _short_of_memory(error: Exception) -> str:
    return (
        f"vLLM's engine does not fit next to the model that is trained: {error} Fix: a lower --gpu-memory-utilization "
        "if the GPU has less free than that share, a higher one if weights and cache need more; "
        "--optimizer-device cpu, --lora, or --rollouts builtin"
    )


def _load_into(worker: WorkerBase, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
    """Runs in vLLM's worker. Returns the names of its parameters that were not loaded.

    vLLM fuses, pads or repacks weights once when it loads them. Its layer-by-layer reload does that again, into the
    same memory, so that captured CUDA graphs stay valid.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    model = worker.model_runner.get_model()
    # vLLM's names after fusing (qkv, gate_up), which load_weights reports.
    wanted = {name for name, _ in model.named_parameters()}
    # vLLM's layers look up their configuration globally while they are built anew.
    with torch.no_grad(), set_current_vllm_config(worker.vllm_config), _reload_quiet():
        initialize_layerwise_reload(model)
        loaded = model.load_weights(weights)
        finalize_layerwise_reload(model, worker.vllm_config.model_config)
    return wanted - set(loaded)


@contextlib.contextmanager
def _reload_quiet() -> Iterator[None]:
    """vLLM warns each time of modules that have buffers and no weights. What was not loaded is returned instead."""
    log = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def _process_state_kept() -> Iterator[None]:
    """vLLM's start seeds every generator of the process, and on a CPU replaces torch.set_num_threads by nothing."""
    # A training that seeds its rollouts must not start over when an engine starts.
    numbers, arrays, set_num_threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)
        torch.set_num_threads = set_num_threads


@contextlib.contextmanager
def _shared_memory_named(*, shared: bool) -> Iterator[None]:
    """Give the engine of several processes on CPUs shared memory with a name of its own.

    vLLM's CPU build names it after the launcher's address, which it does not know here: two trainings on a machine
    would have the same, and what a killed one has left would be in the way of the next.
    """
    from vllm.platforms import current_platform

    if not shared or current_platform.device_type != "cpu":
        yield
        return
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    token = [secrets.token_hex(8)]
    torch.distributed.broadcast_object_list(token)
    known = ExecutorWithExternalLauncher._distributed_args
    ExecutorWithExternalLauncher._distributed_args = lambda executor: (f"env://{token[0]}", *known(executor)[1:])
    try:
        yield
    finally:
        ExecutorWithExternalLauncher._distributed_args = known
