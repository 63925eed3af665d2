"""What comes from outside reaches no terminal raw; on a terminal only our own colours and bars do."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from seedbench_r1.cli import console
from seedbench_r1.terminal import InertStream, inert_streams, printable
from tests.api_server import ApiServer, Reaction, error, ok
from tests.command import RUN, cli
from tests.small_benchmark import copy_of, write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")

# Title, bell, clearing, concealing, C1, right-to-left, isolates, no width, line separator, return, backspace, DEL, tags
HOSTILE = "\x1b]0;t\x07\x1b[2J\x1b[8m\x9b8m\u202e\u2066\u200b\u2028\r\x08\x7f\U000e0041"
# On a terminal: styles, hidden cursor, cleared line, cursor up, as rich draws a live display
RICH = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r(?=\n|\x1b|$)")
KEY = "sk-test-0123456789abcdef"


def raw(text: str) -> set[str]:
    """Characters that a terminal might obey."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n", "\t"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stream_in_a_file_shows_everything_as_text():
    inner = io.StringIO()
    stream = InertStream(inner)
    assert stream.write(f"a{HOSTILE}b\n\t") == len(HOSTILE) + 4
    stream.writelines(["\x1b[31mred\x1b[0m\n"])
    assert not raw(inner.getvalue())
    assert inner.getvalue().startswith(r"a\x1b]0;t\x07\x1b[2J\x1b[8m\u009b8m\u202e\u2066\u200b\u2028")
    assert "\\x1b[31mred" in inner.getvalue()
    assert not hasattr(stream, "buffer")


def test_a_stream_on_a_terminal_keeps_bars_alone():
    inner = Terminal()
    stream = InertStream(inner)
    for text in ("\r 10 %|##", "\x1b[A\x1b[A"):
        stream.write(text)
    assert inner.getvalue() == "\r 10 %|##\x1b[A\x1b[A"
    stream.write(f"\x1b[31m{HOSTILE} \x1b[A up")
    assert inner.getvalue().endswith("\\x1b[31m" + printable(HOSTILE) + " \\x1b[A up")


def test_a_bar_in_a_file_is_a_line_for_each_state():
    inner = io.StringIO()
    stream = InertStream(inner)
    for state in ("\r 10 %", "\r 20 %"):
        stream.write(state)
    assert inner.getvalue() == "\n 10 %\n 20 %"


def test_text_that_is_drawn_without_markup_is_inert_too(capsys):
    from rich.text import Text

    with inert_streams():
        console.out().print(Text(f"a{HOSTILE}b"))
        console.out().print(f"c{HOSTILE}d")
        print(f"e{HOSTILE}f")
        print(f"g{HOSTILE}h", file=sys.stderr)
    done = capsys.readouterr()
    assert not raw(done.out + done.err)
    assert done.out.count("\\x1b]0;t") == 3
    assert done.err.count("\\x1b]0;t") == 1


def toml(text: str) -> str:
    """As JSON, but without surrogate pairs."""
    return json.dumps(text).replace("\\udb40\\udc41", "\\U000e0041")


def media_of(root: Path, row: dict[str, str]) -> Path:
    return root / "videos" / row["video_source"] / row["video_basename"]


@pytest.fixture(scope="module")
def world(data_root, tmp_path_factory) -> Path:
    """A benchmark, a run, its verdicts, settings and a checkpoint, all named or filled with HOSTILE."""
    folder = tmp_path_factory.mktemp("world")
    root = copy_of(data_root, folder / f"data{HOSTILE}")
    annotations = root / "annotations" / "validation_L1.jsonl"
    rows = [json.loads(line) for line in annotations.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row |= {"question": f"{HOSTILE}{row['question']}", "task_goal": HOSTILE, "video_id": f"v{HOSTILE}{number}"}
        row |= {f"choice_{letter}": f"{letter}{HOSTILE}" for letter in "abcd"}
    # One file is there under a name that is hostile, one is absent.
    there, absent = [row for row in rows if media_of(root, row).exists()][:2]
    for row in (there, absent):
        path = media_of(root, row)
        row["video_basename"] = f"{path.stem}{HOSTILE}.mp4"
        if row is there:
            path.rename(media_of(root, row))
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answer = f"<think>{HOSTILE} A {HOSTILE}</think><answer>A</answer>"
    script = write_script(folder / f"script{HOSTILE}.json")
    script.write_text(json.dumps({"default": answer, "seconds": 0.0, "answers": {}}))
    (folder / "bad.toml").write_text(f"model = {toml(HOSTILE)}\n{toml('x' + HOSTILE)} = 1\n")
    (folder / "value.toml").write_text(f"levels = {toml('L1' + HOSTILE)}\n")
    checkpoint = folder / f"model{HOSTILE}"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"model_type": HOSTILE}))
    words = ("eval", "--backend", "fake", "--model", script, "--data-root", root, "--levels", "L1", "--workers", 1)
    words += ("--allow-missing",)
    for name in ("one", "two"):
        done = cli(*words, "--run-name", name + HOSTILE, cwd=folder)
        assert done.returncode == 5, done.stderr
        assert not raw(done.stdout + done.stderr)
        assert "\\x1b]0;t" in done.stdout + done.stderr
    return folder


RUN_ONE, RUN_TWO, ROOT = f"runs/one{HOSTILE}", f"runs/two{HOSTILE}", f"data{HOSTILE}"
# Each prints something of what is hostile.
COMMANDS = {
    "option": ("eval", f"--{HOSTILE}"),
    "argument": ("doctor", f"x{HOSTILE}"),
    "command": (HOSTILE,),
    "value": ("demo", "generate", "--blank", HOSTILE),
    "option of a group": ("data", "status", f"--{HOSTILE}"),
    "levels": ("data", "status", "--data-root", ROOT, "--levels", HOSTILE),
    "checkpoint": ("eval", "--model", f"model{HOSTILE}", "--data-root", ROOT),
    "absent checkpoint": ("-vv", "eval", "--model", f"absent{HOSTILE}", "--data-root", ROOT),
    "training": ("train", "--algo", "grpo", "--model", f"model{HOSTILE}", "--data", ROOT, "--out", "o", "--dry-run"),
    "key of TOML": ("eval", "--config", "bad.toml"),
    "value of TOML": ("eval", "--config", "value.toml", "--backend", "fake", "--model", "x", "--data-root", ROOT),
    "dry run": ("eval", "--backend", "fake", "--model", f"script{HOSTILE}.json", "--data-root", ROOT, "--dry-run"),
    "settings": ("eval", "--backend", "fake", "--model", HOSTILE, "--data-root", ROOT, "--print-config"),
    "show": ("show", RUN_ONE),
    "question": ("show", RUN_ONE, "--question", "L1/0"),
    "question as JSON": ("show", RUN_ONE, "--question", "L1/0", "--json"),
    "failed": ("show", RUN_ONE, "--failed"),
    "no such question": ("show", RUN_ONE, "--question", HOSTILE),
    "status": ("data", "status", "--data-root", ROOT, "--levels", "L1"),
    "status as JSON": ("data", "status", "--data-root", ROOT, "--levels", "L1", "--json"),
    "verify": ("data", "verify", "--data-root", ROOT, "--levels", "L1"),
    "prepare": ("data", "prepare", "--data-root", ROOT, "--levels", "L1", "--frame-cache", f"cache{HOSTILE}"),
    "judge": ("judge", RUN_ONE),
    "judge as JSON": ("judge", RUN_ONE, "--json"),
    "labels": ("judge", "calibrate", RUN_ONE, "--out", f"labels{HOSTILE}.csv", "--n", "2"),
    "board": ("leaderboard", "build", RUN_ONE, RUN_TWO, "-o", f"page{HOSTILE}.html", "--no-published"),
    "difference": ("leaderboard", "diff", RUN_ONE, RUN_TWO),
    "export": ("export", "hub", RUN_ONE, "--out", f"export{HOSTILE}"),
    "import": ("import", "lmms-eval", f"absent{HOSTILE}.jsonl", "--model-name", HOSTILE, "--data-root", ROOT),
    "experiment": ("experiment", "run", "miniature", "--out", f"out{HOSTILE}", "--only", HOSTILE),
    "doctor": ("doctor", "--data-root", ROOT),
    "doctor as JSON": ("doctor", "--data-root", ROOT, "--json"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_on_a_pipe(world, name):
    done = cli(*COMMANDS[name], cwd=world)
    assert not raw(done.stdout + done.stderr), (done.stdout + done.stderr).encode("unicode_escape")
    assert "]0;t" in done.stdout + done.stderr, done.stdout + done.stderr
    assert "This is a bug" not in done.stderr
    if "--json" in COMMANDS[name]:
        assert [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "reaction",
    [
        error(401, HOSTILE),
        error(400, HOSTILE),
        ok(HOSTILE),
        Reaction(body=f"no JSON {HOSTILE}".encode()),
        Reaction(raw=f"HTTP/1.1 401 No{HOSTILE}\r\nContent-Length: 0\r\n\r\n".encode()),
        Reaction(307, headers={"Location": "http://elsewhere\x1b[2J/"}),
        ok(json.dumps({"supports": "A", "consistent": True, "reason": HOSTILE})),
    ],
    ids=["refused", "error", "answer", "no JSON", "status line", "redirection", "reason of a judge"],
)
@pytest.mark.parametrize("command", ["eval", "judge"])
def test_what_a_server_says(world, command, reaction):
    with ApiServer([reaction] if command == "eval" else [ok("ok"), reaction]) as server:
        asked = ("--concurrency", 1, "--limit", 2)
        words = (
            "eval",
            "--backend",
            "openai:m",
            "--base-url",
            server.url,
            "--data-root",
            ROOT,
            "--levels",
            "L1",
            *asked,
        )
        if command == "judge":
            words = ("judge", RUN_TWO, "--judge", "openai:m", "--judge-base-url", server.url, "--tries", 1, *asked)
        else:
            words = (
                *words,
                *asked,
                "--allow-missing",
                "--api-tries",
                1,
                "--fresh",
                "--run-name",
                "served",
                "--workers",
                1,
            )
        first = cli("-vv", *words, cwd=world, OPENAI_API_KEY=KEY)
        shown = cli("show", RUN_TWO if command == "judge" else "runs/served", "--question", "L1/2", cwd=world)
        failed = cli("show", RUN_TWO if command == "judge" else "runs/served", "--failed", cwd=world)
    for done in (first, shown, failed):
        assert not raw(done.stdout + done.stderr), (done.stdout + done.stderr).encode("unicode_escape")
        assert "This is a bug" not in done.stderr


def on_a_terminal(words: list[str], cwd: Path) -> str:
    """What a program writes to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"}
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environment)
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = screen.read(65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
        process.wait(300)
    # The terminal's own driver makes \r\n of \n.
    return seen.decode("utf-8").replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["option", "question", "run", "bug"])
def test_on_a_terminal(world, name):
    fake = ("eval", "--backend", "fake", "--model", f"script{HOSTILE}.json", "--data-root", ROOT, "--levels", "L1")
    words = {
        "run": (*fake, "--allow-missing", "--run-name", f"live{HOSTILE}", "--workers", "1"),
        "bug": ("-vv", "show", f"absent{HOSTILE}"),
    } | {key: COMMANDS[key] for key in ("option", "question")}
    seen = on_a_terminal([*RUN, *words[name]], world)
    assert "\x1b[" in seen or name in ("question", "bug")
    assert not raw(RICH.sub("", seen)), RICH.sub("", seen).encode("unicode_escape")
    assert "\x1b]" not in seen
    assert "\x1b[2J" not in seen
    assert "\x1b[8m" not in seen
    assert "]0;t" in seen


def test_what_a_library_prints_below_a_live_display(tmp_path):
    """rich takes what is printed meanwhile, and reads its escapes as styles and links."""
    code = f"""
import sys
from rich.live import Live
from seedbench_r1.cli import console
from seedbench_r1.terminal import inert_streams
with inert_streams(), Live("a bar", console=console.err()):
    print({HOSTILE!r} + "\\x1b]8;;http://x\\x1b\\\\link", file=sys.stderr)
"""
    seen = on_a_terminal([sys.executable, "-c", code], tmp_path)
    assert "a bar" in seen
    assert "link" in seen
    assert not raw(RICH.sub("", seen)), RICH.sub("", seen).encode("unicode_escape")
    assert "\x1b[8m" not in seen
