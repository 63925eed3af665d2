"""What it costs to turn one clip into patches: bare decord, this package, and the reference's libraries.

    python tests/benchmarks/input_path.py            # about 3 minutes on 2 cores

CPU seconds of the whole process (all threads); the arms take turns within every round, so that a busy machine slows
all of them; ratios are medians over the rounds. Then the throughput of the frame loader with one and two workers, in
wall-clock time, again in turns. Prints a table on stderr and JSON on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbench_r1.media.frames import choose_frames, load_media, target_size
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.media.probe import probe_clip
from seedbench_r1.types import Media, Question, Reader, VideoConfig
from tests.media import texture

CONFIG = VideoConfig()
HEIGHT, WIDTH, FPS = 256, 456, 30  # EPIC-KITCHENS clips as commonly distributed
KEYFRAME_DISTANCE = 250  # x264's own default


def make_footage(path: Path, seconds: float, keyframe_distance: int = KEYFRAME_DISTANCE) -> Path:
    """A head-mounted camera, roughly: the view pans, rolls and zooms, something near crosses it, with sensor noise."""
    far = Image.fromarray(texture(HEIGHT * 3, WIDTH * 3))
    near = Image.fromarray(texture(HEIGHT, WIDTH, seed=1))
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        x264 = f"keyint={keyframe_distance}:bframes=3"
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "x264-params": x264})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(int(seconds * FPS)):
            t = index / FPS
            roll, zoom = 0.1 * np.sin(1.3 * t), 1 + 0.15 * np.sin(0.7 * t)
            x, y = WIDTH * (1 + 0.7 * np.sin(0.9 * t)), HEIGHT * (1 + 0.5 * np.sin(1.7 * t))
            turn = (zoom * np.cos(roll), -zoom * np.sin(roll), x, zoom * np.sin(roll), zoom * np.cos(roll), y)
            view = far.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR)
            at = int(WIDTH * (0.4 + 0.4 * np.sin(2.1 * t))), int(HEIGHT * (0.4 + 0.2 * np.cos(1.1 * t)))
            view.paste(near.crop((0, 0, WIDTH // 4, HEIGHT // 3)), at)
            noisy = np.asarray(view).astype(np.int16) + rng.integers(-4, 5, (HEIGHT, WIDTH, 1), dtype=np.int16)
            picture = av.VideoFrame.from_ndarray(np.clip(noisy, 0, 255).astype(np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def arms(clip: Path, image: Path) -> dict[str, Callable[[], object]]:
    """Each arm starts from the file's path; all but the first end with patches of the same frames and size."""
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
    import torch
    from qwen_vl_utils import fetch_video
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    from seedbench_r1.models.qwen_vl import frames_to_patches

    torch.set_num_threads(1)
    info = probe_clip(clip)
    indices = choose_frames(info.n_frames, info.native_fps, CONFIG)
    height, width = target_size(
        info.height, info.width, min_pixels=CONFIG.min_pixels, max_pixels=CONFIG.max_pixels, multiple=28
    )
    processor = Qwen2VLVideoProcessor(patch_size=14, temporal_patch_size=2, merge_size=2, cap_pixels_per_frame=False)
    element = {
        "video": str(clip),
        "fps": CONFIG.fps,
        "min_frames": CONFIG.min_frames,
        "max_frames": CONFIG.max_frames,
        "resized_height": height,
        "resized_width": width,
    }
    sizes = {"shortest_edge": height * width, "longest_edge": height * width}  # per frame

    def bare_decord() -> np.ndarray:
        return decord.VideoReader(str(clip), num_threads=1).get_batch(indices).asnumpy()

    def ours(reader: Reader) -> torch.Tensor:
        media = load_media(clip, image, dataclasses.replace(CONFIG, reader=reader))
        assert media.reader == reader
        assert media.frames is not None
        return frames_to_patches(media.frames, patch=14, temporal_patch=2, merge=2)

    def reference(resize_again: bool) -> torch.Tensor:
        frames = fetch_video(element)
        done = processor(
            videos=[frames], do_sample_frames=False, do_resize=resize_again, size=sizes, return_tensors="pt"
        )
        return done["pixel_values_videos"]

    shapes = {tuple(patches.shape) for patches in (ours("decord"), reference(True), reference(False))}
    if len(shapes) > 1 or not torch.equal(ours("decord"), ours("pyav")):
        raise SystemExit(f"the arms do not make the same patches: {shapes}")
    return {
        "bare decord": bare_decord,
        "ours": lambda: ours("decord"),
        "ours, --reader pyav": lambda: ours("pyav"),
        "reference": lambda: reference(True),
        "reference, resized once": lambda: reference(False),
        "probe alone": lambda: probe_clip(clip),
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(clip: Path, image: Path, rounds: int) -> dict[str, object]:
    contestants = arms(clip, image)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            seconds[name].append(cpu_seconds(work))

    def ratio(above: str, below: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[above], seconds[below], strict=True))

    return {
        "cpu_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ours_over_bare_decord": ratio("ours", "bare decord"),
        "ours_pyav_over_bare_decord": ratio("ours, --reader pyav", "bare decord"),
        "reference_over_ours": ratio("reference", "ours"),
        "reference_over_ours_pyav": ratio("reference", "ours, --reader pyav"),
        "reference_resized_once_over_ours": ratio("reference, resized once", "ours"),
        "probe_over_bare_decord": ratio("probe alone", "bare decord"),
    }


def loader_seconds(clip: Path, image: Path, workers: int, n_clips: int) -> float:
    """Wall-clock seconds for `n_clips` clips, the workers' start not counted."""
    options = ("a", "b", "c", "d")
    items = [Question(f"L1/{i}", "L1", "?", options, "A", clip, image, "v", None, "") for i in range(n_clips)]
    with FrameLoader(CONFIG, workers=workers, timeout_s=60.0) as loader:
        for _ in loader.stream(items[: 4 * workers]):  # every worker has started and imported its libraries
            pass
        started = time.perf_counter()
        results = [media for _, media in loader.stream(items)]
        elapsed = time.perf_counter() - started
    if not all(isinstance(media, Media) for media in results):
        raise SystemExit(f"clips failed: {results}")
    return elapsed


def scaling(clip: Path, image: Path, rounds: int, n_clips: int) -> dict[str, object]:
    ratios, one, two = [], [], []
    for _ in range(rounds):
        one.append(loader_seconds(clip, image, 1, n_clips))
        two.append(loader_seconds(clip, image, 2, n_clips))
        ratios.append(one[-1] / two[-1])
    return {
        "clips_per_second": {
            "1 worker": n_clips / statistics.median(one),
            "2 workers": n_clips / statistics.median(two),
        },
        "two_workers_over_one": statistics.median(ratios),
        "ratios": ratios,
    }


def print_table(report: dict[str, dict]) -> None:
    cost, throughput = report["one_clip"], report["loader"]
    for name, seconds in cost["cpu_seconds"].items():
        print(f"{name:<28} {1000 * seconds:8.1f} ms CPU", file=sys.stderr)
    for label, name, target in (
        ("ours / bare decord", "ours_over_bare_decord", "   (target: at most 1.2)"),
        ("ours, pyav / bare decord", "ours_pyav_over_bare_decord", ""),
        ("reference / ours", "reference_over_ours", "   (target: at least 1.5)"),
        ("reference / ours, pyav", "reference_over_ours_pyav", "   (target: at least 1.5)"),
        ("reference, once / ours", "reference_resized_once_over_ours", ""),
    ):
        print(f"{label:<28} {cost[name]:8.2f}{target}", file=sys.stderr)
    faster = throughput["two_workers_over_one"]
    print(f"{'2 workers / 1 worker':<28} {faster:8.2f}   (target: at least 1.5)", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the clip for the arms")
    parser.add_argument("--keyframe-distance", type=int, default=KEYFRAME_DISTANCE, help="frames, at most")
    parser.add_argument("--clips", type=int, default=24, help="clips of 10 s for the loader")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        Image.fromarray(texture(HEIGHT, WIDTH, seed=2)).save(image)
        long = make_footage(Path(folder) / "long.mp4", arguments.seconds, arguments.keyframe_distance)
        short = make_footage(Path(folder) / "short.mp4", 10.0)
        report = {
            "clip": {
                "seconds": arguments.seconds,
                "size": [HEIGHT, WIDTH],
                "fps": FPS,
                "keyframe_distance": arguments.keyframe_distance,
                "bits_per_second": round(8 * long.stat().st_size / arguments.seconds),
            },
            "one_clip": compare(long, image, arguments.rounds),
            "loader": scaling(short, image, arguments.rounds, arguments.clips),
            "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        }
    print_table(report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
