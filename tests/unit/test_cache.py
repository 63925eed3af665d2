"""The frame cache: the same pixels as without it, whatever happens to its files. About 12 s."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.plan import plan
from seedbench_r1.media import cache as frame_cache
from seedbench_r1.media.cache import (
    N_PARTS,
    STALE_S,
    CachedMedia,
    FrameCache,
    entry_key,
    load_cached,
    media_loader,
    read_entry,
)
from seedbench_r1.media.container import MediaError
from seedbench_r1.media.frames import load_image, load_media
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.runs.directory import load_run
from seedbench_r1.types import Media, Question, VideoConfig
from tests.evaluation import evaluate
from tests.forked import Forked, Server
from tests.media import OPEN, make_clip, make_image
from tests.small_benchmark import copy_of, write_script

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = VideoConfig()
SIZES = [VideoConfig(image_max_pixels=28 * 28 * n) for n in range(40, 80)]  # 40 entries of one image


def same(one: Media, other: Media) -> bool:
    fields = [f.name for f in dataclasses.fields(Media) if f.name not in ("frames", "image")]
    return (
        all(getattr(one, name) == getattr(other, name) for name in fields)
        and np.array_equal(one.image, other.image)
        and (np.array_equal(one.frames, other.frames) if one.frames is not None else other.frames is None)
    )


def kinds(cached: CachedMedia) -> list[str]:
    return [event.kind for event in cached.events]


def entries(cache: FrameCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*.frames"))


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "cache", 10**9)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image.png", size=(240, 320))


# ---------------------------------------------------------------- the same as without it


@pytest.mark.parametrize("x264", [None, "keyint=12", OPEN], ids=["no clip", "closed", "open"])
def test_what_is_read_is_what_was_decoded(tmp_path: Path, cache: FrameCache, image: Path, x264: str | None) -> None:
    video = make_clip(tmp_path / "clip.mp4", x264=x264) if x264 else None
    plain = load_media(video, image, CONFIG)
    cold = load_cached(video, image, CONFIG, cache=cache)
    warm = load_cached(video, image, CONFIG, cache=cache)
    assert (kinds(cold), kinds(warm)) == (["written"], ["read"])
    assert same(cold.media, plain)
    assert same(warm.media, plain)
    assert (warm.media.reader_note is not None) == (x264 == OPEN)
    for pixels in (warm.media.image, warm.media.frames):
        assert pixels is None or (pixels.flags.writeable and pixels.dtype == np.uint8)


def test_a_question_without_an_image_is_kept_too(tmp_path: Path, cache: FrameCache) -> None:
    video = make_clip(tmp_path / "clip.mp4")
    for expected in ("written", "read"):
        result = load_cached(video, None, CONFIG, cache=cache)
        assert kinds(result) == [expected]
        assert same(result.media, load_media(video, None, CONFIG))


def test_a_file_is_known_by_what_it_is_not_by_its_place(tmp_path: Path, cache: FrameCache, image: Path) -> None:
    load_cached(None, image, CONFIG, cache=cache)
    moved = tmp_path / "elsewhere" / "another.name"
    moved.parent.mkdir()
    shutil.copy2(image, moved)  # keeps the time of change
    assert kinds(load_cached(None, moved, CONFIG, cache=cache)) == ["read"]
    os.utime(moved, ns=(0, moved.stat().st_mtime_ns + 1))
    assert kinds(load_cached(None, moved, CONFIG, cache=cache)) == ["written"]
    status = image.stat()
    data = bytearray(image.read_bytes())
    make_image(image, size=(120, 160), seed=5)
    image.write_bytes(image.read_bytes()[: len(data)].ljust(len(data), b"\0"))
    os.utime(image, ns=(0, status.st_mtime_ns))  # other content, the same size and time
    changed = load_cached(None, image, CONFIG, cache=cache)
    assert kinds(changed) == ["written"]
    assert same(changed.media, load_media(None, image, CONFIG))


def test_every_field_of_the_video_settings_makes_another_entry() -> None:
    keys = {entry_key(["a", "b"], CONFIG, has_clip=True), entry_key(["a", "b"], CONFIG, has_clip=False)}
    # preprocess says what others do to the pixels.
    names = [field.name for field in dataclasses.fields(VideoConfig) if field.name != "preprocess"]
    for name in names:
        value = "pyav" if name == "reader" else getattr(CONFIG, name) + 1
        keys.add(entry_key(["a", "b"], dataclasses.replace(CONFIG, **{name: value}), has_clip=True))
    assert len(keys) == 2 + len(names)
    processed = dataclasses.replace(CONFIG, preprocess="processor")
    assert entry_key(["a", "b"], processed, has_clip=True) in keys


@pytest.mark.parametrize("library", ["pillow", "av", CONFIG.reader])
def test_another_version_of_what_makes_the_pixels_makes_another_entry(monkeypatch, library: str) -> None:
    before = entry_key(["a"], CONFIG, has_clip=True)
    known = frame_cache._version
    monkeypatch.setattr(frame_cache, "_version", lambda name: "newer" if name == library else known(name))
    assert entry_key(["a"], CONFIG, has_clip=True) != before


def test_failures_are_not_kept(tmp_path: Path, cache: FrameCache, image: Path) -> None:
    data = image.read_bytes()
    image.write_bytes(data[:100])
    with pytest.raises(MediaError, match="cannot be read as an image"):
        load_cached(None, image, CONFIG, cache=cache)
    with pytest.raises(MediaError, match="no such file"):
        load_cached(tmp_path / "absent.mp4", make_image(tmp_path / "b.png"), CONFIG, cache=cache)
    assert entries(cache) == []
    image.write_bytes(data)
    assert kinds(load_cached(None, image, CONFIG, cache=cache)) == ["written"]


def test_a_file_replaced_while_it_is_decoded_is_not_kept(
    cache: FrameCache, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced_meanwhile(*what: object) -> Media:
        make_image(image, size=(240, 320), seed=9)
        return load_media(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(frame_cache, "load_media", replaced_meanwhile)
    assert kinds(load_cached(None, image, CONFIG, cache=cache)) == []
    assert entries(cache) == []


# ---------------------------------------------------------------- damage


def damages(data: bytes) -> list[bytes]:
    found = [b"", data[:5], data[:16], data[:40], data[: len(data) // 2], data[:-1], data + b"\0", bytes(len(data))]
    for at in (0, 8, 9, 12, 16, 30, 200, len(data) // 2, len(data) - 1):
        found.append(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return found


def test_a_damaged_entry_is_dropped_and_decoded_anew(cache: FrameCache, image: Path) -> None:
    plain = load_cached(None, image, CONFIG, cache=cache).media
    [entry] = entries(cache)
    whole = entry.read_bytes()
    for damaged in damages(whole):
        entry.write_bytes(damaged)
        again = load_cached(None, image, CONFIG, cache=cache)
        assert kinds(again) == ["dropped", "written"]
        assert str(entry) in (again.events[0].message or "")
        assert same(again.media, plain)
        assert entry.read_bytes() == whole


def test_an_entry_in_another_s_place_is_not_used(cache: FrameCache, image: Path) -> None:
    load_cached(None, image, CONFIG, cache=cache)
    load_cached(None, image, SIZES[0], cache=cache)
    one, other = entries(cache)
    shutil.copy(one, other)
    results = [load_cached(None, image, config, cache=cache) for config in (CONFIG, SIZES[0])]
    assert sorted(kinds(result) for result in results) == [["dropped", "written"], ["read"]]
    for result, config in zip(results, (CONFIG, SIZES[0]), strict=True):
        assert same(result.media, load_media(None, image, config))


# ---------------------------------------------------------------- room


def test_what_was_used_longest_ago_goes_first(cache: FrameCache, image: Path) -> None:
    by_part: dict[str, list[tuple[VideoConfig, int]]] = {}
    for config in SIZES:
        load_cached(None, image, config, cache=FrameCache(cache.folder / "find", 10**9))
        [new] = (cache.folder / "find").glob("*/*.frames")
        by_part.setdefault(new.parent.name, []).append((config, new.stat().st_size))
        new.unlink()
    (first, room_1), (second, _), (third, room_3) = next(found for found in by_part.values() if len(found) > 2)[:3]
    for config, age in ((first, 2000), (second, 1000)):
        before = set(entries(cache))
        load_cached(None, image, config, cache=cache)
        [new] = set(entries(cache)) - before
        os.utime(new, (time.time() - age,) * 2)
    assert kinds(load_cached(None, image, first, cache=cache)) == ["read"]  # so the second is now the older one
    tight = FrameCache(cache.folder, N_PARTS * (room_1 + room_3 + 1000))
    assert kinds(load_cached(None, image, third, cache=tight)) == ["evicted", "written"]
    assert kinds(load_cached(None, image, first, cache=cache)) == ["read"]
    assert kinds(load_cached(None, image, second, cache=cache)) == ["written"]


def test_the_folder_never_grows_above_its_limit(tmp_path: Path, image: Path) -> None:
    limit = 16 * 160_000  # the entries have 94 to 185 kB
    cache = FrameCache(tmp_path / "cache", limit)
    done = []
    for config in SIZES:
        done += kinds(load_cached(None, image, config, cache=cache))
        assert sum(path.stat().st_size for path in entries(cache)) <= limit
    assert {"written", "evicted", "unusable"} == set(done)  # the largest ones exceed a part's share


def test_what_a_killed_writer_left_is_swept(cache: FrameCache, image: Path) -> None:
    load_cached(None, image, CONFIG, cache=cache)
    [entry] = entries(cache)
    old, young = entry.with_name(".a.tmp"), entry.with_name(".b.tmp")
    for left, age in ((old, STALE_S + 60), (young, 0.0)):
        left.write_bytes(b"half")
        os.utime(left, (time.time() - age,) * 2)
    entry.unlink()
    load_cached(None, image, CONFIG, cache=cache)
    assert (old.exists(), young.exists()) == (False, True)


# ---------------------------------------------------------------- a cache that cannot be used


def test_a_folder_that_cannot_be_one_costs_nothing_but_time(tmp_path: Path, image: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = FrameCache(tmp_path / "file", 10**9)
    result = load_cached(None, image, CONFIG, cache=cache)
    assert kinds(result) == ["unusable"]
    assert same(result.media, load_media(None, image, CONFIG))


def write_with_little_space(folder: str, image: str) -> None:
    """Runs in a process of its own: no file may exceed 10,000 bytes, as on a disk that fills up."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    result = load_cached(None, Path(image), CONFIG, cache=FrameCache(Path(folder), 10**9))
    assert same(result.media, load_media(None, Path(image), CONFIG))
    print(result.events[-1].kind, result.events[-1].message)


def in_a_process(call: str) -> list[str]:
    return [sys.executable, "-c", f"from tests.unit import test_cache as t; t.{call}"]


def test_a_write_that_fails_half_way_leaves_nothing(cache: FrameCache, image: Path) -> None:
    command = in_a_process(f"write_with_little_space({str(cache.folder)!r}, {str(image)!r})")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("unusable "), done.stderr
    assert "File too large" in done.stdout
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


def test_warnings_are_few_and_counts_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [make_image(tmp_path / f"{n}.png", seed=n) for n in range(3)]
    asked = [
        Question(str(n), "L1", "?", ("a", "b", "c", "d"), "A", None, i, "v", None, "") for n, i in enumerate(images)
    ]
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        with FrameLoader(CONFIG, workers=1, timeout_s=60, load=media_loader(tmp_path / "file", 1.0)) as loader:
            assert all(isinstance(media, Media) for _, media in loader.stream(asked))
        assert loader.cache_counts == {"unusable": 3}
        assert len(caplog.records) == 1
        assert str(tmp_path / "file") in caplog.records[0].getMessage()
        caplog.clear()
        folder = tmp_path / "cache"
        for damaged in (False, True):
            for path in folder.glob("*/*.frames"):
                path.write_bytes(b"damaged")
            with FrameLoader(CONFIG, workers=1, timeout_s=60, load=media_loader(folder, 1.0)) as loader:
                list(loader.stream(asked))
            assert loader.cache_counts == ({"dropped": 3, "written": 3} if damaged else {"written": 3})
        assert [record.getMessage().split(",")[0] for record in caplog.records] == ["damaged entry dropped"] * 3
    assert media_loader(None, 1.0) is load_media


# ---------------------------------------------------------------- many processes, and kills


def hammer() -> None:
    """Runs in a process of its own: read, write and evict, and compare every answer with the truth.

    Until there is a file `end`, and a hundred times at least.
    """
    folder, image, end, seed = sys.argv[1:]
    truth = {config.image_max_pixels: load_image(Path(image), config) for config in SIZES}
    cache = FrameCache(Path(folder), 16 * 400_000)  # two or three entries a part: constant eviction
    rng = random.Random(int(seed))
    print("ready", flush=True)
    for turn in itertools.count():
        if turn >= 100 and Path(end).exists():
            return
        config = rng.choice(SIZES)
        got = load_cached(None, Path(image), config, cache=cache)
        assert np.array_equal(got.media.image, truth[config.image_max_pixels])
        assert "dropped" not in kinds(got), got.events
        assert "unusable" not in kinds(got), got.events


def test_kills_at_any_moment_leave_only_whole_entries(cache: FrameCache, image: Path, tmp_path: Path) -> None:
    rng, end = random.Random(0), tmp_path / "end"

    server = Server("hammer", f"{__name__}:hammer", [__name__])

    def start(seed: int) -> Forked:
        return server.popen([cache.folder, image, end, seed], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    survivor = start(0)
    for round_ in range(1, 5):
        victims = [start(10 * round_ + n) for n in range(2)]
        for victim in victims:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.4))
        for victim in victims:
            victim.kill()
            _, errors = victim.communicate()
            assert errors == ""
    end.touch()
    _, errors = survivor.communicate()
    server.close()
    assert survivor.returncode == 0, errors
    left = entries(cache)
    assert len(left) > 10
    for path in left:
        assert isinstance(read_entry(path, path.stem), Media)
    assert sum(path.stat().st_size for path in left) <= 16 * 400_000 + 3 * 190_000


# ---------------------------------------------------------------- a whole run


def test_a_folder_in_the_config_file_is_relative_to_that_file(data_root: Path, tmp_path: Path) -> None:
    (file := tmp_path / "here.toml").write_text('model = "m"\n[eval]\nframe_cache = "frames"\nframe_cache_gb = 2\n')
    config = resolve_eval_config({"data_root": data_root}, config_file=file, environ={})
    assert (config.frame_cache, config.frame_cache_gb) == (tmp_path / "frames", 2)
    assert (
        resolve_eval_config({"data_root": data_root, "model": "m"}, environ={}, working_dir=tmp_path).frame_cache
        is None
    )


def test_records_are_the_same_with_and_without_it(data_root: Path, tmp_path: Path) -> None:
    root = copy_of(data_root, tmp_path / "data")
    script = write_script(tmp_path / "script.json")

    def records(name: str, **more: object) -> dict[str, object]:
        options = {"model": str(script), "backend": "fake", "data_root": root, "runs_dir": tmp_path / name, **more}
        planned = plan(resolve_eval_config(options | {"workers": 1}, environ={}, working_dir=tmp_path))
        from seedbench_r1.backends import open_backend

        assert evaluate(planned, open_backend).summary.status == "complete"
        lines = [json.loads(line) for line in (planned.path / "records.jsonl").read_text().splitlines()]
        for line in lines:
            line["generation"].pop("latency_s")
        events = [json.loads(line) for line in (planned.path / "events.jsonl").read_text().splitlines()]
        counted.append(next((event for event in events if event["event"] == "frame_cache"), {}))
        assert load_run(planned.path).manifest.protocol_id == planned.manifest.protocol_id
        return {line["question_id"]: line for line in lines}

    counted: list[dict[str, object]] = []
    plain, cold, warm = (
        records("plain"),
        records("cold", frame_cache=tmp_path / "cache"),
        records("warm", frame_cache=tmp_path / "cache"),
    )
    assert plain == cold == warm
    n_entries = len(list((tmp_path / "cache").glob("*/*.frames")))
    assert counted[0] == {}
    assert counted[1]["written"] == n_entries > 20
    assert counted[2]["read"] == len(plain)
