"""AdamW on fp32 weights, whatever the model computes in, and the learning rate as a function of the step.

In bfloat16 a step of 1e-6 is lost on nearly every weight: neighbours of 0.02 are 6e-5 apart. So a bfloat16 model is
trained through fp32 master weights, into whose gradients those of each backward pass are added. Of sharded parameters
every process steps on its own shards; only the gradients' norm is that of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainers.config import TrainConfig
from trainers.sharding import local_shard, norm_over_shards


def learning_rate(config: TrainConfig, step: int, n_steps: int) -> float:
    """Of 0-based step `step` out of n_steps: linear warm-up from 0, then cosine or linear to 0, or constant.

    The formulae of the Hugging Face schedules, without restarts.
    """
    warmup = math.ceil(config.warmup_ratio * n_steps)
    if step < warmup:
        return config.learning_rate * step / warmup
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, n_steps - warmup)
    if config.lr_scheduler_type == "linear":
        return config.learning_rate * max(0.0, 1.0 - progress)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class OptimizerState(TypedDict):
    """What a checkpoint keeps of an unsharded optimiser."""

    adamw: dict[str, Any]  # torch's state_dict
    weights: dict[str, Tensor]  # the master weights that are not the model's own parameters


class Optimizer:
    """Steps of AdamW over named parameters.

    Attributes:
        weights: the master weights, fp32 (or fp64), by name: the parameters themselves if they have that dtype, as
            shards do, else copies, on the CPU if config.optimizer_device says so; there, of this process's shards.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], config: TrainConfig) -> None:
        self._parameters = dict(parameters)
        self._max_norm = config.max_grad_norm
        self.weights: dict[str, Tensor] = {name: _master_weight(p, config) for name, p in self._parameters.items()}
        matrices = [w for w in self.weights.values() if w.ndim >= 2]
        # Biases and norms are not decayed, as in the Hugging Face trainer.
        vectors = [w for w in self.weights.values() if w.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            # torch's default is one operation per sharded tensor, and on CUDA takes the roots of all moments at once.
            fused=any(isinstance(weight, DTensor) or weight.device.type != "cpu" for weight in self.weights.values())
            or None,
        )

    def accumulate(self) -> None:
        """Add the parameters' gradients to those of the master weights. After every pass of this process's own."""
        for name, parameter in self._parameters.items():
            weight = self.weights[name]
            if weight is parameter or parameter.grad is None:
                continue
            gradient = local_shard(parameter.grad).to(weight.device, weight.dtype)
            # Summed in fp32: in bfloat16 the sum over many passes would lose the small ones.
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """The gradients that a step would use, in the order of the names; zeros where no pass has been made.

        Never None, so that all processes reduce the same tensors, whichever passes they made.
        """
        # An idle pass gives shards the gradients of the other processes' passes.
        self.accumulate()
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    def step(self, rate: float) -> float:
        """Clip, step, write the weights back into the model and clear the gradients. Returns the norm before clipping.

        A step whose norm is not finite is not taken: it would ruin every weight. The caller sees the norm.
        """
        # The same number in all processes, so that all of them take the step or none.
        total = norm_over_shards(torch.nn.utils.get_total_norm(self.gradients()), self._parameters.values())
        norm = float(total)
        if math.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(list(self.weights.values()), self._max_norm, total)
            for group in self._adamw.param_groups:
                group["lr"] = rate
            self._adamw.step()
            self.write_back()
        for weight in self.weights.values():
            weight.grad = None
        return norm

    def state(self) -> OptimizerState:
        """Everything that `load` needs to continue exactly."""
        copies = {name: w for name, w in self.weights.items() if w is not self._parameters[name]}
        return {"adamw": self._adamw.state_dict(), "weights": copies}

    def load(self, state: OptimizerState) -> None:
        """Continue from `state`."""
        self._adamw.load_state_dict(state["adamw"])
        with torch.no_grad():
            for name, value in state["weights"].items():
                self.weights[name].copy_(value)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """AdamW's own states by parameter name; before its first step the zeros that it would begin with.

        For sharded checkpoints, which are read into tensors that exist already.
        """
        for weight in self.weights.values():
            if not self._adamw.state[weight]:
                zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                self._adamw.state[weight] = {"step": torch.tensor(0.0, device=weight.device), **zeros}
        return {name: self._adamw.state[weight] for name, weight in self.weights.items()}

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the master weights into the model, after they were changed from outside, too."""
        for name, parameter in self._parameters.items():
            if self.weights[name] is not parameter:
                local_shard(parameter).copy_(self.weights[name])


def _master_weight(parameter: torch.nn.Parameter, config: TrainConfig) -> Tensor:
    device = torch.device("cpu") if config.optimizer_device == "cpu" else parameter.device
    # Shards are copied where they lie in main memory, too, so that a training on CPUs does what one on GPUs does.
    copied = config.optimizer_device == "cpu" and isinstance(parameter, DTensor)
    if parameter.dtype in (torch.float32, torch.float64) and parameter.device == device and not copied:
        return parameter
    return local_shard(parameter).to(device, torch.float32, copy=True).requires_grad_(True)
