"""Run directories of any size, quickly: correlated answers, reasoning, verdicts. For tests and benchmarks."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.kinds import LAW
from seedbench_r1.parsing import PARSER_VERSION
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.protocol import protocol_id
from seedbench_r1.runs.records import SCHEMA, run_identity
from seedbench_r1.runs.training_snapshot import Overlap, TrainingSnapshot, curves, write_snapshot
from seedbench_r1.types import (
    DOMAINS,
    LETTERS,
    ModelInfo,
    RunManifest,
    SamplingConfig,
    VideoConfig,
    to_json,
)

# The real sizes; L3 by domain. Videos: L1 as 138 recordings (assumed), L3 nearly one question each.
FULL = {"L1": 2432, "L2": 923, "L3": 1321}
VIDEOS = {"L1": 138, "L2": 300, "L3": 1113}
SMALL = {"L1": 60, "L2": 40, "L3": 60}
L3_SHARES = (439, 295, 183, 404)
RULES = "rules/v1"

# Words that do not exist, as varied as prose: compressed, the text is about as large as real reasoning is.
SYLLABLES = ("ka", "to", "min", "ser", "lu", "pan", "vo", "ri", "den", "wash", "be", "cup")
WORDS = tuple(a + b + c for a in SYLLABLES for b in SYLLABLES for c in ("", *SYLLABLES))
ACTIONS = ("open the fridge", "wash the cup", "close the drawer", "add water", "cut the onion", "pick up the pan")


@dataclass(frozen=True)
class RunSpec:
    """How one synthetic run differs from the others."""

    name: str
    ability: float = 0.0  # logit added to every question
    step: int | None = None
    seed: int = 0
    frames: int = 16
    consistent: float = 0.7  # chance of a consistent verdict
    judges: tuple[str, ...] = (RULES,)
    answered: float = 1.0  # share of the questions that were reached
    failed: float = 0.0  # share of failures
    unparsed: float = 0.0
    truncated: float = 0.0
    bare: float = 0.02  # share of answers without reasoning
    limit: int | None = None  # per level
    reasoning_chars: int = 120
    levels: tuple[str, ...] = ("L1", "L2", "L3")
    data_version: str = "a"
    base_model: str | None = "Qwen2.5-VL-7B-Instruct"
    algorithm: str | None = "grpo"
    selected_from_k: int | None = None
    commit: str = "0123456789ab"
    training: str | None = None  # the training this is a checkpoint of: the run then keeps curves up to `step`
    seen: int = 0  # questions of the run that the training has seen


@dataclass(frozen=True)
class Benchmark:
    """The questions all runs share, with how hard each is."""

    questions: list[dict[str, Any]]
    difficulty: list[float]  # logit, a part of it shared by the questions of one video
    sizes: dict[str, int]


def make_benchmark(sizes: dict[str, int] | None = None, seed: int = 0) -> Benchmark:
    """Questions of every level, with the real number of videos at full size."""
    sizes = sizes or SMALL
    source = random.Random(seed)
    questions, difficulty = [], []
    for level, n in sizes.items():
        n_videos = max(2, round(VIDEOS[level] * n / FULL[level]))
        of_video = [source.gauss(0.0, 0.7) for _ in range(n_videos)]
        domains = source.choices(DOMAINS, L3_SHARES, k=n) if level == "L3" else [None] * n
        for number in range(n):
            video = number % n_videos
            difficulty.append(of_video[video] + source.gauss(0.0, 1.0))
            options = source.sample(ACTIONS, 4)
            questions.append(
                {
                    "question_id": f"{level}/{number}",
                    "split": level,
                    "text": "What should I do next to make tea?",
                    "options": options,
                    "gold": source.choice(LETTERS),
                    "video": f"videos/{level}/{number}.mp4",
                    "image": f"images/{level}/{number}.png",
                    "cluster": f"{level}-P{video:04d}",
                    "domain": domains[number],
                    "task_goal": "make tea",
                    "progress": [{"narration": "fill the kettle", "start_frame": 10, "stop_frame": 60}],
                }
            )
    return Benchmark(questions, difficulty, sizes)


def write_run(folder: Path, spec: RunSpec, benchmark: Benchmark) -> Path:
    """One run directory, as `eval` and `judge` leave it."""
    path = folder / spec.name
    path.mkdir(parents=True)
    seen: dict[str, int] = {}
    chosen = []
    for place, question in enumerate(benchmark.questions):
        seen[question["split"]] = seen.get(question["split"], 0) + 1
        in_limit = spec.limit is None or seen[question["split"]] <= spec.limit
        if question["split"] in spec.levels and in_limit:
            chosen.append((place, question))
    _write_lines(path / "questions.jsonl", [question for _, question in chosen])
    (path / "manifest.json").write_text(json.dumps(to_json(manifest(spec, benchmark))), encoding="utf-8")
    if spec.training is not None:
        write_snapshot(path, snapshot(spec, len(chosen)))
    records, verdicts = _answers(spec, benchmark, chosen)
    _write_lines(path / "records.jsonl", records)
    if verdicts:
        _write_lines(path / "verdicts.jsonl", verdicts)
    return path


def write_runs(folder: Path, specs: list[RunSpec], benchmark: Benchmark) -> list[Path]:
    return [write_run(folder, spec, benchmark) for spec in specs]


def sweep(n_runs: int, **changes: Any) -> list[RunSpec]:
    """n runs of rising ability, as checkpoints of one training."""
    return [
        RunSpec(name=f"run-{i:02d}", ability=1.2 * i / max(1, n_runs - 1), step=100 * (i + 1), seed=i, **changes)
        for i in range(n_runs)
    ]


def manifest(spec: RunSpec, benchmark: Benchmark) -> RunManifest:
    n_total = {level: {"all": n} for level, n in benchmark.sizes.items() if level in spec.levels}
    for question in benchmark.questions:
        if question["domain"] is not None and "L3" in n_total:
            n_total["L3"][question["domain"]] = n_total["L3"].get(question["domain"], 0) + 1
    video = dataclasses.replace(VideoConfig(), max_frames=spec.frames)
    return RunManifest(
        schema=SCHEMA,
        protocol="standard",
        protocol_id=protocol_id(DEFAULT_TEMPLATE, video, SamplingConfig()),
        template=DEFAULT_TEMPLATE,
        video=video,
        sampling=SamplingConfig(seed=spec.seed),
        parser_version=PARSER_VERSION,
        n_total=n_total,
        dataset_hash={level: f"{spec.data_version}{level.lower()}" * 16 for level in n_total},
        model=ModelInfo(
            path=f"/home/someone/checkpoints/{spec.name}",
            name=spec.name,
            fingerprint=f"{spec.seed:016x}",
            base_model=spec.base_model,
            algorithm=spec.algorithm,
            step=spec.step,
            architecture="Qwen2_5_VLForConditionalGeneration",
            selected_from_k=spec.selected_from_k,
        ),
        backend="fake",
        dtype="float32",
        seed=spec.seed,
        versions={"seedbench-r1": "0.1.0", "commit": spec.commit},
        command=f"seedbench-r1 eval --model /home/someone/checkpoints/{spec.name}",
        machine="c0ffee",
        created_utc="2026-01-01T00:00:00Z",
        updated_utc="2026-01-01T01:00:00Z",
        weights_sha256=f"{spec.seed:064x}",
        completed_utc="2026-01-01T01:00:00Z",
    )


def snapshot(spec: RunSpec, n_questions: int) -> TrainingSnapshot:
    """Curves of a training, the same for all of its checkpoints: rewards that rise, a bonus only for care."""
    source = random.Random(spec.training)
    goal, care = source.uniform(0.6, 0.9), spec.algorithm == "care"
    lines = []
    for step in range(1, (spec.step or 0) + 1):
        learned = goal * (1 - math.exp(-3 * step / 1500)) / (1 - math.exp(-3))
        if spec.algorithm == "sft":
            noise = math.exp(source.gauss(0, 0.1))
            lines.append(
                {"step": step, "loss": (0.3 + math.exp(-step / 90)) * noise, "length": 90.0, "grad_norm": noise}
            )
            continue
        accuracy = min(1.0, max(0.0, 0.3 + 0.6 * learned + source.gauss(0, 0.12)))
        bonus = 0.5 * accuracy * min(1.0, learned + 0.2) if care else 0.0
        line: dict[str, Any] = {"step": step, "accuracy": accuracy, "bonus": bonus, "reward": accuracy + bonus}
        line |= {"kl": None if care else 0.4 * learned + abs(source.gauss(0, 0.02))}
        line |= {"length": 180 + (60 if care else -70) * learned + source.gauss(0, 14)}
        line |= {"grad_norm": math.exp(source.gauss(0.2, 0.5)), "loss": source.gauss(0, 0.02)}
        if step % 100 == 0:
            line["heldout"] = {"n": 64, "accuracy": 0.3 + 0.5 * learned + source.gauss(0, 0.02)}
        lines.append(line)
    overlap = Overlap(spec.seen, n_questions, files=1, unknown=0)
    return TrainingSnapshot(f"{spec.training:0>16}", spec.step, curves(lines), overlap)


def _answers(
    spec: RunSpec, benchmark: Benchmark, chosen: list[tuple[int, dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    run = run_identity(manifest(spec, benchmark))
    source, luck = random.Random(spec.seed + 1), random.Random(spec.seed + 2)
    right = [luck.random() < 1 / (1 + math.exp(hard - spec.ability)) for hard in benchmark.difficulty]
    records, verdicts = [], []
    for number, (place, question) in enumerate(chosen):
        if number >= spec.answered * len(chosen):
            break
        record = {name: question[name] for name in ("question_id", "split", "domain", "cluster")}
        written = {"run": run, "law": LAW}
        if source.random() < spec.failed:
            records.append(record | {"failure": {"kind": "media_error", "message": "0 of 16 frames decoded"}} | written)
            continue
        answered = _answer(spec, source, question, right[place])
        records.append(record | answered | {"reader": "decord"} | written)
        nothing = not answered["parsed"]["reasoning"] or answered["parsed"]["answer"] is None
        for judge in spec.judges:
            consistent = False if nothing else source.random() < spec.consistent
            reason = "no reasoning was given" if nothing else "The reasoning names what the answer picks."
            verdicts.append(
                {"question_id": question["question_id"], "consistent": consistent, "reason": reason, "judge_id": judge}
            )
    return records, verdicts


def _answer(spec: RunSpec, source: random.Random, question: dict[str, Any], right: bool) -> dict[str, Any]:
    gold = question["gold"]
    letter: str | None = gold if right else source.choice([other for other in LETTERS if other != gold])
    reasoning = "" if source.random() < spec.bare else _reasoning(source, spec.reasoning_chars)
    draw, outcome, finish, said = source.random(), "answered", "stop", letter
    if draw < spec.unparsed:
        outcome, letter, said = "unparsed", None, "I am not sure"
    elif draw < spec.unparsed + spec.truncated:
        outcome, finish, letter, said = "truncated", "length", None, ""
    text = f"<think>{reasoning}</think>" + (f"<answer>{said}</answer>" if outcome != "truncated" else "")
    shown = said if outcome != "truncated" else text
    return {
        "generation": {
            "text": text,
            "finish_reason": finish,
            "n_prompt_tokens": 1800,
            "n_tokens": 8 + len(reasoning) // 4,
            "latency_s": 1.25,
        },
        "parsed": {
            "reasoning": reasoning,
            "answer": letter,
            "answer_text": shown,
            "format_ok": outcome != "truncated",
        },
        "score": {"outcome": outcome, "credit": float(letter == gold), "strict_credit": float(letter == gold)},
    }


def _reasoning(source: random.Random, chars: int) -> str:
    return " ".join(source.choices(WORDS, k=max(2, chars // 8)))[:chars].strip()


def _write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    lines = [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
