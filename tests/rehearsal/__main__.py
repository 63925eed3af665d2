"""A training step at real size without a GPU, counted by stage.

python -m tests.rehearsal --model 7b --algo care --processes 4 [-P 1480] [-C 768] [-G 8] [--lora] [--traced]
python -m tests.rehearsal --stored                       the cases of the baseline, compared with it
python -m tests.rehearsal --stored --write-baseline "REASON"
"""

from __future__ import annotations

import argparse
import math
import sys

from tests.rehearsal import baseline
from tests.rehearsal.accelerator import Stage
from tests.rehearsal.step import MEDIA, Case
from trainers.presets import PRESETS

COLUMNS = ("stage", "TFLOP", "peak GB", "moved GB", "comm. GB", "kernels", "uploads", "syncs")
SHOWN = 12  # places and holders of a stage
MEDIA_TOKENS = math.prod(MEDIA[0]) + math.prod(MEDIA[1]) + 4  # with the marks around them


def table(case: Case, stages: dict[str, Stage]) -> str:
    """80 columns. The peak of the last line is that of the whole step."""
    lines = [case.name, f"{COLUMNS[0]:<17}" + "".join(f"{column:>9}" for column in COLUMNS[1:])]
    rows = {name: baseline.Numbers.of(stage) for name, stage in stages.items()}
    for name, row in rows.items():
        counts = f"{row.kernels:>9,}{row.uploads:>9,}{row.synchronisations:>9,}"
        volumes = f"{row.tflop:>9.2f}{row.peak_gb:>9.2f}{row.moved_gb:>9.1f}{row.collectives_gb:>9.1f}"
        lines.append(f"{name:<17}{volumes}{counts}")
    tflop = sum(row.tflop for row in rows.values())
    lines.append(f"{'step':<17}{tflop:>9.2f}{baseline.peak_gb(rows.values()):>9.2f}")
    return "\n".join(lines)


def details(stages: dict[str, Stage]) -> str:
    """Where the host waits, and what is live at each stage's peak."""
    lines = []
    for name, stage in stages.items():
        lines += [f"\n{name}: the host waits"]
        lines += [f"{count:>9,}  {place}" for place, count in stage.synchronisations.most_common(SHOWN)]
        lines += [f"{name}: GB live at the peak, by operation and place"]
        lines += [f"{size / 1e9:>9.3f}  {holder}" for holder, size in stage.holders.most_common(SHOWN)]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("3b", "7b", "smoke"), default="7b")
    parser.add_argument("--algo", choices=tuple(PRESETS), default="care", help="a preset of trainers.config")
    parser.add_argument("--processes", type=int, default=1, help="with --fsdp above 1")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("-P", type=int, default=Case.prompt, help="tokens of the prompt")
    parser.add_argument("-C", type=int, help="tokens of a rollout or response; by default the preset's most")
    parser.add_argument("-G", type=int, default=Case.group, help="rollouts of a question")
    parser.add_argument("--questions", type=int, default=1, help="of this process")
    parser.add_argument("--group-chunk", type=int)
    parser.add_argument("--traced", action="store_true", help="also where the host waits, and what the peak holds")
    parser.add_argument("--stored", action="store_true", help="all cases of the baseline")
    parser.add_argument("--write-baseline", metavar="REASON", help="store the numbers of these cases, and why")
    given = parser.parse_args()
    if given.P < MEDIA_TOKENS:
        parser.error(f"-P {given.P}: the clip and the image alone take {MEDIA_TOKENS:,} tokens")
    return given


def main() -> int:
    given = arguments()
    case = Case(
        model=given.model,
        preset=given.algo,
        processes=given.processes,
        lora=given.lora,
        prompt=given.P,
        completion=given.C,
        group=given.G,
        questions=given.questions,
        group_chunk=given.group_chunk,
    )
    if given.write_baseline is not None and not given.stored and case not in baseline.CASES:
        print(f"{case.name} is not among the stored cases. Fix: add it to tests/rehearsal/baseline.py:CASES")
        return 2
    stored, measured, failed = baseline.read(), {}, False
    for chosen in baseline.CASES if given.stored else (case,):
        stages = measured[chosen.name] = baseline.rehearse_apart(chosen, traced=given.traced)
        print(table(chosen, stages), flush=True)
        if given.traced:
            print(details(stages))
        if chosen.name in stored and given.write_baseline is None:
            complaints = baseline.worse(stages, stored[chosen.name])
            failed = failed or bool(complaints)
            print("\n".join(complaints) or "not worse than the baseline")
        print(flush=True)
    if given.write_baseline is not None:
        baseline.write(measured, given.write_baseline)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
