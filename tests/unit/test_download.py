"""Downloads from a hub on loopback: whole, broken, killed, wrong, twice at once. Nothing leaves 127.0.0.1."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seedbench_r1.data.download import WORK
from seedbench_r1.data.manifest import MANIFEST, read_data_manifest
from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.questions import load_questions
from tests.downloads import REPO, Watch, get, on_disk, tar_bytes
from tests.forked import COMMANDS
from tests.hub_emulator import Fault, Hub, sha256
from tests.waiting import wait_until

BIG = "videos/EpicKitchens/3.mp4"
BIG_BYTES = random.Random(0).randbytes(1 << 20)
LEVEL_FILES = {level: f"annotations/validation_{level}.jsonl" for level in ("L1", "L2", "L3")}


@pytest.fixture(scope="module")
def files(data_root) -> dict[str, bytes]:
    """The miniature benchmark as a repository; one clip is larger, so that it can break in the middle."""
    found = {p.relative_to(data_root).as_posix(): p.read_bytes() for p in data_root.rglob("*") if p.is_file()}
    return found | {BIG: BIG_BYTES, "README.md": b"# a data set\n", ".gitattributes": b"*.jsonl filter=lfs\n"}


def wanted_of(files: dict[str, bytes], *levels: str) -> dict[str, bytes]:
    """What the levels need, read off the rows by hand."""
    names = set()
    for level in levels:
        names.add(LEVEL_FILES[level])
        for line in files[LEVEL_FILES[level]].decode().splitlines():
            row = json.loads(line)
            if row["task_progress_metadata"]:
                names.add(f"videos/{row['video_source']}/{row.get('video_basename') or str(row['sample_id']) + '.mp4'}")
            image = row.get("current_observation_basename") or f"{row['sample_id']}.png"
            names.add(f"images/{row['video_source']}/{image}")
    return {name: files[name] for name in names}


def part_of(files: dict[str, bytes], prefix: str, strip: str = "") -> dict[str, bytes]:
    return {name.removeprefix(strip): data for name, data in files.items() if name.startswith(prefix)}


# whole


def test_a_level_brings_its_annotations_and_just_its_media(hub, files, tmp_path):
    commit = hub.add(REPO, files)
    hub.page_size = 7  # the listing comes in pages
    watch = Watch()
    result = get(tmp_path / "data", watch, levels=("L1",))
    expected = wanted_of(files, "L1")
    assert on_disk(tmp_path / "data") == expected
    assert (result.fetched, result.kept, result.commit) == (len(expected), 0, commit)
    assert result.fetched_bytes == watch.arrived == watch.expected == sum(map(len, expected.values()))
    manifest = read_data_manifest(tmp_path / "data")
    assert (manifest.commit, manifest.revision, set(manifest.files)) == (commit, "main", set(expected))
    assert manifest.files[BIG].size == len(BIG_BYTES)
    assert load_questions(tmp_path / "data", ("L1",))


def test_a_second_call_fetches_nothing_and_another_level_adds(hub, files, tmp_path):
    hub.add(REPO, files)
    get(tmp_path, levels=("L1",))
    before = len(hub.sent)
    again = get(tmp_path, levels=("L1",))
    assert (again.fetched, again.kept) == (0, len(wanted_of(files, "L1")))
    assert not [sent for sent in hub.sent[before:] if sent.server == "cdn"]
    get(tmp_path, levels=("L2", "L3"))
    assert on_disk(tmp_path) == wanted_of(files, "L1", "L2", "L3")
    assert set(read_data_manifest(tmp_path).files) == set(wanted_of(files, "L1", "L2", "L3"))


def test_a_revision_is_pinned_and_only_what_changed_is_fetched(hub, files, tmp_path):
    old = hub.add(REPO, files)
    changed = files | {BIG: BIG_BYTES[::-1]}
    new = hub.add(REPO, changed)
    assert old != new
    assert get(tmp_path, levels=("L1",), revision=old).commit == old
    assert (tmp_path / BIG).read_bytes() == BIG_BYTES
    result = get(tmp_path, levels=("L1",))
    assert (result.fetched, result.commit) == (1, new)
    assert (tmp_path / BIG).read_bytes() == BIG_BYTES[::-1]


def test_a_flat_layout_is_fetched_as_it_is(hub, files, tmp_path):
    flat = {name.replace("/Ego4D/", "/Ego4D_flatten/"): data for name, data in files.items()}
    hub.add(REPO, flat)
    get(tmp_path, levels=("L2",))
    assert (tmp_path / "videos" / "Ego4D_flatten").is_dir()
    assert all(q.image.exists() and (q.video is None or q.video.exists()) for q in load_questions(tmp_path, ("L2",)))


def test_training_rows(hub, files, tmp_path):
    rows = [json.loads(line) for line in files[LEVEL_FILES["L1"]].decode().splitlines()]
    lines = "".join(json.dumps(row | {"task_level": None}) + "\n" for row in rows[:2]).encode()
    training = {f"annotations/{name}": lines for name in ("training_6k.jsonl", "training_with_cot_6k.jsonl")}
    hub.add(REPO, files | training)
    get(tmp_path, levels=("train",))
    assert set(training) < set(on_disk(tmp_path))
    assert len(on_disk(tmp_path)) < len(wanted_of(files, "L1"))


def test_default_mode_restores_changed_bytes_and_only_missing_reads_none(hub, files, tmp_path):
    hub.add(REPO, files)
    get(tmp_path, levels=("L1",))
    absent, short, edited = sorted(name for name in wanted_of(files, "L1") if name.endswith(".png"))[:3]
    (tmp_path / absent).unlink()
    (tmp_path / short).write_bytes(files[short][:-1])
    (tmp_path / edited).write_bytes(bytes(len(files[edited])))
    assert get(tmp_path, levels=("L1",), only_missing=True).fetched == 2
    assert (tmp_path / edited).read_bytes() == bytes(len(files[edited]))
    assert get(tmp_path, levels=("L1",)).fetched == 1
    assert on_disk(tmp_path) == wanted_of(files, "L1")


# broken on the way


def test_a_connection_cut_three_times_is_continued_each_time(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.faults[BIG] = [Fault(cut_after=300_000), Fault(cut_after=0), Fault(cut_after=100_000)]
    watch = Watch()
    get(tmp_path, watch, levels=("L1",))
    assert (tmp_path / BIG).read_bytes() == BIG_BYTES
    assert hub.body_bytes(BIG) == len(BIG_BYTES)
    assert hub.starts(BIG) == [0, 300_000, 400_000]
    assert watch.arrived == watch.expected


def test_a_server_without_ranges_starts_again(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.ranges = False
    hub.faults[BIG] = [Fault(cut_after=300_000)]
    watch = Watch()
    get(tmp_path, watch, levels=("L1",))
    assert (tmp_path / BIG).read_bytes() == BIG_BYTES
    assert hub.body_bytes(BIG) == len(BIG_BYTES) + 300_000
    assert watch.arrived == watch.expected


def test_a_connection_that_brings_nothing_any_more_is_given_up_and_continued_later(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.faults[BIG] = [Fault(cut_after=200_000), *[Fault(cut_after=0)] * 6]
    with pytest.raises(DataError, match=r"3\.mp4: no connection to .* continues.*kept"):
        get(tmp_path, levels=("L1",), workers=1)
    assert not (tmp_path / BIG).exists()
    get(tmp_path, levels=("L1",))
    assert on_disk(tmp_path) == wanted_of(files, "L1")
    assert hub.body_bytes(BIG) == len(BIG_BYTES)


def test_wrong_bytes_never_get_the_final_name(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.faults[BIG] = [Fault(flip=True)]
    with pytest.raises(DataError, match=r"3\.mp4: the bytes do not have the announced hash"):
        get(tmp_path, levels=("L1",), workers=1)
    assert BIG not in on_disk(tmp_path)
    assert not list((tmp_path / BIG).parent.glob(".3.mp4.*"))
    get(tmp_path, levels=("L1",))
    assert on_disk(tmp_path) == wanted_of(files, "L1")


def test_a_damaged_partial_file_costs_one_more_fetch_and_no_error(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.faults[BIG] = [Fault(cut_after=500_000), *[Fault(cut_after=0)] * 6]
    with pytest.raises(DataError):
        get(tmp_path, levels=("L1",), workers=1)
    (partial,) = (tmp_path / BIG).parent.glob(".*.part")
    partial.write_bytes(bytes(partial.stat().st_size))
    get(tmp_path, levels=("L1",))
    assert (tmp_path / BIG).read_bytes() == BIG_BYTES
    assert hub.starts(BIG)[-1] == 0


def test_a_busy_hub_is_asked_again(hub, files, tmp_path):
    hub.add(REPO, files)
    other = "images/EpicKitchens/1.png"
    hub.faults = {"": [Fault(status=503)], BIG: [Fault(status=429)], other: [Fault(status=500)]}
    get(tmp_path, levels=("L1",))
    assert on_disk(tmp_path) == wanted_of(files, "L1")
    assert {429, 500, 503} <= {sent.status for sent in hub.sent}


def test_a_file_that_is_listed_but_not_there(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.faults[BIG] = [Fault(status=404)]
    with pytest.raises(DataError, match=r"3\.mp4: the hub answered 404"):
        get(tmp_path, levels=("L1",))


def test_media_that_the_repository_does_not_have(hub, files, tmp_path):
    less = {name: data for name, data in files.items() if name != BIG}
    hub.add(REPO, less)
    with pytest.raises(DataError, match=r"1 of \d+ media files are neither here nor in .*videos/EpicKitchens/3\.mp4"):
        get(tmp_path, levels=("L1",))
    assert set(on_disk(tmp_path)) == set(wanted_of(files, "L1")) - {BIG}
    del less[LEVEL_FILES["L3"]]
    hub.add(REPO, less)
    with pytest.raises(DataError, match=r"holds no annotations/validation_L3.jsonl.*--levels"):
        get(tmp_path, levels=("L3",))


def test_too_small_a_disk_is_refused_before_the_first_clip(hub, files, tmp_path, monkeypatch):
    hub.add(REPO, files)
    usage = namedtuple("usage", "total used free")
    annotations = len(files[LEVEL_FILES["L1"]])
    media = sum(map(len, wanted_of(files, "L1").values())) - annotations
    for free, enough in ((int(1.2 * media) - 1, False), (int(1.2 * media) + 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(10**12, 0, free))
        if enough:
            get(tmp_path, levels=("L1",))
            assert (tmp_path / BIG).exists()
            continue
        with pytest.raises(ResourceError, match=r"0\.00 GB free; 0\.00 GB are wanted .*--to") as error:
            get(tmp_path, levels=("L1",))
        assert error.value.exit_code == 7
        assert hub.body_bytes(BIG) == 0


def test_a_disk_that_fills_up_on_the_way(hub, files, tmp_path):
    hub.add(REPO, files)
    partial = tmp_path / BIG.replace("3.mp4", f".3.mp4.{sha256(BIG_BYTES)[:16]}.part")
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")  # every write ends with "No space left on device"
    with pytest.raises(ResourceError, match="No space left while downloading"):
        get(tmp_path, levels=("L1",))
    assert not (tmp_path / BIG).exists()


# names, permissions, connection


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo_id": "nobody/nothing"}, "nobody/nothing .*no such name, or it is private.*HF_TOKEN"),
        ({"repo_id": "../../etc"}, "ORG/NAME"),
        ({"revision": "v9"}, "v9 cannot be read: there is no such revision"),
    ],
)
def test_wrong_names(hub, files, tmp_path, options, message):
    hub.add(REPO, files)
    with pytest.raises(ConfigError, match=message):
        get(tmp_path, **options)


def test_a_private_repository_wants_a_token_and_the_cdn_never_sees_it(hub, files, tmp_path, monkeypatch):
    hub.add(REPO, files)
    hub.tokens[REPO] = "hf_secret"
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        get(tmp_path)
    hub.gated.add(REPO)
    with pytest.raises(ConfigError, match=r"accept the terms.*HF_TOKEN"):
        get(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(tmp_path, levels=("L1",))
    assert {s.authorization for s in hub.sent if s.server == "cdn"} == {None}
    assert "Bearer hf_secret" in {s.authorization for s in hub.sent if s.server == "hub"}
    assert b"hf_secret" not in (tmp_path / MANIFEST).read_bytes()


def test_nonsense_and_silence(hub, files, tmp_path, monkeypatch):
    hub.add(REPO, files)
    hub.faults[""] = [Fault(body=b"<html>Please log in to the hotel's network</html>")]
    with pytest.raises(ConfigError, match="not the hub's"):
        get(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"no connection to http://127\.0\.0\.1:9"):
        get(tmp_path)


# archives


@pytest.mark.parametrize("form", ["tar.gz", "tar", "zip", "parts"])
def test_archives_are_unpacked_into_the_layout_and_removed(hub, files, tmp_path, form):
    members = part_of(files, "videos/Ego4D/", "videos/") | {"Ego4D/._junk.mp4": b"x", "Ego4D/notes.txt": b"x"}
    repository = {name: data for name, data in files.items() if not name.startswith("videos/Ego4D/")}
    if form == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        repository["videos/Ego4D.zip"] = buffer.getvalue()
    elif form == "parts":
        whole = tar_bytes(members)
        cut = [whole[:5000], whole[5000:6000], whole[6000:]]
        repository |= {f"videos/Ego4D.tar.gz.part{letter}": piece for letter, piece in zip("abc", cut, strict=True)}
        repository = {name.replace(".gz.part", ".gz.parta"): data for name, data in repository.items()}
    else:
        repository[f"videos/Ego4D.{form}"] = tar_bytes(members, "w" if form == "tar" else "w:gz")
    repository["videos/EpicKitchens_extra.tar"] = b"never asked for"
    hub.add(REPO, {name: data for name, data in repository.items() if name != "videos/EpicKitchens/none"})
    watch = Watch()
    result = get(tmp_path, watch, levels=("L2",))
    assert on_disk(tmp_path) == wanted_of(files, "L2")  # L3's clips were only listed
    assert result.unpacked == len(part_of(wanted_of(files, "L2"), "videos/"))
    assert watch.arrived == watch.expected
    assert set(part_of(files, "videos/Ego4D/")) == set(read_data_manifest(tmp_path).media)
    assert not (tmp_path / WORK).exists()
    before = len(hub.sent)
    again = get(tmp_path, levels=("L2",))
    assert (again.fetched, again.unpacked) == (0, 0)
    assert not [sent for sent in hub.sent[before:] if sent.server == "cdn"]


def test_members_without_a_source_follow_the_name_of_the_archive(hub, files, tmp_path):
    images = {f"./{Path(name).name}": data for name, data in part_of(files, "images/EpicKitchens/").items()}
    repository = {name: data for name, data in files.items() if not name.startswith("images/")}
    hub.add(REPO, repository | {"images/epic-kitchens.tar.gz": tar_bytes(images)})
    get(tmp_path, levels=("L1",))
    assert part_of(on_disk(tmp_path), "images/") == part_of(files, "images/EpicKitchens/")


def test_only_missing_takes_from_the_archive_only_what_is_missing_or_short(hub, files, tmp_path):
    repository = {name: data for name, data in files.items() if not name.startswith("images/")}
    repository["images.tar.gz"] = tar_bytes(part_of(files, "images/"))
    hub.add(REPO, repository)
    get(tmp_path, levels=("L1",))
    absent, short, edited = sorted(name for name in wanted_of(files, "L1") if name.endswith(".png"))[:3]
    (tmp_path / absent).unlink()
    (tmp_path / short).write_bytes(b"")
    (tmp_path / edited).write_bytes(bytes(len(files[edited])))
    result = get(tmp_path, levels=("L1",), only_missing=True)
    assert (result.fetched, result.unpacked) == (1, 2)
    assert (tmp_path / edited).read_bytes() == bytes(len(files[edited]))
    assert (tmp_path / short).read_bytes() == files[short]
    (tmp_path / short).write_bytes(b"")
    result = get(tmp_path, levels=("L1",))  # by hash, so the edited one too
    assert (result.fetched, result.unpacked) == (1, 2)
    assert part_of(on_disk(tmp_path), "images/") == part_of(wanted_of(files, "L1"), "images/")


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../../outside.mp4": b"x"}, "points outside"),
        ({"/tmp/outside.mp4": b"x"}, "points outside"),
        ({"Ego4D/1.mp4": link("Ego4D/1.mp4", tarfile.SYMTYPE)}, "is a link or a device"),
        ({"Ego4D/1.mp4": link("Ego4D/1.mp4", tarfile.LNKTYPE)}, "is a link or a device"),
        ({"Ego4D/1.mp4": link("Ego4D/1.mp4", tarfile.CHRTYPE)}, "is a link or a device"),
        ({"a/Ego4D/1.mp4": b"x", "b/Ego4D/1.mp4": b"y"}, "two members would both become videos/Ego4D/1.mp4"),
    ],
)
def test_hostile_archives(hub, files, tmp_path, members, message):
    repository = {name: data for name, data in files.items() if not name.startswith("videos/Ego4D/")}
    hub.add(REPO, repository | {"videos/Ego4D.tar": tar_bytes(members, "w")})
    root = tmp_path / "a" / "data"
    with pytest.raises(DataError, match=message):
        get(root, levels=("L2",))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"data"}
    assert not [path for path in root.rglob("*") if path.is_symlink() or path.name.endswith(".unpack")]


def test_a_damaged_archive(hub, files, tmp_path):
    repository = {name: data for name, data in files.items() if not name.startswith("videos/Ego4D/")}
    whole = tar_bytes(part_of(files, "videos/Ego4D/", "videos/"))
    hub.add(REPO, repository | {"videos/Ego4D.tar.gz": whole[: len(whole) // 2]})
    with pytest.raises(DataError, match=r"videos/Ego4D\.tar\.gz cannot be unpacked"):
        get(tmp_path, levels=("L2",))


# checkpoints


MODEL = "models/someone/tiny-care"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder, vocabulary_texts=["a few words"], seed=0)
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"optimizer.bin": b"not asked for"}


def test_a_checkpoint_from_the_hub_pinned_to_a_commit(hub, checkpoint, tmp_path):
    old = hub.add(MODEL, checkpoint)
    changed = bytearray(checkpoint["model.safetensors"])
    changed[-1] ^= 1
    new = hub.add(MODEL, checkpoint | {"model.safetensors": bytes(changed)})
    latest = inspect_model("someone/tiny-care")
    pinned = inspect_model("someone/tiny-care", revision=old)
    assert (pinned.info.path, pinned.info.name) == (f"someone/tiny-care@{old}", "tiny-care")
    assert (pinned.folder.name, latest.folder.name) == (old, new)
    assert (pinned.folder / "model.safetensors").read_bytes() == checkpoint["model.safetensors"]
    assert pinned.info.fingerprint != latest.info.fingerprint
    assert not (pinned.folder / "optimizer.bin").exists()
    local = tmp_path / "local"
    shutil.copytree(pinned.folder, local)
    assert inspect_model(str(local)).info.fingerprint == pinned.info.fingerprint


def test_a_checkpoint_whose_transfer_breaks(hub, checkpoint):
    hub.add(MODEL, checkpoint)
    hub.faults["model.safetensors"] = [Fault(cut_after=10_000)]
    found = inspect_model("someone/tiny-care")
    assert (found.folder / "model.safetensors").read_bytes() == checkpoint["model.safetensors"]


def test_a_cached_checkpoint_needs_no_network(hub, checkpoint, monkeypatch):
    commit = hub.add(MODEL, checkpoint)
    fingerprint = inspect_model("someone/tiny-care").info.fingerprint
    before = len(hub.sent)
    assert inspect_model("someone/tiny-care", revision=commit).info.fingerprint == fingerprint
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert inspect_model("someone/tiny-care").info.fingerprint == fingerprint
    assert len(hub.sent) == before
    with pytest.raises(ConfigError, match=r"someone/other.*HF_HUB_OFFLINE is set"):
        inspect_model("someone/other")


def test_checkpoints_that_the_hub_does_not_give(hub, checkpoint, monkeypatch):
    hub.add(MODEL, checkpoint)
    with pytest.raises(ConfigError, match=r"No folder someone/tinny.*no such name, or it is private.*HF_TOKEN"):
        inspect_model("someone/tinny")
    with pytest.raises(ConfigError, match=r"at revision v9: there is no such revision"):
        inspect_model("someone/tiny-care", revision="v9")
    hub.tokens[MODEL] = "hf_secret"
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        inspect_model("someone/tiny-care")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert inspect_model("someone/tiny-care").info.architecture == "Qwen2_5_VLForConditionalGeneration"
    hub.faults[""] = [Fault(body=b"<html>Please log in</html>")]
    with pytest.raises(ConfigError, match="not the hub's"):
        inspect_model("someone/tiny-care", revision="main")


# as a process


def data_command(hub: Hub, home: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    env = hub.environment(home / "hf") | environment
    return COMMANDS.run(["data", *arguments], cwd=home, env=env, timeout=120)


def test_the_command_and_its_exit_codes(hub, files, tmp_path):
    commit = hub.add(REPO, files)
    done = data_command(hub, tmp_path, "download", "--levels", "L1", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["schema"], value["status"], value["commit"]) == ("sbr1.download/1", "complete", commit)
    assert on_disk(tmp_path / "data") == wanted_of(files, "L1")
    assert data_command(hub, tmp_path, "status", "--levels", "L1").returncode == 0
    offline = data_command(hub, tmp_path, "download", HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE is set" in offline.stderr) == (3, True)
    assert "Traceback" not in offline.stderr
    assert {sent.server for sent in hub.sent} == {"hub", "cdn"}


def test_status_after_a_partial_download(hub, files, tmp_path):
    hub.add(REPO, files)
    root = tmp_path / "data"
    get(root, levels=("L1", "L2"))
    clips = sorted(name for name in wanted_of(files, "L2") if name.endswith(".mp4"))
    (root / clips[0]).unlink()
    (root / clips[1]).write_bytes(b"short")
    left = len(files[clips[0]]) + len(files[clips[1]])
    done = data_command(hub, tmp_path, "status", "--data-root", root, "--levels", "L1,L2")
    assert done.returncode == 4
    expected = (
        f"L2 videos: {len(clips) - 1}/{len(clips)} present, 1 files shorter than expected (interrupted download?)."
    )
    assert expected in done.stderr
    assert f"Fix: seedbench-r1 data download --only-missing --to {root} ({left / 1e9:.3g} GB left)" in done.stderr
    assert "--levels L1." in done.stderr
    assert data_command(hub, tmp_path, "download", "--only-missing", "--to", root, "--levels", "L2").returncode == 0
    assert data_command(hub, tmp_path, "status", "--data-root", root, "--levels", "L1,L2").returncode == 0


def test_killed_in_the_middle_of_a_file_the_next_call_continues(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.bytes_per_s = 4e5
    command = ["data", "download", "--to", str(tmp_path / "data"), "--levels", "L1"]
    process = COMMANDS.popen(command, env=hub.environment(tmp_path / "hf"), stderr=subprocess.DEVNULL)
    folder = (tmp_path / "data" / BIG).parent
    wait_until(lambda: any(path.stat().st_size > 300_000 for path in folder.glob(".3.mp4.*.part")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "data" / BIG).exists()
    (partial,) = folder.glob(".3.mp4.*.part")
    have = partial.stat().st_size
    assert 300_000 < have < len(BIG_BYTES)
    hub.bytes_per_s = None
    hub.sent.clear()
    get(tmp_path / "data", levels=("L1",))
    assert on_disk(tmp_path / "data") == wanted_of(files, "L1")
    assert hub.starts(BIG) == [have]
    assert hub.body_bytes(BIG) == len(BIG_BYTES) - have


def test_ctrl_c_ends_soon_with_130(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.bytes_per_s = 2e4  # the large clip alone would take 52 s
    command = ["data", "download", "--to", str(tmp_path / "data"), "--levels", "L1"]
    process = COMMANDS.popen(command, env=hub.environment(tmp_path / "hf"), stderr=subprocess.PIPE)
    wait_until(lambda: hub.body_bytes(BIG) > 10_000)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, text = process.communicate(timeout=120)
    assert time.monotonic() - began < 25
    assert (process.returncode, "the same command continues" in text, "Traceback" in text) == (130, True, False)


def test_ctrl_c_stops_while_downloads_are_being_submitted(hub, files, tmp_path, monkeypatch):
    class InterruptedPool(ThreadPoolExecutor):
        def submit(self, function, *args, **kwargs):
            future = super().submit(function, *args, **kwargs)
            if "stop" in kwargs and args[1].path == BIG:
                wait_until(lambda: hub.body_bytes(BIG) > 10_000)
                raise KeyboardInterrupt
            return future

    monkeypatch.setattr("seedbench_r1.data.collect.ThreadPoolExecutor", InterruptedPool)
    hub.add(REPO, files)
    hub.bytes_per_s = 2e4  # the large clip alone would take 52 s
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path / "data", levels=("L1",))
    assert time.monotonic() - began < 25


def test_two_at_once_share_one_download(hub, files, tmp_path):
    hub.add(REPO, files)
    hub.bytes_per_s = 2e4  # the large clip alone would take 52 s: time for the other to start
    command = ["data", "download", "--to", str(tmp_path / "data"), "--levels", "L1"]
    both = [COMMANDS.popen(command, env=hub.environment(tmp_path / "hf"), stderr=subprocess.PIPE) for _ in range(2)]
    texts = ["", ""]

    def read(number: int) -> None:
        for line in both[number].stderr:
            texts[number] += line
            if "another download" in line:
                hub.bytes_per_s = 1e9

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    for reader in readers:
        reader.join()
    assert sum("another download" in text for text in texts) == 1
    assert on_disk(tmp_path / "data") == wanted_of(files, "L1")
    assert hub.body_bytes(BIG) == len(BIG_BYTES)


INSIDE = ("Margin0-SEED-Bench-R1/checkpoint-1500", "Margin0.01-Video-R1/checkpoint-1000")


@pytest.fixture
def repository(hub, checkpoint):
    """Checkpoints in folders of one repository, as TencentARC/GRPO-CARE has them."""
    files = {f"{folder}/{name}": data for folder in INSIDE for name, data in checkpoint.items()}
    hub.add("models/someone/care", files | {"README.md": b"x", "lora/adapter_config.json": b"{}"})
    return hub


def test_a_checkpoint_inside_of_a_repository(repository, checkpoint):
    found = inspect_model(f"someone/care/{INSIDE[0]}")
    assert found.info.name == INSIDE[0]
    assert (found.folder / "model.safetensors").read_bytes() == checkpoint["model.safetensors"]
    assert not (found.folder.parents[1] / INSIDE[1]).exists()
    assert inspect_model(f"someone/care/{INSIDE[0]}/").info.fingerprint == found.info.fingerprint


@pytest.mark.parametrize("asked", ["someone/care", "someone/care/Margin0-SEED-Bench-R1", "someone/care/gone"])
def test_a_repository_is_listed_before_anything_is_fetched(repository, asked):
    with pytest.raises(ConfigError, match=rf"3 in folders. Nothing was fetched. Fix: --model someone/care/{INSIDE[0]}"):
        inspect_model(asked)
    assert not [sent for sent in repository.sent if "/resolve/" in sent.path or sent.path.endswith(".safetensors")]


def test_a_repository_without_a_model(hub):
    hub.add("models/someone/notes", {"README.md": b"x"})
    with pytest.raises(ConfigError, match="holds no model"):
        inspect_model("someone/notes")


def test_a_processor_from_the_hub_costs_no_weights(hub, checkpoint, tmp_path):
    hub.add(MODEL, checkpoint)
    local = tmp_path / "local"
    local.mkdir()
    for name in ("config.json", "model.safetensors"):
        (local / name).write_bytes(checkpoint[name])
    found = inspect_model(str(local), processor="someone/tiny-care", views=tmp_path / "views")
    assert (found.folder / "tokenizer.json").read_bytes() == checkpoint["tokenizer.json"]
    assert not [sent for sent in hub.sent if sent.path.endswith("model.safetensors") and sent.method == "GET"]
