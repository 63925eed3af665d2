"""Memory and time of a training before it starts, by arithmetic. Not measured on a GPU: for choosing options.

tests/rehearsal counts what the code itself allocates and computes at these sizes; the two agree within 5 %.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seedbench_r1.models.checkpoint import Checkpoint
from trainers.config import TrainConfig
from trainers.logprobs import LOGITS_SHARE

TEXT_TOKENS = 200  # question, options and template: about this many in the benchmark's own rows
FLOPS = 0.4 * 989e12  # per second: 40 % of an H100 SXM's dense bfloat16 peak (its data sheet); the share is a guess
BANDWIDTH = 0.5 * 3.35e12  # bytes per second: half of an H100 SXM's memory bandwidth (its data sheet), again a guess
LAYER_TOKEN_S = 1e-3  # seconds per layer and decoding step without CUDA graphs, a guess that launches dominate

# A decoder layer's tensors at once, in (inner, hidden) sizes per token, as counted by tests/rehearsal.
FORWARD = (3, 4)  # gate, its activation and their product; norm and residual
BACKWARD = (6, 10)  # those and their gradients; norms in float32, queries, keys, values
LORA_BACKWARD = (9, 17)  # adapters compute in float32
SAVED = (4, 14)  # what a layer keeps without gradient checkpointing
VISION_SAVED = (4, 8)  # a block of the vision tower likewise, whose norms are a kernel each
VISION_ENDS = 5  # hidden states that the vision tower keeps besides its blocks' inputs
LOGIT_BYTES = 16  # per logit of a chunk: in the model's type and in float32, with both gradients
ATTENTION_BACKWARD = 2.5  # times the forward arithmetic: five products in place of two


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes per process, and arithmetic and seconds of one step on one H100."""

    weights: int  # under --fsdp this process's fp32 shards; with LoRA the adapters too
    optimizer: int  # the two moments, and fp32 weights where copies are needed
    reference: int  # working copy; under --fsdp in pinned main memory, each shard rounded up to a power of two
    average: int  # fp32, in main memory
    loading: int  # the most before there is an optimiser, in all
    # On top of weights, optimiser and reference, one after the other:
    sampling: int  # the cache, and the sampler's weights: all of them, gathered under --fsdp, or vLLM's own copy
    policy_pass: int  # activations, gradients and, under --fsdp, what is gathered; a reference pass takes less
    update: int  # gradients in fp32; on the CPU with --optimizer-device cpu
    cache: int  # of sampling: keys and values
    checkpoint: int  # on disk, with what continuing needs
    weights_file: int  # of that, what stays when a newer checkpoint is there
    prompt_tokens: int
    vision_flops: float  # one forward pass of the vision tower over one question
    flops: float  # of all this process's questions but for decoding; causal attention counts in full
    step_s: float

    def device_bytes(self, config: TrainConfig) -> int:
        """Highest use of the device, without the CUDA context (1-3 GB) and fragmentation."""
        permanent, then = self.weights + self.reference * (not config.fsdp), max(self.sampling, self.policy_pass)
        if config.optimizer_device != "cpu":
            permanent, then = permanent + self.optimizer, max(then, self.update)
        return max(self.loading, permanent + then)

    def main_memory_bytes(self, config: TrainConfig) -> int:
        """Of the tensors in main memory, without the program itself."""
        kept = self.average + self.reference * config.fsdp
        return kept + (self.optimizer + self.update if config.optimizer_device == "cpu" else 0)

    def disk_bytes(self, config: TrainConfig, n_steps: int) -> int:
        """The most that the checkpoints of `n_steps` steps take at once: the one before stays while one is written."""
        n_saved = -(-n_steps // config.save_steps)
        n_kept = min(config.save_total_limit or n_saved, n_saved)
        return self.checkpoint * min(2, n_saved) + self.weights_file * max(0, n_kept - 1)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of a model: numbers in its parts, and lengths."""

    shapes: tuple[tuple[int, ...], ...]  # of all tensors
    total: int
    vision: int
    merger: int  # of vision: runs once per token, not per patch
    blocks: int  # of vision, too
    layer: int  # matrices of a decoder layer
    active: int  # of layer: what a token passes through; all but the experts that are not chosen for it
    layers: int
    hidden: int
    inner: int
    queries: int  # heads x head size
    keys: int
    vocabulary: int
    vision_blocks: int
    vision_whole: int  # blocks in which a patch sees its whole frame
    vision_window: int  # patches of a window, which it sees in the others
    vision_hidden: int
    vision_inner: int

    @property
    def decoder(self) -> int:
        """Of all decoder layers."""
        return self.layers * self.layer

    @property
    def root(self) -> int:
        """All but decoder layers and blocks of the vision tower: what --fsdp gathers once a pass."""
        return self.total - self.decoder - self.blocks

    @property
    def embedding(self) -> int:
        """Of the embeddings, and as many in the output layer."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True, slots=True)
class _Work:
    """Of a policy pass, and of a step of this process."""

    prompt: int  # tokens
    answer: int
    rollouts: int  # of a group in a pass
    groups: int  # that share a pass
    packed: bool  # the pass holds the prompt once
    image: int  # patches
    frame: int  # patches of one temporal patch of the clip
    frames: int  # temporal patches
    passes: int
    rows: int  # sampled at once

    @property
    def tokens(self) -> int:
        """Of a pass."""
        return self.groups * (self.rollouts * self.answer + self.prompt * (1 if self.packed else self.rollouts))

    @property
    def pairs(self) -> int:
        """Of a query and a key in a pass."""
        if self.packed:
            return self.groups * (self.prompt**2 + self.rollouts * self.answer * (self.prompt + self.answer))
        return self.groups * self.rollouts * (self.prompt + self.answer) ** 2

    @property
    def patches(self) -> int:
        """Of a pass."""
        return self.groups * (self.image + self.frames * self.frame) * (1 if self.packed else self.rollouts)


def estimate(config: TrainConfig, model: Checkpoint, questions_per_process: int, world: int = 1) -> Estimate:
    """Of one of `world` processes, for bfloat16 on CUDA (float32 with config.dtype float32).

    Prompts are as long as the pixel limits allow, rollouts as --max-completion-length does.
    """
    sizes, work = _sizes(model), _work(config, questions_per_process)
    width, parts = 4 if config.dtype == "float32" else 2, world if config.fsdp else 1
    trainable = _lora_parameters(config, sizes) if config.lora else sizes.total - sizes.vision * config.freeze_vision
    # Adapters, which are whole in every process, and shards are float32, so that the optimiser needs no copies of them.
    fp32 = width == 4 or config.lora or config.fsdp
    copies = 0 if fp32 and config.optimizer_device == "auto" else 4
    stored, adapters = 4 if config.trains_shards else width, 4 * trainable * config.lora
    own = parts if config.trains_shards else 1  # over how many processes what is trained is spread
    # Shards are written apart from the model.
    moments = trainable * (8 + (4 if config.trains_shards else copies))
    average = 4 * trainable if config.reference == "ema" else 0
    copied = sizes.total * width if config.reference != "none" and not config.lora else 0
    vllm = config.rollouts == "vllm" and config.algo != "sft"
    cache = _cache(config, sizes, work, width)
    vision, flops = _flops(config, sizes, replace(work, groups=1))
    # A recorded graph and vLLM read all weights and the cache for every token; without a graph launches dominate.
    reads = (sizes.total * width + cache) / (config.rollout_tensor_parallel or 1) / BANDWIDTH
    token_s = sizes.layers * LAYER_TOKEN_S if not vllm and config.decode_cache == "dynamic" else reads
    decoding = 0.0 if config.algo == "sft" else work.answer * token_s
    batches = -(-questions_per_process // config.rollout_batch_size)
    weights_file = (trainable if config.lora else sizes.total) * width
    return Estimate(
        weights=sizes.total * stored // parts + adapters,
        optimizer=trainable * (8 + copies) // own,
        reference=_pinned(sizes.shapes, width, parts) if config.fsdp and copied else copied,
        average=average // own,
        # The reference is sharded from a full copy of the gathered policy.
        loading=sizes.total * 4 // parts + 2 * copied if config.fsdp and copied else sizes.total * width + adapters,
        sampling=_sampling(config, sizes, work, width, parts, cache),
        policy_pass=_policy_pass(config, sizes, work, width, parts, trainable),
        update=4 * trainable // own,
        cache=cache,
        checkpoint=weights_file + (moments + average) * (config.save_optimizer != "never"),
        weights_file=weights_file,
        prompt_tokens=work.prompt,
        vision_flops=vision,
        flops=flops * questions_per_process,
        step_s=questions_per_process * flops / FLOPS + batches * decoding,
    )


def _sizes(model: Checkpoint) -> _Sizes:
    text: dict[str, Any] = model.config.get("text_config") or model.config
    # A released config.json may leave out what is the default of Qwen2.5-VL in transformers.
    windows = model.config.get("model_type") == "qwen2_5_vl"
    usual = {"depth": 32, "hidden_size": 1280, "window_size": 112, "patch_size": 14, "fullatt_block_indexes": (0,) * 4}
    vision: dict[str, Any] = usual | (model.config.get("vision_config") or {})
    hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
    inner, left = int(text.get("intermediate_size") or 0), 0
    if experts := int(text.get("num_experts") or 0):
        chosen, width = int(text["num_experts_per_tok"]), int(text["moe_intermediate_size"])
        inner = chosen * width + int(text.get("shared_expert_intermediate_size") or 0)
        left = 3 * hidden * width * (experts - chosen)
    head = int(text.get("head_dim") or hidden // heads)
    queries, keys = heads * head, int(text["num_key_value_heads"]) * head
    active = 2 * hidden * (queries + keys) + 3 * hidden * inner
    shapes = _shapes(model.base_folder or model.folder)
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    tower = {name: count for name, count in numbers.items() if "visual." in name}
    vision_hidden = int(vision.get("embed_dim") or vision["hidden_size"])  # Qwen2-VL calls it embed_dim
    return _Sizes(
        shapes=tuple(shapes.values()),
        total=sum(numbers.values()),
        vision=sum(tower.values()),
        merger=sum(count for name, count in tower.items() if "merger" in name),
        blocks=sum(count for name, count in tower.items() if ".blocks." in name),
        layer=active + left,
        active=active,
        layers=int(text["num_hidden_layers"]),
        hidden=hidden,
        inner=inner,
        queries=queries,
        keys=keys,
        vocabulary=int(text["vocab_size"]),
        vision_blocks=int(vision["depth"]),
        vision_whole=len(vision["fullatt_block_indexes"]) if windows else int(vision["depth"]),
        vision_window=(int(vision["window_size"]) // int(vision["patch_size"])) ** 2 if windows else 0,
        vision_hidden=vision_hidden,
        vision_inner=int(vision.get("intermediate_size") or vision_hidden * vision.get("mlp_ratio", 4)),
    )


def _work(config: TrainConfig, questions: int) -> _Work:
    video, sft = config.video, config.algo == "sft"
    frames, cell = video.max_frames // 2, video.size_multiple**2
    image = video.image_max_pixels // cell
    sampled = 1 if sft else config.num_generations
    together = config.per_device_train_batch_size if sft else min(config.group_chunk or sampled, sampled)
    prompt = frames * video.max_pixels // cell + image + TEXT_TOKENS
    group = prompt + sampled * config.max_completion_length
    groups = max(1, min(questions, (config.max_packed_tokens or 0) // group))
    return _Work(
        prompt=prompt,
        answer=config.max_completion_length,
        rollouts=together,
        groups=groups,
        packed=config.shared_prefix and not sft,
        # A token is 2 x 2 patches.
        image=4 * image,
        frame=4 * video.max_pixels // cell,
        frames=frames,
        passes=-(-questions // groups) * -(-sampled // together) if not sft else -(-questions // together),
        rows=min(config.rollout_batch_size, questions) * sampled,
    )


def _cache(config: TrainConfig, sizes: _Sizes, work: _Work, width: int) -> int:
    """Bytes of keys and values while sampling. vLLM stores a prompt once for all its rollouts."""
    if config.algo == "sft":
        return 0
    prompts = work.rows // config.num_generations if config.rollouts == "vllm" else work.rows
    return (prompts * work.prompt + work.rows * work.answer) * sizes.layers * 2 * sizes.keys * width


def _sampling(config: TrainConfig, sizes: _Sizes, work: _Work, width: int, parts: int, cache: int) -> int:
    """The sampler's weights, and the most of: gathering the last of them, the prefill, and decoding."""
    if config.algo == "sft":
        return 0
    if config.rollouts == "vllm":
        # Spread over the processes that share the engine; one matrix is gathered or merged at a time.
        passing = sizes.embedding * width * (config.fsdp or config.lora)
        return (sizes.total * width + cache) // (config.rollout_tensor_parallel or 1) + passing
    gathering = sizes.embedding * width * (parts + 1) // parts if config.fsdp else 0
    prompts = work.rows // config.num_generations * work.prompt
    prefill = prompts * width * (_per_token(FORWARD, sizes) + sizes.layers * 2 * sizes.keys)
    # With a mask, a layer's keys and values are repeated for all heads.
    repeated = 2 * work.rows * (work.prompt + work.answer) * sizes.queries * width
    return sizes.total * width * config.fsdp + max(gathering, prefill, cache + repeated)


def _policy_pass(config: TrainConfig, sizes: _Sizes, work: _Work, width: int, parts: int, trainable: int) -> int:
    """The most of four moments of the backward pass: output layer, first and last decoder layer, and its end."""
    checkpoints = config.gradient_checkpointing
    kept = work.tokens * width * (sizes.hidden if checkpoints else _per_token(SAVED, sizes))  # per decoder layer
    saved = VISION_SAVED[0] * sizes.vision_inner + VISION_SAVED[1] * sizes.vision_hidden
    block = sizes.vision_hidden if checkpoints else saved
    tower = work.patches * width * (sizes.vision_blocks * block + VISION_ENDS * sizes.vision_hidden)
    tower *= not (config.freeze_vision or config.lora)
    layer = work.tokens * width * _per_token(LORA_BACKWARD if config.lora else BACKWARD, sizes)
    # The output layer's chunks of logits take LOGITS_SHARE of its bytes in float32.
    head = int(LOGITS_SHARE * sizes.embedding * width) // 4 * LOGIT_BYTES
    head += 0 if config.lora else 3 * sizes.embedding * width  # its gradient, that of a chunk, and their sum
    everything, nothing_left = sizes.layers * kept + tower, kept + tower
    gathered = (sizes.root + 2 * sizes.layer) * width if config.fsdp else 0
    if config.trains_shards:
        # In the model's type, and once more in fp32 to be summed; of the decoder layers shards remain.
        summed, shards = width + 4, 4 * sizes.decoder // parts
        begins = gathered + everything + max(head, layer + sizes.layer * summed)
        decoded = gathered + nothing_left + layer + sizes.embedding * width + sizes.layer * summed + shards
        frozen = (sizes.vision - sizes.blocks) * config.freeze_vision
        return max(begins, decoded, shards + (sizes.root - frozen) * summed)
    of_pass = trainable * (4 if config.lora else width)
    own = config.lora or width == 4  # the gradients are the optimiser's own
    summed = 0 if own or config.optimizer_device == "cpu" else 4 * trainable
    before = (of_pass if own else summed) if work.passes > 1 else 0
    decoded = of_pass - (0 if config.lora else (trainable - sizes.decoder - sizes.embedding) * width)
    return gathered + max(
        before + everything + max(head, layer),
        (0 if own else before) + nothing_left + layer + decoded,
        # Gradients become fp32 one by one.
        max(summed, (0 if own else before) + of_pass),
    )


def _per_token(counts: tuple[int, int], sizes: _Sizes) -> int:
    return counts[0] * sizes.inner + counts[1] * sizes.hidden


def _flops(config: TrainConfig, sizes: _Sizes, work: _Work) -> tuple[float, float]:
    """Of the vision tower's forward pass over one question, and of all that a question takes; 2 per multiply-add."""
    products = 2.0 * (sizes.vision - sizes.merger) * work.patches + 2.0 * sizes.merger * work.patches / 4
    attention = 4.0 * sizes.vision_hidden * _vision_pairs(sizes, work)
    tower, per_question = products + attention, 1 / work.rollouts if config.algo == "sft" else 1.0
    # Recomputed up to what backward needs: without a block's last product, unless an adapter reads its output.
    again = float(config.gradient_checkpointing)
    last = sizes.hidden * sizes.inner / sizes.active, 1 / (3 + 4 * sizes.vision_hidden / sizes.vision_inner)
    backward = 1.0 if config.lora else 2.0  # for inputs, and for weights
    text_again, vision_again = again * (1 - (0.0 if config.lora else last[0])), again * (1 - last[1])
    passes = 1 + text_again + backward
    policy = _text_flops(sizes, work.tokens, work.pairs, passes, 1 + again + ATTENTION_BACKWARD)
    policy += 2.0 * work.rollouts * work.answer * sizes.embedding * (2 + backward)  # its logits are computed twice
    policy += 2.0 * _lora_parameters(config, sizes) * work.tokens * (3 + again) if config.lora else 0.0
    learned = 0.0 if config.freeze_vision or config.lora else 1.0
    policy += products * (1 + learned * (vision_again + backward))
    policy += attention * (1 + learned * (again + ATTENTION_BACKWARD))
    if config.algo == "sft":
        return tower * per_question, policy * per_question
    n_passes = -(-config.num_generations // work.rollouts)
    prefill = tower + _text_flops(sizes, work.prompt, work.prompt**2)
    reference = tower + _text_flops(sizes, work.tokens, work.pairs)
    penalty = reference + 2.0 * work.rollouts * work.answer * sizes.embedding
    # RefGen prefills the prompt for every rollout; the answers' few tokens are left out.
    asked = {"none": 0.0, "refgen": work.rollouts * prefill}.get(config.bonus, reference)
    looked = asked + (penalty if config.penalises else 0.0)
    return tower, prefill + n_passes * (looked + policy)


def _text_flops(sizes: _Sizes, tokens: int, pairs: int, products: float = 1.0, attention: float = 1.0) -> float:
    """Of the decoder layers, given how often their products and their attention are computed."""
    return (
        2.0 * sizes.layers * sizes.active * tokens * products + 4.0 * sizes.layers * sizes.queries * pairs * attention
    )


def _vision_pairs(sizes: _Sizes, work: _Work) -> int:
    """Of a query and a key in all blocks: patches see their own frame, in most blocks of Qwen2.5-VL their window."""
    copies = 1 if work.packed else work.rollouts
    whole = copies * (work.image**2 + work.frames * work.frame**2)
    windowed = work.patches * sizes.vision_window
    return sizes.vision_whole * whole + (sizes.vision_blocks - sizes.vision_whole) * windowed


def count_parameters(folder: Path) -> int:
    """Numbers in the safetensors files of a folder, from their headers alone."""
    return sum(map(math.prod, _shapes(folder).values()))


def _pinned(shapes: Iterable[Sequence[int]], width: int, parts: int) -> int:
    """Bytes that torch's allocator of pinned memory takes for a process's shards: a power of two for each.

    FSDP2 shards the first dimension, and all shards are as long as the longest (torch's CachingHostAllocator.h).
    """
    shards = (-(-shape[0] // parts) * math.prod(shape[1:]) * width for shape in shapes)
    return sum(1 << (size - 1).bit_length() for size in shards)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor, by name."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                found[name] = tuple(entry["shape"])
    return found


def _lora_parameters(config: TrainConfig, sizes: _Sizes) -> int:
    hidden, inner, q, kv = sizes.hidden, sizes.inner, sizes.queries, sizes.keys
    sides = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    return sizes.layers * config.lora_r * sum(a + b for a, b in sides)
