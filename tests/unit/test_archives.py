"""Media out of archives that arrive: only what is wanted, until nothing is missing; damage, hostility, interruption."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import tarfile
import zipfile
from collections import namedtuple

import pytest

from seedbench_r1.data.archives import find_archives
from seedbench_r1.data.collect import WORK
from seedbench_r1.data.hub import HubFile
from seedbench_r1.data.manifest import MANIFEST, MediaEntry, read_data_manifest, write_data_manifest
from seedbench_r1.data.status import data_status
from seedbench_r1.errors import DataError, ResourceError
from seedbench_r1.questions import load_questions
from tests.downloads import REPO, Watch, get, on_disk, tar_bytes
from tests.forked import COMMANDS
from tests.hub_emulator import Fault
from tests.rows import evaluation_row, write_rows
from tests.waiting import wait_until

CLIP_BYTES = 100_000


def clip(name: str) -> bytes:
    return random.Random(name).randbytes(CLIP_BYTES)


def clips(*names: object, folder: str = "") -> dict[str, bytes]:
    return {f"{folder}{name}.mp4": clip(f"{name}.mp4") for name in names}


def data_set(*wanted: object, source: str = "EpicKitchens", level: str = "L1") -> dict[str, bytes]:
    """Annotations of one level and their images; the clips are to be added in archives."""
    rows = [evaluation_row(name, video_source=source, domain="Work") for name in wanted]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    images = {f"images/{source}/{name}.png": b"an image" for name in wanted}
    return {f"annotations/validation_{level}.jsonl": text} | images


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def batches(n: int, *wanted: str, per_batch: int = 10) -> dict[str, bytes]:
    """Archives of training clips; those that are wanted, as BATCH/PLACE/NAME, take the place of one of them."""
    places = {tuple(map(int, text.split("/")[:2])): text.split("/")[2] for text in wanted}
    names = [[places.get((b, k), f"{b}_{k}") for k in range(per_batch)] for b in range(n)]
    return {f"videos/EpicKitchens/batch_{b}.tar.gz": tar_bytes(clips(*names[b])) for b in range(n)}


def asked(hub) -> set[str]:
    """Archives whose bytes were asked for."""
    return {sent.path for sent in list(hub.sent) if sent.server == "cdn" and "annotations" not in sent.path} - {
        sent.path for sent in list(hub.sent) if sent.path.endswith(".png")
    }


def videos(root) -> dict[str, bytes]:
    return {name: data for name, data in on_disk(root).items() if name.startswith("videos/")}


# what is fetched


def test_only_wanted_members_are_kept_and_archives_behind_the_last_are_never_asked_for(hub, tmp_path):
    hub.add(REPO, data_set(1, 2) | batches(20, "0/0/1", "0/1/2"))
    watch = Watch()
    result = get(tmp_path, watch, levels=("L1",), workers=2)
    assert videos(tmp_path) == clips(1, 2, folder="videos/EpicKitchens/")
    assert len(asked(hub)) <= 3  # two at once, and one that began while the first ended
    assert (result.unpacked, watch.arrived) == (2, watch.expected)
    assert not (tmp_path / WORK).exists()
    # What was seen on the way is known: the second time it is one archive.
    (tmp_path / "videos/EpicKitchens/2.mp4").unlink()
    hub.sent.clear()
    assert get(tmp_path, levels=("L1",), only_missing=True).unpacked == 1
    assert asked(hub) == {"videos/EpicKitchens/batch_0.tar.gz"}
    assert videos(tmp_path) == clips(1, 2, folder="videos/EpicKitchens/")


def test_bytes_and_connections(hub, tmp_path):
    archives = batches(16, "11/5/1")
    hub.add(REPO, data_set(1) | archives)
    hub.latency_s = 0.05
    result = get(tmp_path, levels=("L1",), workers=8)
    assert hub.most_answering >= 6  # measured in full by tests/benchmarks/archives.py
    size = len(archives["videos/EpicKitchens/batch_0.tar.gz"])
    # Those before the last wanted clip, and what had begun to arrive of those that are read with it.
    assert result.fetched_bytes < 11.6 * size + 7 * size
    hub.sent.clear()
    one = get(tmp_path / "one", levels=("L1",), workers=1)
    assert one.fetched_bytes < 11.6 * size + (256 << 10)


def test_sizes_are_said_before_anything_is_fetched(hub, tmp_path):
    files = data_set(1) | data_set(5, source="Ego4D", level="L2") | batches(3, "0/0/1")
    files |= {"videos/Ego4D/batch_0.tar.gz": tar_bytes(clips(5)), "more.zip": zip_bytes({"x.txt": b"x"})}
    hub.add(REPO, files)

    class Early(Watch):
        def say(self, text):
            if " archives of " in text:
                assert not [sent for sent in hub.sent if sent.server == "cdn"]
            super().say(text)

    watch = Early()
    get(tmp_path, watch, levels=("L1", "L2"))
    assert watch.texts[1:4] == [
        "L1 (EpicKitchens): 3 archives of 0.00 GB in all, 1 clips and images of 0.00 GB as files",
        "L2 (Ego4D): 1 archives of 0.00 GB in all, 1 clips and images of 0.00 GB as files",
        "of no named source: 1 archives of 0.00 GB in all",
    ]


def test_a_zip_is_read_by_ranges(hub, tmp_path):
    many = clips(*(f"other_{n}" for n in range(20)), folder="videos/Ego4D/") | clips(1, folder="videos/Ego4D/batch_7/")
    many |= clips(*(f"other_{n}" for n in range(20, 60)), folder="videos/Ego4D/")
    hub.add(REPO, data_set(1, source="Ego4D", level="L2") | {"videos.zip": zip_bytes(many)})
    result = get(tmp_path, levels=("L2",))
    assert videos(tmp_path) == clips(1, folder="videos/Ego4D/")
    assert result.fetched_bytes < 5 * CLIP_BYTES  # of 61
    ranges = [sent for sent in hub.sent if sent.path == "videos.zip" and sent.status == 206]
    assert sum(sent.n_asked for sent in ranges) < 6 * CLIP_BYTES


@pytest.mark.parametrize(
    "form", ["data.zip", "validation_videos.zip", "videos.zip.001", "all.tar.gz.aa", "x.tar.part1"]
)
def test_names_of_archives(hub, tmp_path, form):
    members = clips(1, 2, 3, folder="Ego4D/")
    whole = zip_bytes(members) if ".zip" in form else tar_bytes(members, "w:gz" if ".gz" in form else "w")
    letters = "abcdefghijklmnopqrstuvwxyz"
    if form.endswith(".001"):
        pieces = {f"videos.zip.{n + 1:03}": whole[n * 70_000 :][:70_000] for n in range(-(-len(whole) // 70_000))}
    elif form.endswith(".aa"):  # 28 parts: behind .az comes .ba
        size = -(-len(whole) // 28)
        pieces = {f"all.tar.gz.{letters[n // 26]}{letters[n % 26]}": whole[n * size :][:size] for n in range(28)}
        assert "all.tar.gz.bb" in pieces
    elif form.endswith("part1"):  # without zeros: 10 comes behind 9
        size = -(-len(whole) // 11)
        pieces = {f"x.tar.part{n + 1}": whole[n * size :][:size] for n in range(11)}
    else:
        pieces = {form: whole}
    hub.add(REPO, data_set(1, 3, source="Ego4D", level="L2") | pieces | {"all.tar.gz.md": b"how to join"})
    get(tmp_path, levels=("L2",))
    assert videos(tmp_path) == clips(1, 3, folder="videos/Ego4D/")


def listed(*paths: str) -> dict[str, tuple[list[str], str | None]]:
    found = find_archives(HubFile(path, 1, "0" * 64, "") for path in paths)
    return {archive.name: ([part.path for part in archive.parts], archive.absent) for archive in found}


def test_parts_and_gaps():
    assert listed("a.zip.001", "a.zip.003", "a.zip.002")["a.zip"] == (["a.zip.001", "a.zip.002", "a.zip.003"], None)
    assert listed("a.zip.001", "a.zip.003")["a.zip"][1] == "a.zip.002"
    assert listed("a.tar.ab", "a.tar.ac")["a.tar"][1] == "a.tar.aa"
    assert listed("a.tar.part10", "a.tar.part9")["a.tar"][1] == "a.tar.part1"
    assert listed("a.tar.00", "a.tar.01")["a.tar"][1] is None
    assert listed("a.tar.az", "a.tar.ba", *(f"a.tar.a{c}" for c in "abcdefghijklmnopqrstuvwxy"))["a.tar"][1] is None
    assert listed("a.zip.md", "a.tar.gz", "b.7z") == {"a.tar.gz": (["a.tar.gz"], None)}
    assert list(listed("b_10.zip", "b_9.zip", "10.zip")) == ["10.zip", "b_9.zip", "b_10.zip"]


def test_a_missing_part_is_named_and_the_rest_goes_on(hub, tmp_path):
    whole = zip_bytes(clips(2, folder="Ego4D/"))
    hub.add(
        REPO,
        data_set(1, 2, source="Ego4D", level="L2")
        | {"videos.zip.001": whole[:50_000], "videos.zip.003": whole[90_000:]}
        | {"videos/Ego4D/batch_0.tar.gz": tar_bytes(clips(1))},
    )
    with pytest.raises(DataError, match=r"1 of 4 media .*2\.mp4[\s\S]*part videos\.zip\.002 is not in the repository"):
        get(tmp_path, levels=("L2",))
    assert videos(tmp_path) == clips(1, folder="videos/Ego4D/")
    assert hub.body_bytes("videos.zip.001") == hub.body_bytes("videos.zip.003") == 0


def test_a_clip_that_two_archives_hold_is_written_once(hub, tmp_path):
    two = {f"videos/EpicKitchens/{name}.tar": tar_bytes(clips(1, name), "w") for name in "ab"}
    hub.add(REPO, data_set(1) | two)
    hub.latency_s, hub.bytes_per_s = 0.2, 3e5  # both begin while the other is at it
    assert get(tmp_path, levels=("L1",)).unpacked == 1
    assert videos(tmp_path) == clips(1, folder="videos/EpicKitchens/")


def test_archives_of_other_kinds_are_named(hub, tmp_path):
    hub.add(REPO, data_set(1) | {"videos/b.tar.zst": b"x", "videos/a.7z.001": b"x", "videos/c.tar.gz": tar_bytes({})})
    with pytest.raises(DataError, match=r"2 archives are of a kind that is not read, e\.g\. videos/.*by hand"):
        get(tmp_path, levels=("L1",))


def test_an_archive_that_changed_is_read_again_unless_only_missing(hub, tmp_path):
    files = data_set(1) | batches(2, "1/0/1")
    hub.add(REPO, files)
    get(tmp_path, levels=("L1",))
    hub.add(REPO, files | {"videos/EpicKitchens/batch_1.tar.gz": tar_bytes({"1.mp4": b"another"})})
    get(tmp_path, levels=("L1",), only_missing=True)
    assert videos(tmp_path) == clips(1, folder="videos/EpicKitchens/")
    hub.sent.clear()
    get(tmp_path, levels=("L1",))
    assert videos(tmp_path) == {"videos/EpicKitchens/1.mp4": b"another"}
    assert asked(hub) == {"videos/EpicKitchens/batch_1.tar.gz"}
    assert get(tmp_path, levels=("L1",)).fetched == 0


def test_other_gzip_streams_xz_and_bz2(hub, tmp_path):
    plain = tar_bytes(clips(1, 2), "w")
    hub.add(
        REPO,
        data_set(1, 2, 3, 4)
        | {"videos/EpicKitchens/a.tar.gz": gzip.compress(plain[:150_000], 1) + gzip.compress(plain[150_000:], 1)}
        | {"videos/EpicKitchens/b.tar.xz": tar_bytes(clips(3), "w:xz")}
        | {"videos/EpicKitchens/c.tar.bz2": tar_bytes(clips(4), "w:bz2")},
    )
    get(tmp_path, levels=("L1",))
    assert videos(tmp_path) == clips(1, 2, 3, 4, folder="videos/EpicKitchens/")


# interrupted and damaged


def test_a_connection_that_breaks_is_continued_inside_of_the_archive(hub, tmp_path):
    archives = batches(1, "0/9/1")
    (name,) = archives
    hub.add(REPO, data_set(1) | archives)
    hub.faults[name] = [Fault(cut_after=300_000), Fault(cut_after=0), Fault(cut_after=200_000)]
    watch = Watch()
    get(tmp_path, watch, levels=("L1",))
    assert videos(tmp_path) == clips(1, folder="videos/EpicKitchens/")
    assert hub.starts(name) == [0, 300_000, 500_000]
    assert watch.arrived == watch.expected


def test_a_connection_that_is_lost_keeps_what_was_complete(hub, tmp_path):
    archives = batches(1, "0/1/1", "0/8/2")
    (name,) = archives
    hub.add(REPO, data_set(1, 2) | archives)
    hub.faults[name] = [Fault(cut_after=600_000), *[Fault(cut_after=0)] * 6]
    with pytest.raises(DataError, match=r"batch_0\.tar\.gz: no connection"):
        get(tmp_path, levels=("L1",))
    assert videos(tmp_path) == clips(1, folder="videos/EpicKitchens/")
    assert read_data_manifest(tmp_path).archives[name].pending
    assert get(tmp_path, levels=("L1",)).unpacked == 1
    assert videos(tmp_path) == clips(1, 2, folder="videos/EpicKitchens/")
    assert not read_data_manifest(tmp_path).archives[name].pending


def test_a_killed_process_begins_its_archive_anew_and_no_other(hub, tmp_path):
    hub.add(REPO, data_set(1, 2, 3) | batches(2, "0/9/1", "1/0/2", "1/9/3"))
    hub.bytes_per_s = 1.5e6
    command = ["data", "download", "--to", str(tmp_path / "data"), "--levels", "L1", "--workers", "1"]
    process = COMMANDS.popen(command, env=hub.environment(tmp_path / "hf"), stderr=subprocess.DEVNULL)
    second = "videos/EpicKitchens/batch_1.tar.gz"
    wait_until(lambda: hub.body_bytes(second) > 400_000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    root = tmp_path / "data"
    assert videos(root) == clips(1, folder="videos/EpicKitchens/")  # 2 was complete, and had no name yet
    assert list((root / WORK).iterdir())
    hub.bytes_per_s = None
    hub.sent.clear()
    get(root, levels=("L1",))
    assert videos(root) == clips(1, 2, 3, folder="videos/EpicKitchens/")
    assert asked(hub) == {second}
    assert not (root / WORK).exists()


def test_other_bytes_than_announced_are_not_believed(hub, tmp_path):
    right = tar_bytes(clips(1, 2), "w")
    wrong = bytearray(right)
    wrong[700] ^= 1  # in the first clip: tar has no sum for it
    files = (
        data_set(1, 2, 3)
        | {"videos/EpicKitchens/a.tar": right}
        | {"videos/EpicKitchens/b.tar": tar_bytes(clips(3), "w")}
    )
    hub.add(REPO, files)
    hub.faults["videos/EpicKitchens/a.tar"] = [Fault(body=bytes(wrong))]
    with pytest.raises(
        DataError, match=r"2 of 6 media[\s\S]*a\.tar: the bytes do not have the announced hash"
    ) as error:
        get(tmp_path, levels=("L1",))
    assert error.value.exit_code == 4
    assert videos(tmp_path) == clips(3, folder="videos/EpicKitchens/")
    get(tmp_path, levels=("L1",))
    assert videos(tmp_path) == clips(1, 2, 3, folder="videos/EpicKitchens/")


def test_what_a_wrong_archive_held_is_looked_for_in_others(hub, tmp_path):
    damaged = tar_bytes(clips(1, "other"), "w").replace(b"other.mp4", b"0ther.mp4")  # the header's sum is wrong
    hub.add(REPO, data_set(1, 2) | {"videos/a.tar": damaged, "videos/b.tar": tar_bytes(clips(1, 2), "w")})
    watch = Watch()
    get(tmp_path, watch, levels=("L1",), workers=1)
    assert videos(tmp_path) == clips(1, 2, folder="videos/EpicKitchens/")
    assert "a.tar cannot be unpacked: a damaged header" in "".join(watch.texts)
    assert read_data_manifest(tmp_path).media["videos/EpicKitchens/1.mp4"].archive == "videos/b.tar"


def test_a_damaged_gzip_whose_hash_is_as_announced(hub, tmp_path):
    whole = bytearray(tar_bytes(clips(1)))
    whole[-8] ^= 1  # gzip's CRC
    cut = tar_bytes(clips(2), "w")[:60_000]
    hub.add(REPO, data_set(1, 2) | {"videos/EpicKitchens/a.tar.gz": bytes(whole), "videos/EpicKitchens/b.tar": cut})
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be unpacked: CRC[\s\S]*b\.tar cannot be unpacked"):
        get(tmp_path, levels=("L1",), workers=1)
    assert videos(tmp_path) == {}


def test_two_archives_with_different_files_of_one_name(hub, tmp_path):
    other = tar_bytes({"1.mp4": b"short", **clips("x", "y", "z")})
    hub.add(REPO, data_set(1, 2) | {"videos/EpicKitchens/a.tar.gz": tar_bytes(clips(1)), "videos/b.tar.gz": other})
    with pytest.raises(DataError, match=r"hold different files for videos/EpicKitchens/1\.mp4"):
        get(tmp_path, levels=("L1",), workers=1)


def test_the_disk_is_asked_for_what_stays(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    names = [f"w{n}" for n in range(20)]
    archives = {"videos/EpicKitchens/a.tar.gz": tar_bytes(clips(*names)), "videos/EpicKitchens/b.tar.gz": b"x" * 10**6}
    hub.add(REPO, data_set(*names, "absent") | archives)
    room = (64 << 20) + 2 * CLIP_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, room))
    # 2.1 MB in all: the first sixteen clips say what the others will take.
    with pytest.raises(ResourceError, match=r"No space left .* wanted for the media that are missing") as error:
        get(tmp_path, levels=("L1",), workers=1)
    assert error.value.exit_code == 7
    assert len(videos(tmp_path)) == 16
    room = (64 << 20) + 20 * CLIP_BYTES
    with pytest.raises(DataError, match=r"1 of 42 media"):
        get(tmp_path, levels=("L1",), workers=1)


# odd and hostile


def encrypted(data: bytes) -> bytes:
    """The first member flagged as encrypted, in its header and in the directory."""
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def of_method(data: bytes, method: int) -> bytes:
    """The first member packed by another method, as far as its headers say."""
    data = bytearray(data)
    struct.pack_into("<H", data, 8, method)
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, method)
    return bytes(data)


def sparse(name: str) -> bytes:
    """A tar of one old GNU sparse member: a megabyte of which half a kilobyte is there."""
    header = bytearray(tar_bytes({name: b"x" * 512}, "w"))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[257:265] = b"ustar  \0"
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % (1 << 20)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    return bytes(header)


@pytest.mark.parametrize(
    ("name", "archive", "problem"),
    [
        ("a.zip", encrypted(zip_bytes(clips("bad", 1))), "bad.mp4' is encrypted"),
        ("a.zip", of_method(zip_bytes(clips("bad", 1)), 99), "bad.mp4' cannot be read: That compression method is not"),
        ("a.tar", tar_bytes({"b\udce9d.mp4": b"x"} | clips(1), "w"), "of a name that is not UTF-8"),
        ("a.tar", tar_bytes({"d/" * 2000 + "bad.mp4": b"x"} | clips(1), "w"), "more than 64 folders deep"),
        ("a.zip", zip_bytes({"d/" * 2000 + "bad.mp4": b"x"} | clips(1)), "more than 64 folders deep"),
        ("a.tar", sparse("bad.mp4")[:1024] + tar_bytes(clips(1), "w"), "bad.mp4' is sparse"),
    ],
)
def test_members_that_cannot_be_read_are_named_and_the_rest_goes_on(hub, tmp_path, name, archive, problem):
    hub.add(REPO, data_set(1, "bad") | {f"videos/EpicKitchens/{name}": archive})
    with pytest.raises(DataError, match="1 of 4 media") as error:
        get(tmp_path, levels=("L1",))
    assert (error.value.exit_code, problem in str(error.value)) == (4, True), error.value
    assert videos(tmp_path) == clips(1, folder="videos/EpicKitchens/")
    assert read_data_manifest(tmp_path).media["videos/EpicKitchens/1.mp4"].size == CLIP_BYTES


def test_the_command_names_odd_members(hub, tmp_path):
    archive = tar_bytes({"b\udce9d.mp4": b"x"} | clips(1), "w")
    hub.add(REPO, data_set(1, "bad") | {"videos/EpicKitchens/a.tar": archive})
    command = ["data", "download", "--to", str(tmp_path / "data"), "--levels", "L1"]
    done = COMMANDS.run(command, cwd=tmp_path, env=hub.environment(tmp_path / "hf"), timeout=120)
    assert (done.returncode, "of a name that is not UTF-8" in done.stderr) == (4, True), done.stderr
    assert "This is a bug" not in done.stderr


def bomb(declared: int) -> bytes:
    info = tarfile.TarInfo("other.mp4")
    info.size = declared
    return gzip.compress(info.tobuf() + bytes(1 << 20))


def long_header() -> bytes:
    """A tar whose first header says that a gigabyte of attributes follows."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    return gzip.compress(info.tobuf() + bytes(1 << 20))


def zip_bomb() -> bytes:
    data = bytearray(zip_bytes(clips("other", 1)))
    struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 24, 4_000_000_000)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "archive", "problem"),
    [
        ("a.tar.gz", bomb(1 << 40), "would unpack to more than 100 times its size"),
        ("a.tar.gz", long_header(), "cannot be unpacked: a header of 1073741824 bytes"),
        ("a.tar.gz", tar_bytes(clips(1)) + gzip.compress(bytes(100 << 20)), "more than 100 times its size"),
        ("a.zip", zip_bomb(), "would unpack to more than 100 times its size"),
        ("a.zip", b"no zip at all" * 9, "cannot be unpacked: File is not a zip file"),
        ("a.zip", zip_bytes(clips(1)).replace(b"1.mp4", b"\xff.mp4"), "2 of 4 media"),
        ("a.tar.gz", b"\x1f\x8b nothing", "a.tar.gz cannot be unpacked"),
    ],
)
def test_bombs_and_nonsense_are_refused(hub, tmp_path, name, archive, problem):
    hub.add(REPO, data_set(1, "absent") | {f"videos/EpicKitchens/{name}": archive})
    with pytest.raises(DataError, match=problem):
        get(tmp_path, levels=("L1",))
    assert videos(tmp_path) == {}
    assert not (tmp_path / WORK).exists()


def test_a_manifest_with_any_names(tmp_path):
    manifest = read_data_manifest(tmp_path)
    manifest.media = {"videos/caf\udce9.mp4": MediaEntry(1, "\ud83d.zip"), "videos/茶.mp4": MediaEntry(2, "a.zip")}
    write_data_manifest(tmp_path, manifest)
    assert read_data_manifest(tmp_path).media == manifest.media
    assert "茶" in (tmp_path / MANIFEST).read_text()


def test_a_list_of_files_that_leads_outside(hub, tmp_path):
    hub.add(REPO, data_set(1) | {"videos/../../../1.mp4": b"x", "videos/EpicKitchens/b/1.mp4": clip("1.mp4")})
    get(tmp_path / "a" / "data", levels=("L1",))
    assert videos(tmp_path / "a" / "data") == clips(1, folder="videos/EpicKitchens/b/")
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "cache"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"data"}


# unpacked by hand


def test_clips_in_sub_folders_are_found_without_a_walk_for_each(tmp_path, monkeypatch):
    names = [f"c{n}" for n in range(30)]
    rows = [evaluation_row(name) for name in names]
    write_rows(tmp_path / "annotations/validation_L1.jsonl", rows)
    for n, name in enumerate(names):
        for path in (f"videos/EpicKitchens/batch_{n % 3}/{name}.mp4", f"images/epic/part/{name}.png"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(clip(name))
    (tmp_path / "videos/again").symlink_to(tmp_path / "videos")  # a circle
    read = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.append(path) or scan(path))
    questions = load_questions(tmp_path, ("L1",))
    assert tmp_path / "videos/EpicKitchens/batch_2" in read
    assert len(read) == len(set(read))
    assert [q.video for q in questions] == [
        tmp_path / f"videos/EpicKitchens/batch_{n % 3}/{name}.mp4" for n, name in enumerate(names)
    ]
    (status,) = data_status(tmp_path, ("L1",))
    assert (status.missing, status.error) == ((), None)


def test_two_files_of_one_name(tmp_path):
    write_rows(tmp_path / "annotations/validation_L1.jsonl", [evaluation_row(1)])
    folders = [tmp_path / "videos/EpicKitchens" / name for name in ("batch_1", "batch_2")]
    for folder in (*folders, tmp_path / "videos/Ego4D/batch_1"):
        folder.mkdir(parents=True)
        (folder / "1.mp4").write_bytes(b"a clip")
    assert load_questions(tmp_path, ("L1",))[0].video == folders[0] / "1.mp4"  # equal ones
    (folders[1] / "1.mp4").write_bytes(b"b clip")
    with pytest.raises(DataError, match=r"batch_1/1\.mp4 and .*batch_2/1\.mp4 are different files.*move the right one"):
        load_questions(tmp_path, ("L1",))
    (tmp_path / "videos/EpicKitchens/1.mp4").write_bytes(b"the clip")
    assert load_questions(tmp_path, ("L1",))[0].video == tmp_path / "videos/EpicKitchens/1.mp4"
    shutil.rmtree(tmp_path / "videos/EpicKitchens")
    assert not load_questions(tmp_path, ("L1",))[0].video.exists()  # Ego4D's is another clip
