"""A backend that answers from a script: for tests, tutorials, and trying the pipeline without a model.

Script file (JSON): {"default": TEXT, "answers": {QUESTION_ID: TEXT or {"failure": MESSAGE}}, "seconds": 0.0}
`default` is given to every question that `answers` does not name; `seconds` is the time one answer takes. A list in the
place of a TEXT has an answer for each seed: with seed s its (s mod its length)-th.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypedDict

from seedbench_r1.backends.base import Result, draws
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import model_name
from seedbench_r1.questions import file_sha256
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import Failure, Generation, ModelInfo, Request, SamplingConfig

# Tests pass a function of their own; the command line reads a script file.
Answer = Callable[[Request, int], str | Failure]


Scripted = str | dict[str, str]  # a text, or {"failure": MESSAGE}


class Script(TypedDict, total=False):
    """The script file."""

    default: Scripted | list[Scripted]
    answers: dict[str, Scripted | list[Scripted]]
    seconds: float


class FakeBackend:
    """Gives `answer(request, seed + k)` as the k-th generation. One word of a text counts as one token."""

    def __init__(self, answer: Answer, *, seconds: float = 0.0) -> None:
        self._answer = answer
        self._seconds = seconds

    @classmethod
    def from_file(cls, path: Path) -> FakeBackend:
        """Read a script file. Raises ConfigError if it is absent or not of the form above."""
        script = read_script(path)
        default, answers = script.get("default", ""), script.get("answers", {})

        def answer(request: Request, number: int) -> str | Failure:
            scripted = answers.get(request.question_id, default)
            if isinstance(scripted, list):
                scripted = scripted[number % len(scripted)]
            if isinstance(scripted, str):
                return scripted
            return Failure("backend_error", str(scripted["failure"]))

        return cls(answer, seconds=float(script.get("seconds", 0.0)))

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        """One request at a time, in their order."""
        for request in requests:
            for result_id, seed, k in draws(request, sampling):
                start = time.perf_counter()
                # Stands for a slow model when progress, signals or concurrency are tried.
                if self._seconds:
                    time.sleep(self._seconds)
                scripted = self._answer(request, seed + k)
                if isinstance(scripted, Failure):
                    yield result_id, scripted
                else:
                    yield result_id, _generation(request, scripted, sampling, time.perf_counter() - start)

    def close(self) -> None:
        """Nothing is held."""


def script_info(path: Path) -> ModelInfo:
    """What stands for a model. Raises ConfigError if there is no such file."""
    if not path.is_file():
        raise ConfigError(f"The fake backend answers from a script file; there is none at {path}.")
    return ModelInfo(str(path), f"fake-{model_name(path.stem)}", file_sha256(path)[:16])


def read_script(path: Path) -> Script:
    """The script file's object. Raises ConfigError."""
    try:
        script: Script = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Script for the fake backend {path} cannot be read: {error}.") from error
    # A misspelt key would silently be the default answer for every question.
    unknown = set(script) - {"default", "answers", "seconds"} if isinstance(script, dict) else {"(not an object)"}
    if unknown:
        raise ConfigError(f"Script for the fake backend {path}: unknown {', '.join(sorted(unknown))}.")
    return script


def _generation(request: Request, text: str, sampling: SamplingConfig, latency_s: float) -> Generation:
    # Split at single spaces, so that joining gives the text back unchanged.
    words = text.split(" ")
    cut = len(words) > sampling.max_new_tokens
    kept = words[: sampling.max_new_tokens]
    # Media count as no tokens here.
    prompt = " ".join(part.get("text", "") for message in request.messages for part in message["content"])
    return Generation(
        text=" ".join(kept),
        token_ids=tuple(range(len(kept))),
        finish_reason="length" if cut else "stop",
        n_prompt_tokens=len(prompt.split()),
        n_tokens=len(kept),
        latency_s=latency_s,
        logprobs=(0.0,) * len(kept) if sampling.logprobs else None,
    )
