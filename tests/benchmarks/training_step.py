"""Shared-prefix training against one full sequence per rollout: CPU time per stage, and peak memory of the log-softmax.

python tests/benchmarks/training_step.py

A random Qwen2.5-VL whose output layer is about as large a part of it as a 7B's (8 %), one prompt of about 1,000 tokens
(a clip of 16 frames and an image), 8 rollouts of 75 tokens. Three ways of doing each stage run in turn, in one process
and on one thread: ours; "repeated", every rollout with its own prompt and pixels, the output layer on completions only;
"reference", the same with logits of all tokens and their log-softmax, as the GRPO-CARE code does it. Ratios are medians
over the rounds. Prints a table and JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import transformers

from seedbench_r1.backends.decoding import prefill
from seedbench_r1.demo.tiny_model import TinySize, write_tiny_checkpoint
from seedbench_r1.models.qwen_vl import load_processor, prepare_inputs
from tests.tiny_models import WORDS, request, vision_tensors
from trainers.logprobs import token_logprobs
from trainers.shared_prefix import group_logprobs, shared_prefix_attention

GROUP, COMPLETION, ROUNDS = 8, 75, 3
SIZE = TinySize(hidden=256, layers=3, heads=4, key_value_heads=2, vision_hidden=128, vision_depth=2, vision_heads=2)
TOKENS = 560  # vocabulary, for the 8 %
CELLS = (8, 14)  # tokens of a frame: 8 temporal patches and the image make 9 x 112
ROWS, HIDDEN, VOCABULARY = 2400, 128, 32_000  # 8 rollouts of 300 tokens
AIMS = {"vision": 7, "prefill": 6, "policy forward + backward": 4, "reference forward": 4}


def reference_logprobs(model, layout, inputs, completions):
    """(G, C): every rollout as a whole sequence, all logits, log-softmax row by row, prompt positions thrown away."""
    n_prompt, count, width = len(inputs.input_ids), len(completions), len(completions[0])
    ids = torch.cat([inputs.input_ids.expand(count, -1), torch.stack(completions)], dim=1)
    after = (torch.arange(width, device=ids.device) + n_prompt + inputs.delta).expand(3, -1)
    positions = torch.cat([inputs.positions, after], dim=1)[:, None].expand(-1, count, -1)
    vision = vision_tensors(model, layout, [inputs] * count)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **vision).logits[:, :-1]
    rows = []
    for row, targets in zip(logits, ids[:, 1:], strict=True):
        rows.append(row.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    return torch.stack(rows)[:, n_prompt - 1 :]


def stages(model, processor, inputs, completions):
    """Per stage: what ours, the repeated form and the reference do."""
    layout, weights = processor.layout, torch.linspace(-1, 1, GROUP)[:, None]

    def vision(count):
        tensors = vision_tensors(model, layout, [inputs] * count)
        with torch.no_grad():
            model.model.get_image_features(tensors["pixel_values"], tensors["image_grid_thw"])
            model.model.get_video_features(tensors["pixel_values_videos"], tensors["video_grid_thw"])

    def filled(count):
        _, cache, _ = prefill(model, layout, [inputs] * count, 0)
        if count < GROUP:
            cache.batch_repeat_interleave(GROUP)

    def packed():
        return group_logprobs(model, layout, inputs, completions)[0]

    def repeated():
        return group_logprobs(model, layout, inputs, completions, shared_prefix=False)[0]

    def reference():
        return reference_logprobs(model, layout, inputs, completions)

    def learn(logprobs):
        model.zero_grad()
        (logprobs() * weights).sum().backward()

    def look(logprobs):
        with torch.no_grad():
            logprobs()

    forms = (packed, repeated, reference)
    return {
        "vision": [lambda n=n: vision(n) for n in (1, GROUP, GROUP)],
        "prefill": [lambda n=n: filled(n) for n in (1, GROUP, GROUP)],
        "policy forward + backward": [lambda form=form: learn(form) for form in forms],
        "reference forward": [lambda form=form: look(form) for form in forms],
    }


def cpu_seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(folder: Path) -> dict[str, dict[str, float]]:
    write_tiny_checkpoint(folder, vocabulary_texts=[WORDS], size=SIZE)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").train()
    model.resize_token_embeddings(TOKENS, mean_resizing=False)
    processor = load_processor(str(folder))
    inputs = prepare_inputs(request("a", n_frames=16, cells=CELLS, seconds=20.0), processor)
    completions = list(torch.randint(0, 200, (GROUP, COMPLETION), generator=torch.Generator().manual_seed(0)))
    head, body = model.lm_head.weight.numel(), sum(p.numel() for p in model.model.language_model.layers.parameters())
    print(
        f"prompt {len(inputs.input_ids)} tokens; output layer / decoder layers {head / body:.2f} parameters", flush=True
    )
    results = {}
    with shared_prefix_attention(model):
        for name, works in stages(model, processor, inputs, completions).items():
            for work in works:
                work()
            times = [[cpu_seconds(work) for work in works] for _ in range(ROUNDS)]
            results[name] = {
                "ours_s": statistics.median(ours for ours, _, _ in times),
                "repeated_over_ours": statistics.median(repeated / ours for ours, repeated, _ in times),
                "reference_over_ours": statistics.median(reference / ours for ours, _, reference in times),
            }
    return results


def log_softmax_peak(form: str) -> None:
    """In a process of its own: MB by which forward and backward of the log-probabilities raise its resident peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    tokens = torch.randint(0, VOCABULARY, (ROWS,))
    layer.weight.grad = torch.zeros_like(layer.weight)
    token_logprobs(layer, hidden[:2], tokens[:2]).sum().backward()  # libraries and thread buffers are there now
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now (man 5 proc)
    before = resident_peak()
    if form == "ours":
        logprobs = token_logprobs(layer, hidden, tokens)
    else:
        logprobs = layer(hidden).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    logprobs.sum().backward()
    print(resident_peak() - before)


def resident_peak() -> float:
    """MB: the VmHWM line of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peaks() -> dict[str, float]:
    """Freed memory goes back at once in both processes; glibc would keep some and blur what is alive."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    found = {}
    for form in ("ours", "full"):
        command = [sys.executable, __file__, form]
        found[form] = float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    return found | {"ratio": found["full"] / found["ours"]}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        results: dict[str, dict[str, float]] = measure(Path(name))
    for name, row in results.items():
        print(
            f"{name:<27} ours {row['ours_s']:6.2f} s   repeated {row['repeated_over_ours']:5.2f} x   "
            f"reference {row['reference_over_ours']:5.2f} x   (aim {AIMS[name]})"
        )
    memory = results["log-softmax peak, MB"] = peaks()
    print(
        f"log-softmax of {ROWS} rows, V {VOCABULARY}: full {memory['full']:.0f} MB, ours {memory['ours']:.0f} MB, "
        f"{memory['ratio']:.1f} x (aim 10)"
    )
    print(json.dumps(results))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        log_softmax_peak(sys.argv[1])
    else:
        main()
