"""Stages: training steps at real size with the trainers' own code, against the rehearsal and a reference style."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from seedbench_r1.types import Question
from tests.gpu import reference_style, shapes
from tests.gpu.measuring import GB, Meter, device_peaks
from tests.gpu.random_policy import MEDIA, PROMPT, full_groups, random_policy, response
from tests.gpu.stage_process import Place
from tests.rehearsal.hardware import headers_of
from trainers.checkpoints import TrainingState
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.estimate import estimate
from trainers.groups import Group
from trainers.grpo import grpo_step
from trainers.optimizer import Optimizer
from trainers.presets import PRESETS
from trainers.reference import Reference
from trainers.samplers import BuiltinSampler
from trainers.sft import sft_step
from trainers.shared_prefix import shared_prefix_attention

REHEARSED = Path(__file__).parents[1] / "rehearsal" / "baseline.json"
FULL_GB = 90  # what a full CARE step of the 3B takes by trainers.estimate (75), and room for context and fragments
MORE_MEMORY = 1.1  # times the rehearsal's peak: above it, it has missed something


@dataclass(frozen=True, slots=True)
class Training:
    """A policy of random weights at work."""

    meter: Meter
    config: TrainConfig
    state: TrainingState
    example: TrainingExample


class MeasuredSampler:
    """Draws `tokens` tokens a rollout as the built-in sampler does, and hands out rollouts of full length."""

    def __init__(self, training: Training, tokens: int) -> None:
        self._meter, self._config = training.meter, training.config
        self._builtin = BuiltinSampler(training.state.policy, replace(training.config, max_completion_length=tokens))
        self.drawn = 0  # tokens

    def sample(self, examples: Sequence[TrainingExample]) -> list[Group]:
        """See trainers.samplers.Sampler."""
        with self._meter.stage("rollouts"):
            groups = self._builtin.sample(examples)
        self.drawn += sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
        return full_groups(examples, self._config)


class MeasuredReference(Reference):
    """A reference whose passes are a stage of their own."""

    meter: Meter

    @contextlib.contextmanager
    def model(self) -> Iterator[Any]:
        """See Reference.model."""
        with self.meter.stage("reference"), super().model() as model:
            yield model


def care_3b(place: Place) -> None:
    """GRPO-CARE with LoRA on the 3B."""
    care(place, "3b", lora=True)


def care_7b(place: Place) -> None:
    """GRPO-CARE with LoRA on the 7B."""
    care(place, "7b", lora=True)


def care_3b_full(place: Place) -> None:
    """GRPO-CARE on all weights of the 3B; the optimiser in main memory where the card is too small for it."""
    small = place.device.type == "cuda" and torch.cuda.mem_get_info(place.device)[1] < FULL_GB * GB
    care(place, "3b", lora=False, optimizer_device="cpu" if small else "auto")


def care(place: Place, model: str, **changes: Any) -> None:
    """A step of ours, where its host waits, and a step in the reference's style, of the same policy."""
    full = 8 if place.smoke else 768
    with opened(place, model, "care", **changes) as training:
        step(training, decoded=4 if place.smoke else 40)  # kernels are chosen and memory is reserved
        training.meter.begin_again()
        drawn = step(training, decoded=full)
        ours = training.meter.numbers()
        rollouts_s = ours["rollouts"]["s"]
        place.note(ours=ours, seconds=total(ours), tokens_per_s=round(drawn / rollouts_s, 1))
        place.note(**against_rehearsal(place, training, model, ours))
        training.meter.begin_again()
        with training.meter.watching_synchronisations():
            step(training, decoded=3)  # as many as the rehearsal decodes
        place.note(waits_and_uploads=waits(training, model))
        training.meter.begin_again()
        in_reference_style(place, training, ours)


def in_reference_style(place: Place, training: Training, ours: dict[str, dict[str, float]]) -> None:
    """The same step in the reference's style; that memory does not suffice is a result."""
    full = 8 if place.smoke else 768
    completion = training.config.max_completion_length
    plain = reference_style.plain_tower(training.state.policy)
    with reference_style.on_plain_tower(training.state.policy, plain):
        try:
            reference_style.step(training, decoded=4 if place.smoke else 40, completion=completion)
            training.meter.begin_again()
            reference_style.step(training, decoded=full, completion=completion)
        except torch.OutOfMemoryError as error:
            place.note(reference_style=training.meter.numbers(), reference_style_error=str(error).splitlines()[0])
            return
    theirs = training.meter.numbers()
    ratios = {name: round(theirs[name]["s"] / ours[name]["s"], 2) for name in theirs if name in ours}
    place.note(reference_style=theirs, reference_style_seconds=total(theirs))
    place.note(times_as_long=ratios | {"step": round(total(theirs) / total(ours), 2)})


def other_trainings_3b(place: Place) -> None:
    """GRPO with a KL penalty, and SFT, with LoRA on the 3B."""
    for preset in ("grpo", "sft"):
        with opened(place, "3b", preset, lora=True) as training:
            step(training, decoded=4 if place.smoke else 40)
            training.meter.begin_again()
            step(training, decoded=8 if place.smoke else 256)
            numbers = training.meter.numbers()
            place.note(**{preset: numbers, f"{preset}_seconds": total(numbers)})
            place.note(**against_rehearsal(place, training, "3b", numbers))
        if place.device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def opened(place: Place, model: str, preset: str, **changes: Any) -> Iterator[Training]:
    """A policy with its reference and its optimiser, which has taken a step of zeros and so has its moments."""
    meter, nowhere = Meter(place.device), Path("nowhere")
    sizes: dict[str, Any] = {"dtype": "bfloat16", "gradient_accumulation_steps": 1, "decode_cache": "static", **changes}
    if place.smoke:
        model = "smoke"
        sizes |= {"max_completion_length": 40, "num_generations": 3}
    config = TrainConfig(model="random", data=nowhere, out=nowhere, preset=preset, **PRESETS[preset] | sizes)
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        with meter.stage("load"):
            policy = random_policy(model, config, place.device)
            # Before the reference, which may be a copy and then attends as the policy does.
            stack.enter_context(shared_prefix_attention(policy.model))
            # An average of all weights lies in main memory; on the device it is as a frozen reference.
            kind = "frozen" if config.reference == "ema" and not config.lora else config.reference
            reference = MeasuredReference(kind, policy, decay=config.ema_decay, every=config.ema_every)
            reference.meter = meter
            optimizer = Optimizer(policy.trainable(), config)
        with meter.stage("first update"):
            optimizer.step(config.learning_rate)
        place.note(**{f"opening {preset}": meter.numbers()})
        inputs = shapes.prompt(60) if place.smoke else shapes.prompt(PROMPT, MEDIA)
        question = Question("random", "train", "?", ("a", "b", "c", "d"), "A", None, None, "random")
        example = TrainingExample(question, response(config.max_completion_length, "A"), 0, inputs)
        yield Training(meter, config, TrainingState(policy, reference, optimizer), example)


def step(training: Training, *, decoded: int) -> int:
    """One step of the trainer's, of which `decoded` tokens a rollout are really drawn. Returns all that were.

    Raises ArithmeticError if the gradients' norm is not finite.
    """
    config, meter, optimizer = training.config, training.meter, training.state.optimizer

    def update() -> float:
        with meter.stage("update"):
            return optimizer.step(config.learning_rate)

    drawn = 0
    with meter.stage("policy"):
        if config.algo == "sft":
            sft_step(training.state.policy, optimizer, [training.example], config, lambda lengths: lengths)
            norm = update()
        else:
            sampler = MeasuredSampler(training, decoded)
            alone: Any = SimpleNamespace(max_over_ranks=lambda count: count, sum_over_ranks=lambda count: count)
            given: Any = sampler
            done = grpo_step(training.state, given, [training.example], config, 1, alone, update, lambda places: None)
            norm, drawn = done.grad_norm, sampler.drawn
    if not 0 < norm < float("inf"):
        raise ArithmeticError(f"the norm of the gradients is {norm}")
    return drawn


def total(stages: dict[str, dict[str, float]]) -> float:
    """Seconds of a step."""
    return round(sum(one["s"] for one in stages.values()), 3)


def rehearsed(training: Training, model: str) -> dict[str, dict[str, float]] | None:
    """The stored stages of this training, the vision tower's passes counted in; None: it has not been rehearsed."""
    config = training.config
    if config.optimizer_device == "cpu":
        return None
    stored = json.loads(REHEARSED.read_text(encoding="utf-8"))
    entry = stored.get(f"{model} {config.preset} x1{' lora' if config.lora else ''}")
    if entry is None:
        return None
    stages: dict[str, dict[str, float]] = entry["stages"]
    joined = {}
    for name, numbers in stages.items():
        if not name.endswith(" vision"):
            inner = stages.get(f"{name} vision", dict.fromkeys(numbers, 0.0))
            joined[name] = {key: value + inner[key] for key, value in numbers.items()}
            joined[name]["peak_gb"] = max(numbers["peak_gb"], inner["peak_gb"])
    return joined


def against_rehearsal(
    place: Place, training: Training, model: str, ours: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Peaks and TFLOP/s by stage, or without a rehearsal the step's peak against the estimate. Complains of more."""
    expected, peaks = rehearsed(training, model), device_peaks(place.device, shapes.PEAKS)
    if expected is None:
        return against_estimate(place, training, model, ours)
    rows: dict[str, dict[str, float]] = {}
    for name, one in ours.items():
        tflops = expected[name]["tflop"] / one["s"]
        rows[name] = {"peak_gb": one["peak_gb"], "rehearsed_peak_gb": expected[name]["peak_gb"]}
        rows[name]["tflops"] = round(tflops, 2)
        if peaks:
            rows[name]["share_of_peak"] = round(tflops * 1e12 / peaks[0], 3)
        too_much = one["peak_gb"] > MORE_MEMORY * expected[name]["peak_gb"]
        place.check(
            not too_much,
            f"{name}: a peak of {one['peak_gb']:.1f} GB, rehearsed were {expected[name]['peak_gb']:.1f}",
        )
    return {"rehearsal": rows}


def against_estimate(place: Place, training: Training, model: str, ours: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The step's peak and that of trainers.estimate, in GB. Complains of more."""
    config, folder = training.config, place.folder / f"headers-{training.config.preset}"
    guess = estimate(config, headers_of("smoke" if place.smoke else model, folder), 1)
    expected, peak = guess.device_bytes(config) / GB, max(one["peak_gb"] for one in ours.values())
    place.check(peak <= MORE_MEMORY * expected, f"a peak of {peak:.1f} GB, estimated were {expected:.1f}")
    return {f"{config.preset} against the estimate": {"peak_gb": peak, "estimated_gb": round(expected, 2)}}


def waits(training: Training, model: str) -> dict[str, dict[str, Any]]:
    """By stage: how often the host waits or copies, what the rehearsal counts of both, and where most happen."""
    expected = rehearsed(training, model) or {}
    return {
        stage: {
            "count": places.total(),
            "rehearsed": sum(expected[stage][key] for key in ("synchronisations", "uploads"))
            if stage in expected
            else None,
            "most": dict(places.most_common(8)),
        }
        for stage, places in training.meter.synchronisations.items()
    }
