"""What one question's media cost from the frame cache, and what they cost to decode.

    python tests/benchmarks/frame_cache.py           # about 1 minute on 2 cores

CPU seconds of the process, with the files in the page cache; the arms take turns within every round; figures are
medians, ratios are taken within a round. "Compressed" reads the same bytes through zlib at its fastest setting, to show
why entries are stored as they are. Prints a table on stderr and JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbench_r1.media.cache import FrameCache, load_cached
from seedbench_r1.media.frames import load_media
from seedbench_r1.types import VideoConfig
from tests.benchmarks.input_path import HEIGHT, WIDTH, make_footage
from tests.media import texture


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(clip: Path, image: Path, folder: Path, rounds: int) -> dict[str, object]:
    config, fast = VideoConfig(), VideoConfig(reader="pyav")
    cache = FrameCache(folder, 10**9)
    cold = load_cached(clip, image, config, cache=cache)
    [entry] = folder.glob("*/*.frames")
    packed = zlib.compress(entry.read_bytes(), 1)

    def write() -> None:
        entry.unlink()
        load_cached(clip, image, config, cache=cache)

    def warm() -> None:
        [event] = load_cached(clip, image, config, cache=cache).events
        assert event.kind == "read"

    contestants: dict[str, Callable[[], object]] = {
        "decode": lambda: load_media(clip, image, config),
        "decode, --reader pyav": lambda: load_media(clip, image, fast),
        "decode and store": write,
        "read": warm,
        "decompress alone": lambda: zlib.decompress(packed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            seconds[name].append(cpu_seconds(work))
    ratios = {
        name: statistics.median(x / y for x, y in zip(seconds[name], seconds["read"], strict=True))
        for name in ("decode", "decode, --reader pyav")
    }
    assert cold.media.frames is not None
    return {
        "frames": list(cold.media.frames.shape),
        "entry_bytes": entry.stat().st_size,
        "compressed_bytes": len(packed),
        "cpu_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "over_read": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 10.0, 30.0], help="lengths of the clips")
    arguments = parser.parse_args()
    report: dict[str, object] = {"machine": {"cores": os.cpu_count()}}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        Image.fromarray(texture(HEIGHT, WIDTH, seed=2)).save(image)
        for seconds in arguments.seconds:
            name = f"{seconds:g} s"
            clip = make_footage(Path(folder) / f"{seconds:g}.mp4", seconds)
            found = compare(clip, image, Path(folder) / f"cache {name}", arguments.rounds)
            report[name] = found
            costs = ", ".join(f"{arm} {1000 * cost:.1f}" for arm, cost in found["cpu_seconds"].items())  # type: ignore
            times = ", ".join(f"{arm} {ratio:.0f}" for arm, ratio in found["over_read"].items())  # type: ignore
            print(f"clip of {name}: ms CPU: {costs}; times a read (target 20): {times}", file=sys.stderr)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
