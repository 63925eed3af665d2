"""The stored numbers of the rehearsed cases, each with the reason of its last change, and what counts as worse."""

from __future__ import annotations

import dataclasses
import gc
import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.rehearsal.accelerator import Stage
from tests.rehearsal.step import Case, rehearse

PATH = Path(__file__).with_name("baseline.json")
MORE_FLOPS, MORE_MEMORY = 0.01, 0.02  # shares of the stored number above which a case is worse

# In the tests: less than two minutes of one core together.
TESTED = (
    Case("7b", "care", processes=4),
    Case("3b", "care", processes=2),
    Case("7b", "care", lora=True),
    Case("3b", "sft", processes=2),
)
# Stored for trainers.estimate and the table of docs/training.md, and rehearsed when somebody asks for it.
CASES = (
    *TESTED,
    Case("3b", "care"),
    Case("3b", "care", lora=True),
    Case("3b", "care", processes=4),
    Case("3b", "care", processes=4, gradient_checkpointing=False),
    Case("7b", "care"),
    Case("7b", "care", processes=2),
    Case("7b", "care", processes=8),
    Case("7b", "care", processes=4, lora=True),
    Case("7b", "care", processes=4, prompt=4000),
    Case("7b", "care", processes=4, group_chunk=2),
    Case("7b", "care", processes=4, questions=4),
    Case("7b", "grpo", processes=4),
    Case("7b", "grpo-nokl", processes=4),
    Case("7b", "sft", processes=4),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """A stage in the baseline."""

    tflop: float
    peak_gb: float
    moved_gb: float
    collectives_gb: float
    kernels: int
    uploads: int
    synchronisations: int

    @staticmethod
    def of(stage: Stage) -> Numbers:
        """Rounded, so that the file can be read."""
        return Numbers(
            tflop=round(stage.flops / 1e12, 3),
            peak_gb=round(stage.peak / 1e9, 3),
            moved_gb=round(stage.moved / 1e9, 1),
            collectives_gb=round(stage.collectives / 1e9, 2),
            kernels=stage.kernels,
            uploads=stage.uploads,
            synchronisations=stage.synchronisations.total(),
        )


def rehearse_apart(case: Case, *, traced: bool = False, first: Callable[[], object] = int) -> dict[str, Stage]:
    """See rehearse; after `first`, in a process of its own: torch and transformers keep what they have seen.

    Processes are forked from one that has imported everything and done nothing: autograd does not outlive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([rehearse.__module__])
    with ProcessPoolExecutor(1, mp_context=context) as apart:
        return apart.submit(_rehearse_after, first, case, traced).result()


def _rehearse_after(first: Callable[[], object], case: Case, traced: bool) -> dict[str, Stage]:
    warnings.simplefilter("ignore", FutureWarning)
    # Garbage is collected between stages alone, so that peaks are the same every time.
    gc.disable()
    gc.freeze()
    first()
    return rehearse(case, traced=traced)


def read() -> dict[str, dict[str, Numbers]]:
    """Case -> stage -> numbers."""
    stored = json.loads(PATH.read_text(encoding="utf-8"))
    return {
        case: {stage: Numbers(**numbers) for stage, numbers in entry["stages"].items()}
        for case, entry in stored.items()
    }


def write(measured: dict[str, dict[str, Stage]], reason: str) -> None:
    """Replace the cases that were measured."""
    stored = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else {}
    for case, stages in measured.items():
        numbers = {name: dataclasses.asdict(Numbers.of(stage)) for name, stage in stages.items()}
        stored[case] = {"reason": reason, "stages": numbers}
    names = [case.name for case in CASES]
    stored = dict(sorted(stored.items(), key=lambda entry: names.index(entry[0]) if entry[0] in names else len(names)))
    PATH.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def worse(measured: dict[str, Stage], stored: dict[str, Numbers]) -> list[str]:
    """What is worse than stored: a sentence each."""
    found = []
    for name, stage in measured.items():
        if name not in stored:
            found.append(f"{name} is a new stage")
            continue
        now, then = Numbers.of(stage), stored[name]
        if now.tflop > then.tflop * (1 + MORE_FLOPS):
            found.append(f"{name}: {now.tflop:.2f} TFLOP, stored {then.tflop:.2f}")
        if now.peak_gb > then.peak_gb * (1 + MORE_MEMORY):
            found.append(f"{name}: a peak of {now.peak_gb:.2f} GB, stored {then.peak_gb:.2f}")
        if now.synchronisations > then.synchronisations:
            places = ", ".join(f"{place} {count}x" for place, count in stage.synchronisations.most_common())
            found.append(
                f"{name}: {now.synchronisations} host synchronisations, stored {then.synchronisations}: {places}"
            )
    return found


def peak_gb(stages: Iterable[Numbers]) -> float:
    """Of a whole step."""
    return max(numbers.peak_gb for numbers in stages)
