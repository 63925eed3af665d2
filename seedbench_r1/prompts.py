"""Question -> chat messages. The wording is ours; --prompt-file replaces it, under another protocol id."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError
from seedbench_r1.types import LETTERS, Media, Question, Request, Template, to_json

_TASK = """{question}

{options}

"""
_FORMAT = (
    "Reason step by step inside <think> </think>: what has been done, what the scene looks like now, and what that "
    "leaves to do. Then write the letter of the best option, and nothing more, inside <answer> </answer>. "
    "Example of the form: <think> your reasoning </think><answer>A</answer>"
)

DEFAULT_TEMPLATE = Template(
    with_video=(
        "The video shows what has been done so far; the image shows the current view.\n\n"
        + _TASK
        + "Exactly one option is the right next action. "
        + _FORMAT
    ),
    without_video=(
        "The image shows the current view.\n\n" + _TASK + "Exactly one option is the right next action. " + _FORMAT
    ),
)

_PLACEHOLDER = re.compile(r"\{(question|options)\}")


def format_options(question: Question) -> str:
    """One option per line, lettered: "A. wash the cup"."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=True))


def build_prompt(question: Question, template: Template) -> str:
    """The text part of the user's message."""
    wording = template.without_video if question.video is None else template.with_video
    values = {"question": question.text, "options": format_options(question)}
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], wording)


def build_messages(question: Question, template: Template) -> tuple[dict[str, Any], ...]:
    """Chat messages: video, then image, then text. A system message only if the template has one."""
    parts: list[dict[str, str]] = [] if question.video is None else [{"type": "video"}]
    parts.append({"type": "image"})
    parts.append({"type": "text", "text": build_prompt(question, template)})
    user = {"role": "user", "content": parts}
    if template.system is None:
        return (user,)
    return ({"role": "system", "content": [{"type": "text", "text": template.system}]}, user)


def build_request(question: Question, media: Media, template: Template) -> Request:
    """A question and its pixels as a backend wants them."""
    return Request(
        question_id=question.question_id,
        messages=build_messages(question, template),
        frames=media.frames,
        frame_indices=media.frame_indices,
        native_fps=media.native_fps,
        n_total=media.n_total,
        image=media.image,
        reader=media.reader,
        reader_note=media.reader_note,
    )


def template_sha(template: Template) -> str:
    """First 12 hex digits of the sha256 of the wording."""
    return hashlib.sha256(json.dumps(to_json(template), sort_keys=True).encode()).hexdigest()[:12]


def load_template(path: Path) -> Template:
    """Read a prompt file: TOML with `with_video`, `without_video` and, optionally, `system`.

    Raises:
        ConfigError: the file is absent or invalid, a key is unknown or missing, or a placeholder is absent.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Prompt file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Prompt file {path} is not valid TOML: {error}.") from error
    unknown = sorted(set(table) - {"system", "with_video", "without_video"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}. A prompt file has with_video, without_video, system.")
    for key in ("with_video", "without_video"):
        _check_wording(path, key, table.get(key))
    system = table.get("system")
    if system is not None and not isinstance(system, str):
        raise ConfigError(f"{path}: system must be a string.")
    return Template(with_video=table["with_video"], without_video=table["without_video"], system=system)


def _check_wording(path: Path, key: str, wording: object) -> None:
    if not isinstance(wording, str):
        raise ConfigError(f"{path}: {key} is missing or not a string.")
    for placeholder in ("{question}", "{options}"):
        if placeholder not in wording:
            raise ConfigError(f"{path}: {key} has no {placeholder}. Put it where the text should appear.")
