"""What a judge is asked and how its reply is read: prompts by version, their JSON schemas, and the judge id.

A version is never changed once verdicts of it exist; a better one is a new version with ids of its own.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from dataclasses import dataclass

from seedbench_r1.errors import ConfigError
from seedbench_r1.judges.run import JudgeCase
from seedbench_r1.statements import fold
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import LETTERS

MAX_TOKENS = {1: 300, 2: 2048}  # of a verdict, by version: from 2 on with room for a judge that reasons first
REASON_CHARACTERS = 4000  # of a reason that are kept

_PLACEHOLDER = re.compile(r"\{(question|options|reasoning|answer|letters|reply_letters)\}")
_LETTERS = re.compile(r"\{(letters|reply_letters)\}")
# Models wrap JSON in a Markdown block whatever they are asked.
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)

# Version 1 asked for the verdict before its reason; what a model writes first, it then defends.
ORDER = {1: ("supports", "consistent", "reason"), 2: ("reason", "supports", "consistent")}


class UnreadableVerdict(ValueError):
    """A reply that is not exactly what was asked for."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """What changes verdicts, and so is part of the judge id."""

    name: str  # "openai:gpt-x" or "local:Qwen2.5-7B-Instruct"
    prompt: str
    votes: int = 1
    temperature: float | None = 0.0  # of a single vote; several need more than 0 to differ; None: the server's own
    max_tokens: int = 300
    server: str | None = None  # base URL, for a model name may mean anything behind another server
    model: str | None = None  # hash of a local judge's files, template and tokeniser among them
    version: int = 1  # of schema and reading, and of our own prompt
    schema_sent: bool = True  # False: the server knows no schema, and the prompt alone asks for JSON

    @property
    def judge_id(self) -> str:
        """name / prompt version - hash of prompt, votes, temperature, limit, server and a local judge's files."""
        # As for four options, whatever a question has: one judge has one id, and that of earlier verdicts stays.
        prompt = _LETTERS.sub(lambda match: letters_in_words("ABCD")[match.group(1)], self.prompt)
        # A list, so that no two settings can run together into the same text.
        known: list[object] = [prompt, self.votes, self.temperature, self.max_tokens, self.server]
        if self.model is not None:
            known.append(self.model)
        # Last and only where it is so: the ids of verdicts made before stay what they were.
        if not self.schema_sent:
            known.append({"schema": None})
        digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:8]
        return f"{self.name}/v{self.version}-{digest}"


def asked_with(judge_id: str) -> tuple[str, int] | None:
    """(name, prompt version) of the id of a judge that is a language model; None of any other judge."""
    match = re.fullmatch(r"(.*)/v(\d+)-[0-9a-f]{8}", judge_id, re.DOTALL)
    return None if match is None else (match[1], int(match[2]))


def schema(version: int, letters: str = "".join(LETTERS)) -> dict[str, object]:
    """The JSON schema of a reply. Its properties stand in the order in which they are to be written."""
    keys: dict[str, object] = {
        "supports": {"type": "string", "enum": [*letters, "none"]},
        "consistent": {"type": "boolean"},
        "reason": {"type": "string"},
    }
    return {
        "type": "object",
        "properties": {key: keys[key] for key in ORDER[version]},
        "required": list(ORDER[version]),
        "additionalProperties": False,
    }


def letters_in_words(letters: str) -> dict[str, str]:
    """Placeholder -> the letters of the options, as a sentence and as the values of a reply have them."""
    return {
        "letters": f"{', '.join(letters[:-1])} or {letters[-1]}",
        "reply_letters": " | ".join(f'"{letter}"' for letter in letters),
    }


def own_prompt(version: int) -> str:
    """Our own wording of a version, as it stands in the package."""
    file = importlib.resources.files("seedbench_r1.judges").joinpath(f"judge_prompt_v{version}.txt")
    return file.read_text(encoding="utf-8")


def check_prompt(prompt: str, version: int) -> str:
    """Return a user's prompt. Raises ConfigError if it lacks a placeholder or asks for another version's order."""
    for name in ("question", "options", "reasoning", "answer"):
        if f"{{{name}}}" not in prompt:
            raise ConfigError(f"The judge's prompt has no {{{name}}}. Put it where the text should appear.")
    # Where the keys stand in the instruction that comes last.
    places = [prompt.rfind(f'"{key}"') for key in ORDER[version]]
    if -1 not in places and places != sorted(places):
        raise ConfigError(
            f"The judge's prompt names the keys of the reply in another order than {', '.join(ORDER[version])}, which "
            f"is that of --judge-prompt v{version}. Fix: put them in this order, or take "
            f"--judge-prompt v{3 - version}."
        )
    return prompt


def build_judge_prompt(case: JudgeCase, prompt: str) -> str:
    """The wording filled in. Texts are inserted once and never searched for placeholders."""
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(case.letters, case.options, strict=True))
    answer = f"{case.answer}. {case.options[case.letters.index(case.answer)]}"
    values = {"question": case.question, "options": options, "reasoning": case.reasoning, "answer": answer}
    values |= letters_in_words(case.letters)
    filled = _PLACEHOLDER.sub(lambda match: values[match.group(1)], prompt)
    # An answer may end in half of a surrogate pair, which no server and no tokenizer takes.
    return filled.encode("utf-8", "replace").decode("utf-8")


def read_verdict(text: str, case: JudgeCase, version: int) -> tuple[bool, str]:
    """(consistent, reason) of a reply. Raises UnreadableVerdict unless it is exactly the object that was asked for.

    A reply whose `consistent` does not follow from its `supports` and the answer contradicts itself: unreadable. From
    version 2 on an option of the same wording as the answer given counts as that answer.
    """
    stripped = _without_thoughts(text)
    fenced = _FENCE.fullmatch(stripped)
    try:
        # A key that stands twice is a judge that says two things.
        value = parse_json(fenced.group(1) if fenced else stripped, unique=version > 1)
    except ValueError as error:
        raise UnreadableVerdict("not JSON") from error
    order = ORDER[version]
    if not isinstance(value, dict) or set(value) != set(order):
        raise UnreadableVerdict(f"not an object with {order[0]}, {order[1]} and {order[2]}")
    supports, consistent, reason = value["supports"], value["consistent"], value["reason"]
    if supports not in (*case.letters, "none") or not isinstance(consistent, bool) or not isinstance(reason, str):
        raise UnreadableVerdict("a value of the wrong kind")
    # One of the two must be wrong, and nothing says which: a vote for neither.
    if consistent != (supports == case.answer or (version > 1 and _same_wording(case, supports))):
        raise UnreadableVerdict(f"supports {supports!r} and consistent {consistent} contradict each other")
    return consistent, f"{supports}: {reason[:REASON_CHARACTERS]}"


def _without_thoughts(text: str) -> str:
    """What follows a reasoning model's own thoughts."""
    stripped = text.strip()
    # A verdict may quote the tag that ends the judged reasoning.
    if stripped.startswith(("{", "```")):
        return stripped
    return stripped.rpartition("</think>")[2].strip()


def _same_wording(case: JudgeCase, supports: str) -> bool:
    """True if the option reads as the answer given does: annotation files have such pairs."""
    texts = dict(zip(case.letters, map(fold, case.options), strict=True))
    return supports in texts and texts[supports] == texts[case.answer]
