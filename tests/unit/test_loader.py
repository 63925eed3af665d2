"""The decoding pool under hangs, crashes, bugs, abandonment and a parent that is killed. About 19 s."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.media.container import MediaError
from seedbench_r1.media.loader import PREFETCH_PER_WORKER, FrameLoader
from seedbench_r1.types import Failure, Media, Question, VideoConfig
from tests.media import make_clip, make_image

CONFIG = VideoConfig()
REPOSITORY = Path(__file__).resolve().parents[2]


def question(name: str) -> Question:
    """A question whose image name tells the stand-in below what to do."""
    return Question(f"L1/{name}", "L1", "?", ("a", "b", "c", "d"), "A", None, Path(name), "v", None, "goal")


def questions(*names: str) -> list[Question]:
    return [question(name) for name in names]


def some_media(image: np.ndarray) -> Media:
    return Media(None, (), None, None, image, None)


def deadlock() -> None:
    """Wait for ever in native code with the interpreter lock held (PyDLL keeps it); no signal handler can run."""
    mutex = ctypes.create_string_buffer(64)  # a pthread_mutex_t: all zero is PTHREAD_MUTEX_INITIALIZER
    library = ctypes.PyDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def act(video: Path | None, image: Path, config: VideoConfig) -> Media:
    """Runs in a worker: does what the image's name says, else returns an image of the worker's process id.

    Where the image has a folder, a file of its name is made there first, so that a test sees that the work has begun.
    """
    name = image.name.split("-")[0]
    if image.parent != Path():
        image.touch()
    if name == "meet":
        wait_for_files(image.parent, 2)
    if name == "hang":
        deadlock()
    if name == "hold":
        time.sleep(3600)
    if name == "slow":
        time.sleep(0.6)
    if name == "crash":
        ctypes.string_at(0)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "bad":
        raise MediaError(f"{image}: broken")
    if name == "bug":
        raise KeyError("a bug")
    if name == "timeout":
        raise TimeoutError("of a network file system")
    if name == "memory":
        raise MemoryError
    if name == "big":
        return some_media(np.full((2000, 2000, 3), 7, dtype=np.uint8))
    return some_media(np.array([os.getpid()], dtype=np.int64))


def report_modules(video: Path | None, image: Path, config: VideoConfig) -> Media:
    names = [name for name in ("torch", "pandas", "transformers", "decord", "av") if name in sys.modules]
    return some_media(np.array([name.encode() for name in names]))


def load_then_report_modules(video: Path | None, image: Path, config: VideoConfig) -> Media:
    from seedbench_r1.media.frames import load_media

    load_media(video, image, config)
    return report_modules(video, image, config)


def open_loader(load: Callable[[Path | None, Path, VideoConfig], Media] = act, **options: float) -> FrameLoader:
    settings = {"workers": 2, "timeout_s": 30.0} | options
    return FrameLoader(CONFIG, load=load, **settings)  # type: ignore[arg-type]


def collect(loader: FrameLoader, *names: str) -> dict[str, Media | Failure]:
    return {item.image.name: result for item, result in loader.stream(questions(*names))}


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def wait_for_files(folder: Path, n: int) -> None:
    """Until n workers have begun on images of this folder."""
    end = time.monotonic() + 120
    while len(list(folder.iterdir())) < n:
        assert time.monotonic() < end, f"no {n} files within 120 s"
        time.sleep(0.01)


def pids_of_both(loader: FrameLoader) -> set[int]:
    """The process ids of a loader's two workers, once both have answered."""
    end, seen = time.monotonic() + 120, set[int]()
    while len(seen) < 2:
        assert time.monotonic() < end, "a worker does not start"
        results = collect(loader, *[f"slow-{index}" for index in range(4)])
        seen |= {int(result.image[0]) for result in results.values() if isinstance(result, Media)}
    return seen


def worker_pids() -> list[int]:
    """Children of this process that are workers (not multiprocessing's resource tracker)."""
    return [child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_warning_to_all_processes_ends_no_decoding() -> None:
    with open_loader(workers=1) as opened:
        stream = opened.stream(questions("a", "slow"))
        next(stream)
        for pid in worker_pids():
            os.kill(pid, signal.SIGUSR1)
        assert isinstance(next(stream)[1], Media)


@pytest.fixture(scope="module")
def loader() -> Iterator[FrameLoader]:
    with open_loader(timeout_s=2.0) as opened:
        yield opened


def test_every_question_comes_once_whatever_happens_to_its_neighbours(loader: FrameLoader) -> None:
    names = ["a", "crash", "b", "hang", "c", "bad", "killed", "d", "big", "memory", "e", "hang-2", "f"]
    results = collect(loader, *names)
    assert sorted(results) == sorted(names)
    failed = {name: result.message for name, result in results.items() if isinstance(result, Failure)}
    assert failed == {
        "crash": "crash: the decoding process died (signal 11, SIGSEGV)",
        "killed": "killed: the decoding process died (signal 9, SIGKILL)",
        "bad": "bad: broken",
        "memory": "memory: not enough memory to decode it",
        "hang": "hang: decoding took longer than 2 s and was stopped. Check the file, or raise --decode-timeout",
        "hang-2": "hang-2: decoding took longer than 2 s and was stopped. Check the file, or raise --decode-timeout",
    }
    assert {result.kind for result in results.values() if isinstance(result, Failure)} == {"media_error"}
    assert results["big"].image.sum() == 7 * 2000 * 2000 * 3  # type: ignore[union-attr]


def test_a_worker_that_hangs_in_native_code_is_dead_after_its_time(loader: FrameLoader) -> None:
    before = pids_of_both(loader)
    started = time.monotonic()
    collect(loader, "hang", "hang-2")
    assert time.monotonic() - started < 30  # both hang at once: 2 s, then the kill; the deadlock lasts for ever
    assert gone_within(list(before), 30)


def test_the_time_limit_does_not_count_waiting_in_the_queue(loader: FrameLoader) -> None:
    results = collect(loader, *[f"slow-{index}" for index in range(12)])  # 2 workers: the last one waits for 3 s
    assert not [result for result in results.values() if isinstance(result, Failure)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("bug", "KeyError: 'a bug', test_loader.py line"), ("timeout", "TimeoutError: of a network file system")],
)
def test_whatever_the_loading_function_raises_is_one_question_s_failure(
    loader: FrameLoader, name: str, message: str
) -> None:
    results = collect(loader, "a", name, "b")
    assert isinstance(results["a"], Media)
    assert isinstance(results["b"], Media)
    failure = results[name]
    assert isinstance(failure, Failure)
    assert failure.kind == "media_error"
    assert f"{name}: cannot be read ({message}" in failure.message


def test_a_worker_killed_while_idle_is_replaced() -> None:
    with open_loader() as loader:
        for _ in range(2):
            [pid, _] = pids_of_both(loader)
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)  # the pool finds out
            assert all(isinstance(result, Media) for result in collect(loader, *"abcdef").values())


def test_at_most_four_questions_for_each_worker_are_pulled_ahead() -> None:
    taken: list[str] = []

    def lazily() -> Iterator[Question]:
        for index in range(24):
            taken.append(str(index))
            yield question(str(index))

    with open_loader() as loader:  # two workers
        for n_received, _ in enumerate(loader.stream(lazily()), start=1):
            assert len(taken) <= n_received + 2 * PREFETCH_PER_WORKER
    assert len(taken) == 24


def test_several_processes_work_at_once(tmp_path: Path) -> None:
    with open_loader(timeout_s=120.0) as opened:  # each waits for the other
        results = [media for _, media in opened.stream(questions(str(tmp_path / "meet-1"), str(tmp_path / "meet-2")))]
    pids = {int(media.image[0]) for media in results if isinstance(media, Media)}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_closing_is_prompt_while_jobs_run_and_leaves_no_process(tmp_path: Path) -> None:
    others = set(worker_pids())
    loader = open_loader()
    with loader:
        stream = loader.stream(questions("a", str(tmp_path / "hang"), str(tmp_path / "hang-2"), "hold"))
        next(stream)
        pids = [pid for pid in worker_pids() if pid not in others]
        assert len(pids) == 2
        wait_for_files(tmp_path, 2)  # both hang now
        started = time.monotonic()
    assert time.monotonic() - started < 20  # a hanging decoder has 30 s
    assert gone_within(pids, 10)
    loader.close()  # twice is harmless


def test_closing_says_nothing_of_a_worker_that_still_starts(tmp_path: Path) -> None:
    """The first worker cannot end by itself; meanwhile the other finds its way into a pool that is being closed."""
    script = """
        import os, signal, time
        from multiprocessing import active_children
        from seedbench_r1.media.loader import FrameLoader
        from seedbench_r1.types import VideoConfig

        if __name__ == "__main__":
            with FrameLoader(VideoConfig(), workers=2, timeout_s=30):
                first = min(active_children(), key=lambda process: process.pid)
                os.kill(first.pid, signal.SIGSTOP)
        else:
            time.sleep(1)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert (done.returncode, done.stderr) == (0, "")


def test_an_abandoned_stream_frees_its_workers_for_the_next_one() -> None:
    with open_loader() as loader:
        stream = loader.stream(questions("a", "hang", "hang-2"))
        next(stream)
        stream.close()
        started = time.monotonic()
        assert set(collect(loader, "b", "c")) == {"b", "c"}
        assert time.monotonic() - started < 20  # the limit is 30 s


@pytest.mark.parametrize("names", [["hold", "hold-2"], ["a", "hang", "hang-2"]])
def test_a_stop_ends_the_stream_while_it_waits_for_decoders(names: list[str], tmp_path: Path) -> None:
    with open_loader() as loader:
        stop, set_at = threading.Event(), []

        def set_it() -> None:
            wait_for_files(tmp_path, len(names))  # all that is left waits for ever
            while len(received) < len(names) - 2:
                time.sleep(0.01)
            set_at.append(time.monotonic())
            stop.set()

        received: list[str] = []
        threading.Thread(target=set_it).start()
        for item, _ in loader.stream(questions(*[str(tmp_path / name) for name in names]), stop=stop):
            received.append(item.image.name)
        assert received == [name for name in names if name == "a"]
        assert time.monotonic() - set_at[0] < 20  # a hanging decoder has 30 s
        began = time.monotonic()
    assert time.monotonic() - began < 20  # the workers are killed, not waited for


def test_a_stop_gives_up_what_is_ready(tmp_path: Path) -> None:
    stop = threading.Event()
    with open_loader() as loader:
        stream = loader.stream(questions(*[str(tmp_path / name) for name in "abc"]), stop=stop)
        next(stream)
        wait_for_files(tmp_path, 3)
        stop.set()
        assert list(stream) == []
        assert set(collect(loader, "d", "e")) == {"d", "e"}


def test_a_closed_loader_says_so_instead_of_waiting() -> None:
    loader = open_loader()
    loader.close()
    with pytest.raises(ResourceError, match="do not stay alive"):
        collect(loader, "a")


def test_workers_ignore_the_terminal_s_interrupt() -> None:
    others = set(worker_pids())
    with open_loader() as loader:
        before = pids_of_both(loader)
        assert before == set(worker_pids()) - others
        for pid in before:
            os.kill(pid, signal.SIGINT)
        assert pids_of_both(loader) == before


def test_workers_import_neither_torch_nor_pandas(tmp_path: Path) -> None:
    real = dataclasses.replace(
        question("x"), video=make_clip(tmp_path / "clip.mp4"), image=make_image(tmp_path / "image.png")
    )
    with open_loader(load=load_then_report_modules, workers=1) as loader:
        [(_, media)] = loader.stream([real])
    assert isinstance(media, Media)
    assert [name.decode() for name in media.image] == ["decord", "av"]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
@pytest.mark.parametrize("name", ["hang", "hold"])
def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path, name: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        from tests.unit.test_loader import open_loader, questions
        if __name__ == "__main__":
            with open_loader() as loader:
                for item, media in loader.stream(questions("a", "{name}", "{name}-2")):
                    print(item.question_id, flush=True)
        """)
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "L1/a\n"
    pids = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert len(pids) >= 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within(pids, 30)


@pytest.mark.parametrize("options", [{"workers": 0}, {"timeout_s": 0.0}], ids=["workers", "timeout"])
def test_numbers_that_cannot_work_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 1 worker"):
        open_loader(**options)


def test_an_unknown_reader_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="Unknown video reader 'vlc'"):
        FrameLoader(dataclasses.replace(CONFIG, reader="vlc"), workers=1, timeout_s=1)  # type: ignore[arg-type]
