"""Stages: the whole way on a tiny checkpoint: evaluation, SFT, GRPO and CARE on the device against the CPU."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

from tests.gpu.stage_process import Place
from tests.tiny_models import make_tiny
from tests.trainers.toy import RESPONSE, plan_and_train, toy_config, write_toy, write_toy_model
from trainers.config import TrainConfig

STEPS = 4  # of a training
KEYS = ("loss", "reward", "bonus", "grad_norm", "length")  # of a step's metrics
# Relative, in float32: sums in another order on a GPU, in the first step, before anything has grown apart.
FIRST_LOSS = 1e-3
LATER = 1e-3  # of a continued training against one in a piece; atomic additions may differ by rounding


def evaluation(place: Place) -> None:
    """`evaluate` over a small benchmark of clips and images, greedily, in float32; and in bfloat16, answers untold."""
    from seedbench_r1.interface import evaluate
    from tests.small_benchmark import benchmark

    root, model = place.folder / "data", place.folder / "model"
    root.mkdir()
    benchmark(root)
    make_tiny(model, "qwen2_5_vl")
    answers: dict[str, dict[str, Any]] = {}
    runs = [("cpu", "float32"), (str(place.device), "float32"), (str(place.device), "bfloat16")]
    for number, (device, dtype) in enumerate(runs):
        run = evaluate(
            model=str(model),
            backend="transformers",
            data_root=root,
            runs_dir=place.folder / f"runs-{number}",
            device=device,
            dtype=dtype,
            max_new_tokens=16,
            limit=4 if place.smoke else None,
            temperature=0.0,
            workers=1 if place.smoke else 4,
        )
        records = list(run.records.values())
        failed = [str(record) for record in records if record.failure is not None]
        name = f"{number} {device} {dtype}"
        answers[name] = {record.question_id: record.generation for record in records}
        place.note(**{name: {"questions": len(records), "failed": len(failed)}})
        place.check(bool(records) and not failed, f"{name}: {len(failed)} of {len(records)} failed: {failed[:1]}")
    expected, found = list(answers.values())[:2]
    equal = sum(found[key].text == one.text for key, one in expected.items() if one and found[key])
    place.note(equal_answers=equal, of=len(expected))
    # Greedy tokens of random weights may flip where two are nearly tied.
    place.check(
        equal >= 0.9 * len(expected), f"{len(expected) - equal} of {len(expected)} answers differ from the CPU's"
    )


def training(place: Place) -> None:
    """SFT from random weights; then GRPO and CARE from what SFT has made: well-formed answers with any letter."""
    data = write_toy(place.folder / "data", {letter: RESPONSE.format(letter, letter) for letter in "ABCD"})
    raw = write_toy_model(place.folder / "raw", data)
    compare(place, "sft", raw, data)
    options = {"max_steps": 100, "learning_rate": 4e-3, "save_steps": 1000, "per_device_train_batch_size": 8}
    options |= {"gradient_accumulation_steps": 1, "device": "cpu"}
    made = plan_and_train(toy_config(raw, data, place.folder / "form", "sft", **options)).checkpoint
    assert made is not None
    for algo in ("care", "grpo"):
        compare(place, algo, made, data)


def compare(place: Place, algo: str, model: Path, data: Path) -> None:
    """One algorithm on the CPU, on the device, continued there from a checkpoint, and there in bfloat16."""
    steps = 2 if place.smoke else STEPS
    # 40 tokens: enough for a recorded graph on CUDA.
    options: dict[str, Any] = {"max_steps": steps, "max_completion_length": 16 if place.smoke else 40}
    if algo != "sft":
        options["gradient_accumulation_steps"] = 4  # all questions, so that some group has a spread

    def config(name: str, **changes: Any) -> TrainConfig:
        given = {"device": str(place.device), "dtype": "float32", **options, **changes}
        return toy_config(model, data, place.folder / f"{algo}-{name}", algo, **given)

    exact = trained(config("cpu", device="cpu"))
    found = trained(config("device"))
    stopped = trained(config("continued"), stop_after=steps // 2)
    continued = trained(config("continued"))
    half = trained(config("bfloat16", dtype="bfloat16", gradient_checkpointing=True))
    row: dict[str, Any] = {
        name: [[line.get(key) for key in KEYS] for line in lines]
        for name, lines in (("cpu", exact), ("device", found), ("bfloat16", half))
    }
    first, later = gap(found[:1], exact[:1]), gap(continued, found)
    place.note(**{algo: {"keys": KEYS, **row, "first_gap": first, "continued_gap": later}})
    place.check(len(stopped) == steps // 2, f"{algo}: stopped after {len(stopped)} steps, not {steps // 2}")
    place.check(len(continued) == steps, f"{algo}: {len(continued)} steps after continuing, not {steps}")
    place.check(first <= FIRST_LOSS, f"{algo}: the first step is {first:.2g} from the CPU's")
    place.check(later <= LATER, f"{algo}: continued, {later:.2g} from one in a piece")
    place.check(any(line["grad_norm"] for line in found), f"{algo}: no step had a gradient, which proves nothing")
    broken = [line["step"] for line in half if line.get("grad_norm") is None]
    place.check(not broken, f"{algo} in bfloat16: no finite gradient in steps {broken}")


def trained(config: TrainConfig, *, stop_after: int | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl after training, or after it was stopped as by a signal."""
    stop = threading.Event()

    def observe(metrics: Any) -> None:
        if metrics["step"] == stop_after:
            stop.set()

    plan_and_train(config, stop=stop, observe=observe)
    lines = (Path(config.out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def gap(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> float:
    """The largest difference of KEYS, relative to numbers above 1; infinite where only one side has a number."""
    largest = 0.0
    for one, other in zip(found, expected, strict=False):
        for key in KEYS:
            a, b = one.get(key), other.get(key)
            if (a is None) != (b is None):
                return math.inf
            if a is not None:
                largest = max(largest, abs(a - b) / max(1.0, abs(b)))
    return largest
