"""Transfer question -> chat messages. The wording is ours; --prompt-file replaces it, under another protocol id."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError
from seedbench_r1.suites.transfer_questions import PROBLEM_TYPES, TransferQuestion


@dataclass(frozen=True, slots=True)
class TransferTemplate:
    """Prompt wording by problem type. Placeholders: {question}, {options} and {medium}; all else is literal."""

    wording: dict[str, str]  # keys: PROBLEM_TYPES. {options}: "A. text" lines; {medium}: "video" or "image"
    system: str | None = None


def _wording(task: str, content: str, example: str) -> str:
    return (
        f"{task}\n\nFirst reason step by step inside <think> </think>: what the {{medium}} shows that matters here, "
        f"and what follows from it. Then write {content} inside <answer> </answer>. "
        f"Example of the form: <think> your reasoning </think><answer>{example}</answer>"
    )


DEFAULT_TEMPLATE = TransferTemplate(
    wording={
        "multiple choice": _wording(
            "{question}\n\n{options}\n\nExactly one option is right.",
            "the letter of the right option, and nothing more,",
            "A",
        ),
        "numerical": _wording(
            "{question}\n\nThe answer is a number.",
            "that number in digits, with decimals only if the question needs them, and nothing more,",
            "12",
        ),
        "OCR": _wording(
            "{question}\n\nThe answer is text that can be read in the {medium}.",
            "that text exactly as it stands there, and nothing more,",
            "EXIT",
        ),
        "free-form": _wording(
            "{question}\n\nAnswer in your own words.",
            "the answer, as short as it can be complete,",
            "your answer",
        ),
        "regression": _wording(
            "{question}\n\nThe answer is a number; give your best estimate.",
            "that number in digits, without its unit, and nothing more,",
            "3.5",
        ),
    }
)

_PLACEHOLDER = re.compile(r"\{(question|options|medium)\}")


def build_prompt(question: TransferQuestion, template: TransferTemplate) -> str:
    """The text part of the user's message."""
    values = {
        "question": question.text,
        "options": "\n".join(f"{a}. {text}" for a, text in zip(question.letters, question.options, strict=True)),
        "medium": "image" if question.video is None else "video",
    }
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template.wording[question.problem_type])


def build_messages(question: TransferQuestion, template: TransferTemplate) -> tuple[dict[str, Any], ...]:
    """Chat messages: the video or the image, then the text. A system message only if the template has one."""
    parts = [
        {"type": "image" if question.video is None else "video"},
        {"type": "text", "text": build_prompt(question, template)},
    ]
    user = {"role": "user", "content": parts}
    if template.system is None:
        return (user,)
    return ({"role": "system", "content": [{"type": "text", "text": template.system}]}, user)


def load_template(path: Path) -> TransferTemplate:
    """Read a prompt file: TOML with one text for each problem type and, optionally, `system`.

    Raises:
        ConfigError: the file is absent or invalid, a key is unknown or missing, or a placeholder is absent.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Prompt file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Prompt file {path} is not valid TOML: {error}.") from error
    names = ", ".join(f"{name!r}" for name in PROBLEM_TYPES)
    for key, value in table.items():
        if key not in (*PROBLEM_TYPES, "system") or not isinstance(value, str):
            raise ConfigError(f"{path}: {key!r} is unknown or not a text. The suite's prompt file has {names}, system.")
    for name in PROBLEM_TYPES:
        needed = ("{question}", "{options}") if name == "multiple choice" else ("{question}",)
        missing = [placeholder for placeholder in needed if placeholder not in table.get(name, "")]
        if missing:
            raise ConfigError(f"{path}: {name!r} is absent or has no {missing[0]}. The suite needs texts for {names}.")
    return TransferTemplate({name: table[name] for name in PROBLEM_TYPES}, table.get("system"))
