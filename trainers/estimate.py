"""Memory and time of a training before it starts, by arithmetic. Not measured: for choosing options, not for papers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.models.checkpoint import Checkpoint
from trainers.config import TrainConfig

TEXT_TOKENS = 200  # question, options and template: about this many in the benchmark's own rows
FLOPS = 0.4 * 989e12  # per second: 40 % of an H100 SXM's dense bfloat16 peak (its data sheet); the share is a guess
BANDWIDTH = 0.5 * 3.35e12  # bytes per second: half of an H100 SXM's memory bandwidth (its data sheet), again a guess
LAYER_TOKEN_S = 1e-3  # seconds per layer and decoding step without CUDA graphs, a guess that launches dominate


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes per process, and seconds of one step on one H100."""

    weights: int  # under --fsdp this process's fp32 shards
    optimizer: int  # fp32 weights where copies are needed, their gradients and the two moments
    gradients: int  # of one backward pass, where they are not the optimiser's own; under --fsdp before they are summed
    gathered: int  # under --fsdp, of a pass: the root's weights and those of two decoder layers
    reference: int  # working copy on the device
    average: int  # fp32, in main memory
    sampler: int  # while sampling: all weights, gathered under --fsdp, or vLLM's own copy of them
    cache: int  # keys and values while sampling
    activations: int  # of one packed group, or of as many as share a pass, gradient checkpointing considered
    checkpoint: int  # on disk, with what continuing needs
    weights_file: int  # of that, what stays when a newer checkpoint is there
    prompt_tokens: int
    step_s: float

    def device_bytes(self, config: TrainConfig) -> int:
        """Highest use of the device: sampling and training passes do not happen at once."""
        permanent = self.weights + self.reference + (0 if config.optimizer_device == "cpu" else self.optimizer)
        return permanent + max(self.sampler + self.cache, self.activations + self.gradients + self.gathered)

    def disk_bytes(self, config: TrainConfig, n_steps: int) -> int:
        """The most that the checkpoints of `n_steps` steps take at once: the one before stays while one is written."""
        n_saved = -(-n_steps // config.save_steps)
        n_kept = min(config.save_total_limit or n_saved, n_saved)
        return self.checkpoint * min(2, n_saved) + self.weights_file * max(0, n_kept - 1)


def estimate(config: TrainConfig, model: Checkpoint, questions_per_process: int, world: int = 1) -> Estimate:
    """Of one of `world` processes, for bfloat16 on CUDA (float32 with config.dtype float32).

    Prompts are as long as the pixel limits allow.
    """
    text: dict[str, Any] = model.config.get("text_config") or model.config
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    heads, kv_heads = int(text["num_attention_heads"]), int(text["num_key_value_heads"])
    head = int(text.get("head_dim") or hidden // heads)
    n = count_parameters(model.base_folder or model.folder)
    width = 4 if config.dtype == "float32" else 2
    trainable = n if not config.lora else _lora_parameters(config, text, head)
    sampled = 1 if config.algo == "sft" else config.num_generations
    video = config.video.max_frames // 2 * config.video.max_pixels // config.video.size_multiple**2
    prompt = video + config.video.image_max_pixels // config.video.size_multiple**2 + TEXT_TOKENS
    answer = config.max_completion_length
    rows = min(config.rollout_batch_size, questions_per_process) * sampled
    packed = prompt + sampled * answer
    kept = 1 if config.gradient_checkpointing else 17  # hidden states kept per layer; 17: without recomputation
    # Adapters and shards are float32 already, so that the optimiser needs no copies of them.
    fp32 = width == 4 or config.lora or config.fsdp
    copies = 0 if fp32 and config.optimizer_device == "auto" else 4
    parts, stored = (world, 4) if config.fsdp else (1, width)
    layer = hidden * (head * 2 * (heads + kv_heads) + 3 * int(text["intermediate_size"]))
    root = n - layers * layer
    gradients = trainable * (4 if config.lora else width) if copies else 0
    if config.fsdp:
        # In the model's dtype, and once more in fp32 to be summed.
        gradients = (root + layer) * (width + 4)
    # Two moments, and the fp32 weights where the model's own are not that: shards are written apart from the model.
    moments = trainable * (8 + (4 if config.fsdp else copies))
    average = 4 * trainable if config.reference == "ema" else 0
    # 2 per weight and token forward, twice that backward, once more for recomputation.
    flops = 2 * n * (packed * 3 + (packed if config.gradient_checkpointing else 0))
    flops += 2 * n * (prompt + (packed if config.bonus != "none" or config.beta else 0))
    vllm = config.rollouts == "vllm" and config.algo != "sft"
    # vLLM stores a prompt once for all its rollouts, and every decoding step reads all weights.
    cached = rows * (prompt + answer) if not vllm else rows // sampled * prompt + rows * answer
    token_s = n * width / BANDWIDTH if vllm else layers * LAYER_TOKEN_S
    decoding = 0.0 if config.algo == "sft" else answer * token_s
    batches = -(-questions_per_process // config.rollout_batch_size)
    return Estimate(
        weights=n * stored // parts,
        optimizer=trainable * (4 + 8 + copies) // parts,
        gradients=gradients,
        gathered=(root + 2 * layer) * width if config.fsdp else 0,
        sampler=n * width if vllm or (config.fsdp and config.algo != "sft") else 0,
        reference=n * width // parts if config.reference != "none" and not config.lora else 0,
        average=average // parts,
        cache=0 if config.algo == "sft" else cached * layers * 2 * kv_heads * head * width,
        activations=max(packed, min(config.max_packed_tokens or 0, packed * questions_per_process))
        * hidden
        * width
        * (layers * kept + 17),
        checkpoint=(trainable if config.lora else n) * width + moments + average,
        weights_file=(trainable if config.lora else n) * width,
        prompt_tokens=prompt,
        step_s=questions_per_process * flops / FLOPS + batches * decoding,
    )


def count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a folder, from their headers alone."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        for name, entry in header.items():
            count = 1
            for side in entry["shape"] if name != "__metadata__" else (0,):
                count *= side
            total += count
    return total


def _lora_parameters(config: TrainConfig, text: dict[str, Any], head: int) -> int:
    hidden, inner = int(text["hidden_size"]), int(text["intermediate_size"])
    q, kv = int(text["num_attention_heads"]) * head, int(text["num_key_value_heads"]) * head
    sides = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    return int(text["num_hidden_layers"]) * config.lora_r * sum(a + b for a, b in sides)
