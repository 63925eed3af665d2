"""A GRPO-CARE step on a GPU: ours against one full sequence per rollout, stage by stage, in at most 9 minutes.

python tests/benchmarks/gpu_step.py [--json FILE] [--models 7b,3b] [--prompts 1350,4000] [--minutes 8.5]
python tests/benchmarks/gpu_step.py --smoke        a miniature of it on a CPU, to see that the script runs

Nothing is installed or downloaded: random weights in the shapes of Qwen2.5-VL 3B and 7B, a random clip and image, 8
rollouts of exactly 300 tokens on both sides (nothing ends one). It needs torch 2.11 and transformers 5.17 or newer and
this source tree. HAS NOT BEEN RUN ON A GPU YET; only its --smoke form has.

"ours": vision and prompt once, packed rollouts, output layer on completions in chunks, the sampler of the evaluation.
"reference": every rollout with its own prompt and pixels, all logits and their log-softmax in bfloat16, transformers'
generate. Both: bfloat16, gradient checkpointing, sdpa, a frozen reference model, AdamW with states in bfloat16.

Fractions of the roofline: arithmetic of the stage as done by that side (2 per multiply-add; 4 passes for forward,
recomputation and backward) over time and the GPU's dense bfloat16 peak; for decoding, weights and caches read over time
and memory bandwidth.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import transformers

from seedbench_r1.backends.caches import DecodeCache
from seedbench_r1.backends.decoding import Prompt, decode, prefill
from seedbench_r1.models.qwen_vl import ModelInputs, QwenProcessor, VisionLayout, rope_positions
from seedbench_r1.types import SamplingConfig
from tests.benchmarks.training_step import reference_logprobs
from tests.tiny_models import vision_tensors
from trainers.shared_prefix import group_logprobs, shared_prefix_attention

# The released configurations of Qwen2.5-VL-3B-Instruct and 7B-Instruct.
SHAPES = {
    "3b": {"hidden": 2048, "layers": 36, "heads": 16, "keys": 2, "inner": 11008, "vocabulary": 151_936, "tied": True},
    "7b": {"hidden": 3584, "layers": 28, "heads": 28, "keys": 4, "inner": 18944, "vocabulary": 152_064, "tied": False},
    "smoke": {"hidden": 64, "layers": 2, "heads": 2, "keys": 1, "inner": 128, "vocabulary": 151_936, "tied": False},
}
Media = tuple[tuple[int, int, int], tuple[int, int]]
# Tokens of a clip of 16 frames (8 in time) and of an image, in rows and columns; text fills the prompt up.
MEDIA = {60: ((8, 2, 2), (2, 3)), 1350: ((8, 8, 16), (14, 14)), 4000: ((8, 16, 26), (16, 16))}
VIDEO, IMAGE, VISION_START, VISION_END = 151_656, 151_655, 151_652, 151_653  # ids of Qwen2.5-VL's tokenizer
# Dense bfloat16 FLOP/s and bytes/s of the data sheets, SXM versions.
PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12), "B200": (2250e12, 8.0e12)}
LAYOUT = VisionLayout("qwen2_5_vl", 14, 2, 2, IMAGE, VIDEO, tokens_per_second=2.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """What one model and prompt length share between the two sides."""

    model: torch.nn.Module
    frozen: torch.nn.Module  # the reference model
    optimizer: torch.optim.Optimizer
    inputs: ModelInputs
    group: int
    length: int  # tokens of a rollout
    device: torch.device


def build(name: str, device: torch.device) -> torch.nn.Module:
    shape = SHAPES[name]
    head = shape["hidden"] // shape["heads"]
    section = [16, 24, 24] if head == 128 else [head // 2 - 2 * (head * 3 // 16), head * 3 // 16, head * 3 // 16]
    text = {
        "vocab_size": shape["vocabulary"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["keys"],
        "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "tie_word_embeddings": shape["tied"],
    }
    small = name == "smoke"
    vision = {
        "depth": 2 if small else 32,
        "hidden_size": 64 if small else 1280,
        "num_heads": 2 if small else 16,
        "intermediate_size": 128 if small else 3420,
        "out_hidden_size": shape["hidden"],
        "window_size": 112,
        "fullatt_block_indexes": [1] if small else [7, 15, 23, 31],
        "tokens_per_second": 2,
    }
    marks = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    marks |= {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
    config = transformers.AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=vision, **marks)
    config.tie_word_embeddings = shape["tied"]
    classes = transformers.AutoModelForImageTextToText
    with torch.device(device):
        model = classes.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=None)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def prompt(length: int, media: Media | None = None) -> ModelInputs:
    """A prompt of exactly `length` tokens: clip, image, text. Without media, those that MEDIA has for the length."""
    (steps, rows, columns), (height, width) = media or MEDIA[length]
    video_grid, image_grid = (steps, 2 * rows, 2 * columns), (1, 2 * height, 2 * width)
    medium = [VISION_START, *[VIDEO] * (steps * rows * columns), VISION_END]
    medium += [VISION_START, *[IMAGE] * (height * width), VISION_END]
    drawn = torch.Generator().manual_seed(0)
    text = torch.randint(0, 150_000, (length - len(medium),), generator=drawn)
    ids = torch.cat([text[:3], torch.tensor(medium), text[3:]])
    positions, delta = rope_positions(
        ids, LAYOUT, image_grids=[image_grid], video_grids=[video_grid], seconds_per_grid=[2.0]
    )
    pixels = [
        torch.randint(0, 256, (t * h * w, 1176), dtype=torch.uint8, generator=drawn)
        for t, h, w in (image_grid, video_grid)
    ]
    return ModelInputs(ids, positions, delta, pixels[0], image_grid, pixels[1], video_grid, 2.0)


def vision(case: Case, count: int) -> None:
    tensors = vision_tensors(case.model, LAYOUT, [case.inputs] * count)
    with torch.no_grad():
        case.model.model.get_image_features(tensors["pixel_values"], tensors["image_grid_thw"])
        case.model.model.get_video_features(tensors["pixel_values_videos"], tensors["video_grid_thw"])


def filled(case: Case, count: int) -> None:
    case.model.eval()
    _, cache, _ = prefill(case.model, LAYOUT, [case.inputs] * count, 0)
    if count < case.group:
        cache.batch_repeat_interleave(case.group)


def sampled(case: Case, side: str, length: int, cache: DecodeCache = "auto") -> list[torch.Tensor]:
    """The group's rollouts, each of exactly `length` tokens. top_p and top_k of the GRPO-CARE run."""
    case.model.eval()
    forbidden = (VIDEO, IMAGE, VISION_START, VISION_END)
    if side == "ours":
        tokenizer = SimpleNamespace(eos_token_id=None, pad_token_id=0)
        processor = QwenProcessor(LAYOUT, tokenizer, None, None, "", 32_768, forbidden)
        sampling = SamplingConfig(temperature=1.0, top_p=0.95, top_k=50, max_new_tokens=length, n=case.group)
        done = decode(case.model, processor, [Prompt("p", case.inputs)], sampling, cache=cache)
        return [torch.tensor(one.token_ids) for one in done]
    ids = case.inputs.input_ids.expand(case.group, -1).to(case.device)
    options = transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_p=0.95, top_k=50, max_new_tokens=length, eos_token_id=None, pad_token_id=0
    )
    options.suppress_tokens = list(forbidden)
    with torch.inference_mode():
        tensors = vision_tensors(case.model, LAYOUT, [case.inputs] * case.group)
        output = case.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=options, **tensors
        )
    return list(output[:, ids.shape[1] :].cpu())


def scored(case: Case, model: torch.nn.Module, side: str, completions: list[torch.Tensor]) -> torch.Tensor:
    if side == "ours":
        return group_logprobs(model, LAYOUT, case.inputs, completions)[0]
    on_device = [ids.to(case.device) for ids in completions]
    moved = {name: getattr(case.inputs, name).to(case.device) for name in ("input_ids", "positions")}
    inputs = dataclasses.replace(case.inputs, **moved)
    return reference_logprobs(model, LAYOUT, inputs, on_device)


def look(case: Case, side: str, completions: list[torch.Tensor]) -> None:
    with torch.no_grad():
        scored(case, case.frozen, side, completions)


def learn(case: Case, side: str, completions: list[torch.Tensor]) -> None:
    case.model.train()
    weights = torch.linspace(-1, 1, case.group, device=case.device)[:, None]
    (scored(case, case.model, side, completions) * weights).float().mean().backward()


def step(case: Case, side: str) -> float:
    """Rollouts, reference forward, policy forward and backward, update. Returns the seconds spent on the rollouts."""
    began = now(case.device)
    completions = sampled(case, side, case.length)
    decoded = now(case.device) - began
    assert all(len(ids) == case.length for ids in completions)
    look(case, side, completions)
    learn(case, side, completions)
    case.optimizer.step()
    case.optimizer.zero_grad(set_to_none=True)
    return decoded


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def gigaflops(case: Case, stage: str, side: str) -> float:
    """Forward arithmetic of a stage as this side does it, in 1e9; the attention of the vision tower left out."""
    config = case.model.config.get_text_config()
    layers = sum(p.numel() for p in case.model.model.language_model.layers.parameters() if p.ndim == 2)
    head = case.model.lm_head.weight.numel()
    n_prompt, g, c = len(case.inputs.input_ids), case.group, case.length
    copies = 1 if side == "ours" else g
    patches = len(case.inputs.image_patches) + len(case.inputs.video_patches)
    blocks = sum(p.numel() for p in case.model.model.visual.blocks.parameters() if p.ndim == 2)
    merger = sum(p.numel() for p in case.model.model.visual.merger.parameters() if p.ndim == 2)
    tower = 2 * copies * patches * (blocks + merger / 4)
    pair = 4 * config.num_hidden_layers * config.hidden_size  # one query and one key, scores and values
    prompt_only = copies * (2 * n_prompt * layers + pair * n_prompt**2 / 2)
    if stage == "vision":
        return tower / 1e9
    if stage == "prefill":
        return (tower + prompt_only + 2 * copies * head) / 1e9
    completions = g * (2 * c * layers + pair * (c * n_prompt + c * c / 2))
    scored_rows = g * c if side == "ours" else g * (n_prompt + c)
    passes = 4 if stage == "policy forward + backward" else 1
    return passes * (tower + prompt_only + completions + 2 * scored_rows * head) / 1e9


def bytes_per_token(case: Case) -> float:
    """Read for one token of all rollouts: decoder layers, output layer, and the caches at half the final length."""
    config = case.model.config.get_text_config()
    layers = sum(p.numel() for p in case.model.model.language_model.layers.parameters())
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    cached = case.group * (len(case.inputs.input_ids) + case.length / 2) * 2 * config.num_hidden_layers * width
    return 2 * (layers + case.model.lm_head.weight.numel() + cached)


def timed(case: Case, work, repeats: int) -> dict[str, float | str]:
    """Median seconds after one warm-up run, and peak memory; or that memory did not suffice."""
    cuda = case.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if cuda else 0
    try:
        seconds = []
        for _ in range(repeats + 1):
            began = now(case.device)
            work()
            seconds.append(now(case.device) - began)
            case.optimizer.zero_grad(set_to_none=True)
    except torch.OutOfMemoryError:
        case.optimizer.zero_grad(set_to_none=True)
        return {"error": "out of memory"}
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return {"s": statistics.median(seconds[1:]), "peak_gb": peak / 1e9, "added_gb": (peak - held) / 1e9}


def measure(case: Case, deadline: float, peaks: tuple[float, float] | None) -> dict[str, dict]:
    drawn = torch.Generator().manual_seed(1)
    completions = list(torch.randint(0, 150_000, (case.group, case.length), generator=drawn))
    stages = {
        "vision": lambda side: vision(case, 1 if side == "ours" else case.group),
        "prefill": lambda side: filled(case, 1 if side == "ours" else case.group),
        "reference forward": lambda side: look(case, side, completions),
        "policy forward + backward": lambda side: learn(case, side, completions),
    }
    results: dict[str, dict] = {}
    for name, work in stages.items():
        results[name] = {}
        for side in ("ours", "reference"):
            if time.monotonic() > deadline:
                results[name][side] = {"error": "no time left"}
                continue
            row = results[name][side] = timed(case, lambda work=work, side=side: work(side), 2)
            if "s" in row and peaks:
                row["roofline"] = gigaflops(case, name, side) * 1e9 / row["s"] / peaks[0]
        report(name, results[name])
    results["whole step"], results["decoding"] = {}, {}
    for side in ("ours", "reference"):
        if time.monotonic() > deadline:
            results["whole step"][side] = {"error": "no time left"}
            continue
        sampled(case, side, 3)
        decoding: list[float] = []
        # without a warm-up of its own: every part has run
        results["whole step"][side] = once(case, lambda side=side, out=decoding: out.append(step(case, side)))
        if decoding:
            speed = {"s": decoding[0], "tokens_per_s": case.group * case.length / decoding[0]}
            if peaks:
                speed["roofline"] = bytes_per_token(case) * case.length / decoding[0] / peaks[1]
            results["decoding"][side] = speed
    report("whole step", results["whole step"])
    report("decoding", results["decoding"])
    results["decoding by cache"] = caches(case, deadline)
    return results


def caches(case: Case, deadline: float) -> dict[str, dict]:
    """Our sampler on a growing cache, and on one of fixed shape whose step is a recorded graph on CUDA."""
    results: dict[str, dict] = {}
    for kind in ("dynamic", "static"):
        if time.monotonic() > deadline:
            results[kind] = {"error": "no time left"}
            continue
        row = results[kind] = once(case, lambda kind=kind: sampled(case, "ours", case.length, kind))
        if "s" in row:
            row["tokens_per_s"] = case.group * case.length / row["s"]
        shown = row.get("error") or f"{row['tokens_per_s']:.0f} tokens/s with the prefill, peak {row['peak_gb']:.1f} GB"
        print(f"  decoding, {kind} cache: {shown}", flush=True)
    return results


def once(case: Case, work) -> dict[str, float | str]:
    """Like timed, for one run."""
    if case.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = now(case.device)
    try:
        work()
    except torch.OutOfMemoryError:
        case.optimizer.zero_grad(set_to_none=True)
        return {"error": "out of memory"}
    seconds = now(case.device) - began
    peak = torch.cuda.max_memory_allocated() if case.device.type == "cuda" else 0
    return {"s": seconds, "peak_gb": peak / 1e9}


def report(name: str, sides: dict[str, dict]) -> None:
    ours, reference = sides.get("ours", {}), sides.get("reference", {})
    if "s" in ours and "s" in reference:
        sides["time_ratio"] = reference["s"] / ours["s"]
        if ours.get("peak_gb"):
            sides["peak_ratio"] = reference["peak_gb"] / ours["peak_gb"]
    print(f"  {name:<26} {json.dumps(sides, default=str)}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="7b,3b")
    parser.add_argument("--prompts", default="1350,4000")
    parser.add_argument("--minutes", type=float, default=8.5, help="no stage is begun after this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.models, chosen.prompts = "smoke", "60"
    elif not torch.cuda.is_available():
        parser.exit(0, "No GPU here: nothing was measured. --smoke runs a miniature on the CPU.\n")
    return chosen


def main() -> None:
    chosen = arguments()
    deadline = time.monotonic() + 60 * chosen.minutes
    device = torch.device("cpu" if chosen.smoke else "cuda")
    torch.manual_seed(0)
    name = "cpu" if chosen.smoke else torch.cuda.get_device_name()
    peaks = next((numbers for key, numbers in PEAKS.items() if key in name), None)
    results: dict = {"device": name, "torch": torch.__version__, "transformers": transformers.__version__, "cases": {}}
    for model_name in chosen.models.split(","):
        if time.monotonic() > deadline:
            break
        model = build(model_name, device)
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device.type == "cuda")
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # now its states exist, for both sides alike
        optimizer.zero_grad(set_to_none=True)
        with shared_prefix_attention(model), shared_prefix_attention(frozen):
            for length in map(int, chosen.prompts.split(",")):
                print(f"{model_name}, prompt of {length} tokens", flush=True)
                case = Case(model, frozen, optimizer, prompt(length), 8, 5 if chosen.smoke else 300, device)
                results["cases"][f"{model_name}/{length}"] = measure(case, deadline, peaks)
        del model, frozen, optimizer, case
    text = json.dumps(results, indent=1)
    if chosen.json:
        chosen.json.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
