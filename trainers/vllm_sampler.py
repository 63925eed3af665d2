"""Rollouts by vLLM: an engine in the training process, given the policy's weights whenever these have changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from seedbench_r1.backends.decoding import end_token_ids
from seedbench_r1.backends.loading import resolve_device
from seedbench_r1.backends.vllm_colocated import ColocatedEngine, out_of_memory
from seedbench_r1.backends.vllm_engine import (
    LOWEST_TEMPERATURE,
    EngineOptions,
    check_vllm,
    render,
    sampling_params,
)
from seedbench_r1.errors import ConfigError, ResourceError
from trainers.config import TrainConfig
from trainers.data import Item
from trainers.groups import Group, Rollout, rollout_sampling
from trainers.policy import Policy


def check_vllm_sampler(config: TrainConfig, *, world: int) -> None:
    """Raise ConfigError, before any model is loaded, if vLLM cannot sample for this training.

    world: how many training processes there are; each has an engine of its own.
    """
    check_vllm("--rollouts vllm", "--rollouts builtin")
    from vllm.platforms import current_platform

    if config.temperature < LOWEST_TEMPERATURE:
        raise ConfigError(
            f"vLLM replaces temperature {config.temperature} by {LOWEST_TEMPERATURE}. "
            f"Fix: --temperature {LOWEST_TEMPERATURE} or more, or --rollouts builtin."
        )
    sampling_params(rollout_sampling(config, 0), "", 0, ())
    device = resolve_device(config.device)
    if device.type != current_platform.device_type:
        raise ConfigError(
            f"--device {config.device} trains on {device.type}, but the vLLM installed here samples on "
            f"{current_platform.device_type}, and both must share one device. Fix: --rollouts builtin, or the other "
            "build of vLLM."
        )
    if world == 1 and device.index:
        raise ConfigError(
            f"vLLM samples on the first GPU that it sees, not on {device}. "
            f"Fix: CUDA_VISIBLE_DEVICES={device.index} in front of the command, without --device."
        )


class VllmSampler:
    """Draws groups with vLLM on the policy's device.

    Frames, prompt tokens and sampling options are those of the evaluation's vLLM backend; end tokens, texts and finish
    reasons those of the built-in sampler. A rollout's seed depends on the seed, the epoch, the question and its place
    in the group alone; equal seeds give equal rollouts only as far as vLLM's kernels do.
    """

    def __init__(self, policy: Policy, config: TrainConfig, *, world: int) -> None:
        """Start the engine. Raises ConfigError if vLLM refuses the model, ResourceError if memory does not suffice."""
        self._policy, self._config = policy, config
        self._end_ids = tuple(sorted(end_token_ids(policy.model, policy.processor.tokenizer)))
        self._stale = True
        options = EngineOptions(
            max_in_flight=config.rollout_batch_size * config.num_generations,
            gpu_memory_utilization=config.gpu_memory_utilization,
            eager=policy.model.device.type == "cpu",  # compiling takes longer than a small training there
        )
        dtype = str(policy.model.dtype).removeprefix("torch.")
        self._engine = ColocatedEngine(policy.folder, dtype, options, launched=world > 1)

    def sample(self, items: Sequence[Item]) -> list[Group]:
        """config.num_generations rollouts of every item, in the items' order.

        The engine gets the policy's weights first if it has not got them yet. Raises ResourceError when memory does not
        suffice, ConfigError if vLLM reads a prompt differently than we do.
        """
        requests = [request for item in items for request in self._requests(item)]
        try:
            if self._stale or self._engine.needs_weights:
                self._engine.load_weights(merged_parameters(self._policy.model))
                self._stale = False
            completions = iter(self._engine.complete(requests))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise ResourceError(
                f"Out of memory while vLLM sampled {len(requests)} rollouts. Fix: a lower "
                "--gpu-memory-utilization, --optimizer-device cpu, or --rollouts builtin. "
                "The same command continues from the last checkpoint."
            ) from error
        finally:
            self._engine.sleep()
        n = self._config.num_generations
        return [Group(item, tuple(self._rollout(next(completions)) for _ in range(n))) for item in items]

    def sync_weights(self) -> None:
        """The policy has changed; its weights are copied before the next rollouts are drawn."""
        self._stale = True

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()

    def _requests(self, item: Item) -> list[tuple[Any, Any]]:
        """The item's prompt with the options of each of its rollouts. The prompt is computed once for all of them."""
        processor, config = self._policy.processor, self._config
        if item.request is None:
            raise ValueError(f"{item.question.question_id} came without its frames, which vLLM needs")
        expected = item.inputs.input_ids.tolist()
        self._check_room(item, len(expected))
        try:
            prompt = render(self._engine.engine, processor, item.request, expected)
        except ValueError as error:
            raise ConfigError(f"{item.question.question_id}: {error}. Fix: --rollouts builtin.") from error
        sampling = dataclasses.replace(rollout_sampling(config, item.epoch), logprobs=True)
        name = item.question.question_id
        return [
            (prompt, sampling_params(sampling, name, k, processor.forbidden_ids, self._end_ids))
            for k in range(config.num_generations)
        ]

    def _check_room(self, item: Item, length: int) -> None:
        """vLLM may have cut the context to what its memory holds, and would end rollouts there without a word."""
        needed = min(length + self._config.max_completion_length, self._policy.processor.context)
        if needed > self._engine.max_model_len:
            raise ResourceError(
                f"{item.question.question_id} needs {needed} tokens of context; vLLM's memory holds "
                f"{self._engine.max_model_len}. Fix: a higher --gpu-memory-utilization, a lower "
                f"--max-completion-length, or --rollouts builtin."
            )

    def _rollout(self, completion: Any) -> Rollout:
        """The engine's completion by the built-in sampler's rules."""
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a rollout with {completion.finish_reason!r}")
        ids, ended = tuple(completion.token_ids), completion.finish_reason == "stop"
        text = self._policy.processor.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        logprobs = tuple(entry[token].logprob for token, entry in zip(ids, completion.logprobs, strict=True))
        return Rollout(ids, text, "stop" if ended else "length", logprobs)


def merged_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters by their Hugging Face names, in the order of its layers; LoRA's are added to their base's.

    The sum of W and scale x BA is computed in the wider of the two dtypes, rounded once to W's, and made one layer at a
    time. The model is not changed.
    """
    for name, parameter in model.named_parameters():
        layer, _, rest = name.rpartition(".base_layer.")
        if layer:
            parameter = parameter.detach()
            if rest == "weight":
                delta = model.get_submodule(layer).get_delta_weight("default").detach()
                parameter = (parameter + delta).to(parameter.dtype)
            yield f"{layer}.{rest}", parameter
        elif ".lora_" not in name:
            yield name, parameter.detach()
