"""Whether a chat template comes to its end, and what it opens: it is a program of whoever wrote the checkpoint."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError
from seedbench_r1.types import Thinking

_SCRIPT = Path(__file__).with_name("render_within_limits.py")
TOO_MUCH = 3  # as the script has it, which is not imported: it would take jinja2 along
_LONGEST_S = 120.0  # also where the machine has no time for a process that needs a tenth of a second
_MEDIA = [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "?"}]
_CONVERSATIONS = (
    [{"role": "user", "content": [{"type": "text", "text": "?"}]}],
    [{"role": "system", "content": "?"}, {"role": "user", "content": _MEDIA}],
    [{"role": "user", "content": "?"}],
)
# What templates call the argument: Qwen3.5's, GLM-4.5V's and most others; Kimi-K2.5's
_THINKING = ("enable_thinking", "thinking")
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@functools.cache
def check_template_ends(template: str) -> None:
    """Render short conversations in a process with limits of time and memory.

    transformers' sandbox stops what reaches out of a template, and neither loops nor strings that double.

    Raises:
        ConfigError: it takes more than 3 seconds, 1 GiB or 10 million characters.
    """
    renderings = [
        {"messages": messages, "add_generation_prompt": answering, **_TOKENS, **thinking}
        for messages in _CONVERSATIONS
        for answering in (False, True)
        for thinking in ({}, dict.fromkeys(_THINKING, True), dict.fromkeys(_THINKING, False))
    ]
    asked = json.dumps({"template": template, "renderings": renderings})
    try:
        # -P: the script's own folder holds modules of ours, which are not jinja2's.
        command = [sys.executable, "-P", str(_SCRIPT)]
        ended = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise _endless() from error
    # A signal is the kernel's.
    if ended.returncode == TOO_MUCH or ended.returncode < 0:
        raise _endless()
    if ended.returncode:
        raise ConfigError(f"The chat template cannot be tried out: {ended.stderr.strip().rpartition(chr(10))[2]}.")


def _endless() -> ConfigError:
    return ConfigError(
        "The chat template does not come to an end: to render a short prompt it takes more than 3 seconds or 1 GB. "
        "Is the checkpoint from somebody you trust? Fix: --processor BASE_MODEL, or mend the template."
    )


def render_template(
    renderer: Any,  # noqa: ANN401  # untyped in transformers
    chat_template: str | None,
    messages: list[dict[str, Any]],
    thinking: Thinking,
) -> str:
    """The chat template filled in, and the assistant's turn opened.

    Args:
        renderer: a transformers processor or tokenizer.
        chat_template: the template.
        messages: of the conversation.
        thinking: on or off is passed on under the name that the template has for it; auto passes nothing.

    Raises:
        ConfigError: the prompt is the same with on and with off.
    """
    options = {"chat_template": chat_template, "tokenize": False, "add_generation_prompt": True}
    text: str = renderer.apply_chat_template(messages, **options, **_thinking_arguments(chat_template, thinking))
    if thinking == "auto":
        return text
    other: Thinking = "off" if thinking == "on" else "on"
    if text == renderer.apply_chat_template(messages, **options, **_thinking_arguments(chat_template, other)):
        raise ConfigError(
            f"--thinking {thinking} cannot be: the chat template makes the same prompt with on and with off, so that "
            f"it decides itself. Fix: leave out --thinking, or --processor of a model whose template reads "
            f"{_THINKING[0]}."
        )
    return text


def _thinking_arguments(chat_template: str | None, thinking: Thinking) -> dict[str, bool]:
    """Only names that stand in the template: transformers' processors take others for settings of theirs."""
    names = [name for name in _THINKING if re.search(rf"\b{name}\b", str(chat_template))]
    return {} if thinking == "auto" else dict.fromkeys(names, thinking == "on")


def opened_by_template(renderer: Any, chat_template: str | None, thinking: Thinking = "auto") -> str:  # noqa: ANN401
    """The tag that a template opens in the assistant's turn and leaves open, e.g. "<think>\\n"; else empty.

    Arguments as of render_template. Raises ConfigError if the template cannot render or does not open the turn.
    """
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    options = {"chat_template": chat_template, "tokenize": False} | _thinking_arguments(chat_template, thinking)
    try:
        asked, answering = (
            renderer.apply_chat_template(messages, add_generation_prompt=generation, **options)
            for generation in (False, True)
        )
    # Templates are programs, and raise what they like.
    except Exception as error:
        raise ConfigError(f"The chat template cannot render: {error}. Fix: --processor BASE_MODEL.") from error
    if answering == asked:
        raise ConfigError(
            "The chat template does not open the assistant's turn (add_generation_prompt). Fix: --processor BASE_MODEL."
        )
    turn: str = answering[len(asked) :] if answering.startswith(asked) else answering.rpartition("?")[2]
    for tag in ("think", "answer"):
        place = turn.rfind(f"<{tag}>")
        if place >= 0 and f"</{tag}>" not in turn[place:]:
            return turn[place:]
    return ""
