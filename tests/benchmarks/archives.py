"""200 archives of 1 MB with 5 wanted clips, from a hub on loopback: one after another, and eight at once.

python tests/benchmarks/archives.py
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hub_emulator import Hub, emulated_hub
from tests.rows import evaluation_row

N_ARCHIVES, N_MEMBERS, MEMBER_BYTES = 200, 10, 100_000
WANTED = {20: 4, 60: 2, 100: 8, 140: 0, 180: 5}  # archive -> place of its wanted clip
LATENCIES_S = (0.0, 0.1)  # before each answer with content: nothing, and what a distant server takes


def repository() -> tuple[dict[str, bytes], int]:
    """(its files, bytes of the archives before the last wanted clip, that clip included)."""
    clips = random.Random(0).randbytes(MEMBER_BYTES * N_MEMBERS)
    files: dict[str, bytes] = {}
    before = 0
    for number in range(N_ARCHIVES):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            for place in range(N_MEMBERS):
                name = f"wanted_{number}" if WANTED.get(number) == place else f"{number}_{place}"
                info = tarfile.TarInfo(f"{name}.mp4")
                info.size = MEMBER_BYTES
                tar.addfile(info, io.BytesIO(clips[place * MEMBER_BYTES :][:MEMBER_BYTES]))
        files[f"videos/EpicKitchens/batch_{number}.tar.gz"] = buffer.getvalue()
        share = 1.0 if number < max(WANTED) else (WANTED[number] + 1) / N_MEMBERS if number == max(WANTED) else 0.0
        before += int(share * len(buffer.getvalue()))
    rows = [evaluation_row(f"wanted_{number}", video_id="P") for number in WANTED]
    files["annotations/validation_L1.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for row in rows:
        files[f"images/EpicKitchens/{row['current_observation_basename']}"] = b"an image"
    return files, before


def measure(files: dict[str, bytes], latency_s: float, workers: int) -> tuple[float, int, int]:
    """(seconds, bytes that the client took, archives that were asked for) of one download by a process of its own."""
    hub = Hub(latency_s=latency_s)
    hub.add("datasets/ORG/NAME", files)
    with emulated_hub(hub), tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("seedbench-r1")), "data", "download", "--json"]
        command += ["--repo-id", "ORG/NAME", "--levels", "L1", "--to", f"{folder}/data", "--workers", str(workers)]
        began = time.monotonic()
        done = subprocess.run(
            command, env=hub.environment(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        seconds = time.monotonic() - began
        kept = sorted(path.name for path in Path(folder, "data", "videos").rglob("*.mp4"))
        assert kept == sorted(f"wanted_{number}.mp4" for number in WANTED), kept
    asked = {sent.path for sent in hub.sent if sent.path.startswith("videos/") and sent.server == "cdn"}
    return seconds, json.loads(done.stdout)["fetched_bytes"], len(asked)


def main() -> None:
    files, before = repository()
    print(f"{N_ARCHIVES} archives, {before / 1e6:.1f} MB until the end of the last wanted clip\n")
    print("| latency | connections | s | MB fetched | archives asked for | times faster |\n|---|---|---|---|---|---|")
    for latency_s in LATENCIES_S:
        alone = measure(files, latency_s, 1)
        for workers, (seconds, n_bytes, asked) in ((1, alone), (8, measure(files, latency_s, 8))):
            faster = f"{alone[0] / seconds:.1f}"
            print(f"| {latency_s:g} s | {workers} | {seconds:.1f} | {n_bytes / 1e6:.1f} | {asked} | {faster} |")


if __name__ == "__main__":
    main()
