"""Question and media -> request, for every suite. The wording is ours; --prompt-file replaces it, under another id."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError
from seedbench_r1.types import Kind, Media, Question, Request, Template, to_json

_TASK = """{question}

{options}

"""
_FORMAT = (
    "Reason step by step inside <think> </think>: what has been done, what the scene looks like now, and what that "
    "leaves to do. Then write the letter of the best option, and nothing more, inside <answer> </answer>. "
    "Example of the form: <think> your reasoning </think><answer>A</answer>"
)

DEFAULT_TEMPLATE = Template(
    {
        "with_video": "The video shows what has been done so far; the image shows the current view.\n\n"
        + _TASK
        + "Exactly one option is the right next action. "
        + _FORMAT,
        "without_video": "The image shows the current view.\n\n"
        + _TASK
        + "Exactly one option is the right next action. "
        + _FORMAT,
    }
)

# What a template by kind calls them: the names of Video-R1's files
WORDING_OF_KIND: dict[Kind, str] = {
    "choice": "multiple choice",
    "numerical": "numerical",
    "ocr": "OCR",
    "free-form": "free-form",
    "regression": "regression",
}

_PLACEHOLDER = re.compile(r"\{(question|options|medium)\}")


def format_options(question: Question) -> str:
    """One option per line, lettered: "A. wash the cup". Empty if there are none."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(question.letters, question.options, strict=True))


def wording_name(question: Question, template: Template) -> str:
    """Which of the template's texts a question gets: by its media (SEED-Bench-R1) or by its kind."""
    # Two forms of template exist; the keys say which.
    if "with_video" in template.wording:
        return "without_video" if question.video is None else "with_video"
    return WORDING_OF_KIND[question.kind]


def build_prompt(question: Question, template: Template) -> str:
    """The text part of the user's message. Texts are inserted once and never searched for placeholders."""
    name = wording_name(question, template)
    values = {"question": question.text, "options": format_options(question)}
    # {medium} is no placeholder of SEED-Bench-R1's own wording: there it stays as it is.
    if name not in ("with_video", "without_video"):
        values["medium"] = "image" if question.video is None else "video"
    return _PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group(0)), template.wording[name])


def build_messages(question: Question, template: Template) -> tuple[dict[str, Any], ...]:
    """Chat messages: the video and the image that there are, then text. With the template's system message, if any."""
    # The clip before the view, as in the paper: what has been done, then what is seen now.
    media = {"video": question.video, "image": question.image}
    parts: list[dict[str, str]] = [{"type": name} for name, path in media.items() if path is not None]
    parts.append({"type": "text", "text": build_prompt(question, template)})
    user = {"role": "user", "content": parts}
    if template.system is None:
        return (user,)
    return ({"role": "system", "content": [{"type": "text", "text": template.system}]}, user)


def build_request(question: Question, media: Media, template: Template) -> Request:
    """A question and its pixels as a backend wants them."""
    request = Request.of(question.question_id, build_messages(question, template), media)
    return replace(request, thinking=template.thinking)


def template_sha(template: Template) -> str:
    """First 12 hex digits of the sha256 of the wording."""
    return hashlib.sha256(json.dumps(to_json(template), sort_keys=True).encode()).hexdigest()[:12]


def load_template(path: Path, default: Template = DEFAULT_TEMPLATE) -> Template:
    """Read a prompt file: TOML with a text under each name that the suite's own wording has and, optionally, `system`.

    Raises:
        ConfigError: the file is absent or invalid, a key is unknown or missing, or a placeholder is absent.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Prompt file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Prompt file {path} is not valid TOML: {error}.") from error
    # A misspelt key would silently leave the default in place.
    unknown = sorted(set(table) - {"system", *default.wording})
    if unknown:
        names = ", ".join(repr(name) for name in default.wording)
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}. A prompt file of this suite has {names}, 'system'.")
    for name, wording in default.wording.items():
        _check_wording(path, name, table.get(name), needs_options="{options}" in wording)
    system = table.get("system")
    if system is not None and not isinstance(system, str):
        raise ConfigError(f"{path}: system must be a string.")
    return Template({name: table[name] for name in default.wording}, system=system)


def prompt_file_table(template: Template) -> dict[str, str]:
    """The inverse of load_template: what its file holds. --thinking is no part of it."""
    return dict(template.wording) | ({} if template.system is None else {"system": template.system})


def _check_wording(path: Path, name: str, wording: object, *, needs_options: bool) -> None:
    if not isinstance(wording, str):
        raise ConfigError(f"{path}: {name!r} is missing or not a string.")
    for placeholder in ("{question}", "{options}") if needs_options else ("{question}",):
        if placeholder not in wording:
            raise ConfigError(f"{path}: {name!r} has no {placeholder}. Put it where the text should appear.")
