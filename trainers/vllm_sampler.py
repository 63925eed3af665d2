"""The vLLM sampler: an engine in the training process, to which changed weights of the policy are copied."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seedbench_r1.backends.decoding import end_token_ids
from seedbench_r1.backends.loading import resolve_device
from seedbench_r1.backends.vllm_colocated import ColocatedEngine, out_of_memory
from seedbench_r1.backends.vllm_engine import LOWEST_TEMPERATURE, EngineOptions, check_vllm, render, sampling_params
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.files import JsonObject
from seedbench_r1.models.completions import completion_text
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.groups import Group, Rollout, rollout_sampling
from trainers.merging import whole_parameters
from trainers.policy import Policy
from trainers.processes import Processes
from trainers.weights import logits_not_finite

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput


def check_vllm_sampler(config: TrainConfig, *, world_size: int) -> None:
    """Raise ConfigError, before any model is loaded, if vLLM cannot sample for this training.

    world_size: how many training processes there are.
    """
    check_vllm("--rollouts vllm", "--rollouts builtin")
    from vllm.platforms import current_platform

    if config.temperature < LOWEST_TEMPERATURE:
        raise ConfigError(
            f"vLLM replaces temperature {config.temperature} by {LOWEST_TEMPERATURE}. "
            f"Fix: --temperature {LOWEST_TEMPERATURE} or more, or --rollouts builtin."
        )
    # For its errors alone: vLLM checks the options when they are built.
    sampling_params(rollout_sampling(config, 0), "", 0, ())
    device = resolve_device(config.device)
    if device.type != current_platform.device_type:
        raise ConfigError(
            f"--device {config.device} trains on {device.type}, but the vLLM installed here samples on "
            f"{current_platform.device_type}, and both must share one device. Fix: --rollouts builtin, or the other "
            "build of vLLM."
        )
    # With several processes, the launcher's local rank selects the GPU for vLLM as for the policy.
    if world_size == 1 and device.index:
        raise ConfigError(
            f"vLLM samples on the first GPU that it sees, not on {device}. "
            f"Fix: CUDA_VISIBLE_DEVICES={device.index} in front of the command, without --device."
        )


def tensor_parallel_size(config: TrainConfig, model: JsonObject, *, world_size: int, node_size: int) -> int:
    """How many processes share an engine: as asked, else the most of a node's that the model allows.

    model: its config.json. Raises ConfigError for a number that does not divide the processes or the model.
    """
    asked = config.rollout_tensor_parallel
    if asked is None:
        allowed = range(1, node_size + 1)
        return max(n for n in allowed if node_size % n == 0 and world_size % n == 0 and not _indivisible(model, n))
    if node_size % asked or world_size % asked:
        raise ConfigError(
            f"--rollout-tensor-parallel {asked} does not divide the {node_size} processes of this node, of which as "
            f"many share an engine. Fix: a divisor of {node_size}, or leave it out."
        )
    if wrong := _indivisible(model, asked):
        raise ConfigError(
            f"--rollout-tensor-parallel {asked} cannot split {config.model}: it has {wrong}. Fix: a lower number, or "
            f"leave it out."
        )
    return asked


def _indivisible(model: JsonObject, n: int) -> str | None:
    """What of a model vLLM cannot split into n parts."""
    text, vision = model.get("text_config") or model, model.get("vision_config") or {}
    sizes = {
        "attention heads": text.get("num_attention_heads"),
        "feed-forward units": text.get("intermediate_size"),
        "attention heads in the vision tower": vision.get("num_heads"),
        "feed-forward units in the vision tower": vision.get("intermediate_size"),
    }
    for name, size in sizes.items():
        if size and size % n:
            return f"{size} {name}"
    keys = text.get("num_key_value_heads") or n
    return f"{keys} key heads" if keys % n and n % keys else None


class VllmSampler:
    """Draws groups with vLLM on the policy's device.

    Frames, prompt tokens and sampling options are those of the evaluation's vLLM backend; end tokens, texts and finish
    reasons those of the built-in sampler. A rollout's seed depends on the seed, the epoch, the question and its index
    in the group alone; equal seeds give equal rollouts only as far as vLLM's kernels do.
    """

    def __init__(self, policy: Policy, config: TrainConfig, processes: Processes) -> None:
        """Start the engine. Raises ConfigError if vLLM refuses the model, ResourceError if memory does not suffice."""
        self._policy, self._config, self._processes = policy, config, processes
        self._end_ids = tuple(sorted(end_token_ids(policy.model, policy.processor.tokenizer)))
        self._weights_changed = True
        options = EngineOptions(
            tensor_parallel=config.rollout_tensor_parallel or 1,
            # The cache, too, is spread over the processes that share an engine, so that all their rollouts fit.
            max_in_flight=config.rollout_batch_size * config.num_generations * (config.rollout_tensor_parallel or 1),
            gpu_memory_utilization=config.gpu_memory_utilization,
            # On a CPU, compiling takes longer than a small training.
            eager=policy.model.device.type == "cpu",
        )
        dtype = str(policy.dtype).removeprefix("torch.")
        self._engine = ColocatedEngine(policy.folder, dtype, options, launched=processes.world_size > 1)

    def sample(self, examples: Sequence[TrainingExample]) -> list[Group]:
        """config.num_generations rollouts of every example, in the examples' order.

        If the policy has changed, its weights are copied to the engine first. Raises ResourceError when memory does
        not suffice, ConfigError if vLLM reads a prompt differently than we do.
        """
        requests = [request for example in examples for request in self._requests(example)]
        try:
            if self._weights_changed or self._engine.needs_weights:
                self._processes.stage = "weights for vLLM"
                self._engine.load_weights(whole_parameters(self._policy.model, self._policy.dtype))
                self._weights_changed, self._processes.stage = False, "rollouts"
            completions = iter(self._engine.complete(requests))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise ResourceError(
                f"Out of memory while vLLM sampled {len(requests)} rollouts. "
                f"{self._config.memory_advice('a lower --gpu-memory-utilization')}"
            ) from error
        finally:
            # The training pass needs the memory, also when sampling has failed and is handled further up.
            self._engine.sleep()
        n = self._config.num_generations
        return [Group(example, tuple(self._rollout(next(completions)) for _ in range(n))) for example in examples]

    def sync_weights(self) -> None:
        """The policy has changed; its weights are copied when the next rollouts are drawn."""
        self._weights_changed = True

    def close(self) -> None:
        """Release the engine's memory."""
        self._engine.close()

    def _requests(self, example: TrainingExample) -> list[tuple[object, SamplingParams]]:
        """The example's prompt with the options of each of its rollouts. The prompt is rendered once for all."""
        processor, config = self._policy.processor, self._config
        if example.request is None:
            raise ValueError(f"{example.question.question_id} came without its frames, which vLLM needs")
        expected = example.inputs.input_ids.tolist()
        self._check_room(example, len(expected))
        try:
            prompt = render(self._engine.engine, processor, example.request, expected)
        except ValueError as error:
            raise ConfigError(f"{example.question.question_id}: {error}. Fix: --rollouts builtin.") from error
        sampling = dataclasses.replace(rollout_sampling(config, example.epoch), logprobs=True)
        name = example.question.question_id
        return [
            (prompt, sampling_params(sampling, name, k, processor.forbidden_ids, self._end_ids))
            for k in range(config.num_generations)
        ]

    def _check_room(self, example: TrainingExample, length: int) -> None:
        """vLLM may have shortened the context to what its memory holds, and would end rollouts there silently."""
        needed = min(length + self._config.max_completion_length, self._policy.processor.context)
        if needed > self._engine.max_model_len:
            raise ResourceError(
                f"{example.question.question_id} needs {needed} tokens of context; vLLM's memory holds "
                f"{self._engine.max_model_len}. Fix: a higher --gpu-memory-utilization, a lower "
                f"--max-completion-length, or --rollouts builtin."
            )

    def _rollout(self, completion: CompletionOutput) -> Rollout:
        """The engine's completion, its end token kept and its text cut as the built-in sampler's are."""
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a rollout with {completion.finish_reason!r}")
        ids, ended = tuple(completion.token_ids), completion.finish_reason == "stop"
        processor = self._policy.processor
        text = completion_text(processor.tokenizer, ids[:-1] if ended else ids)
        logprobs = tuple(entry[token].logprob for token, entry in zip(ids, completion.logprobs, strict=True))
        if not all(map(math.isfinite, logprobs)):
            raise logits_not_finite(self._policy.model)
        return Rollout(ids, text, "stop" if ended else "length", logprobs, processor.opened)
